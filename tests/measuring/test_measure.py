"""What a block of Python moved, compared with what its ends counted, to the byte."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, require

import hogpipe
from hogpipe.measuring.results import Totals, Traffic

LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = pytest.mark.parametrize("family", LOCALHOST)
SIZES = (1, 1447, 100_001, 3_000_017)


@pytest.fixture(scope="module")
def measuring() -> Iterator[hogpipe.Watch]:
    """One measurement, which each test restarts."""
    require_bpf()
    with hogpipe.measure(source="ebpf") as watch:
        yield watch


@pytest.fixture
def moved(measuring: hogpipe.Watch) -> Callable[[], Traffic]:
    """Begin to measure, and return what reads the measurement."""
    measuring.restart()
    return measuring.read


def serve(listener: socket.socket, answer: bytes = b"") -> "threading.Thread":
    """Read one connection to its end, answer, and close it; the thread's `got` has the bytes."""

    def run() -> None:
        served, _ = listener.accept()
        with served:
            while data := served.recv(1 << 16):
                thread.got += len(data)  # type: ignore[attr-defined]
            served.sendall(answer)

    thread = threading.Thread(target=run)
    thread.got = 0  # type: ignore[attr-defined]
    thread.start()
    return thread


def read_all(one: socket.socket) -> int:
    got = 0
    while data := one.recv(1 << 16):
        got += len(data)
    return got


def find(traffic: Traffic, port: int) -> tuple[Totals, Totals]:
    """Return what the client of a port moved, and its server: both are in this process."""
    clients = [one.totals for one in traffic.peers if one.port == port]
    servers = [one.totals for one in traffic.peers if one.local_port == port]
    return sum(clients, Totals()), sum(servers, Totals())


def payload(totals: Totals) -> tuple[int | None, int | None]:
    return totals.transmit_payload_bytes, totals.receive_payload_bytes


@FAMILIES
@pytest.mark.parametrize("size", SIZES)
def test_connections_count_to_the_byte(
    family: socket.AddressFamily, size: int, moved: Callable[[], Traffic]
) -> None:
    with socket.create_server((LOCALHOST[family], 0), family=family) as listener:
        server, port = serve(listener, b"y" * 4321), listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()[:2]) as client:
            client.sendall(b"x" * size)
            client.shutdown(socket.SHUT_WR)
            got = read_all(client)
        server.join()
    traffic = moved()
    client_side, server_side = find(traffic, port)
    assert (server.got, got) == (size, 4321)  # type: ignore[attr-defined]
    assert payload(client_side) == (server.got, got)  # type: ignore[attr-defined]
    assert payload(server_side) == (got, server.got)  # type: ignore[attr-defined]
    assert client_side.transmit_bytes > size
    assert traffic.losses == hogpipe.Losses()
    # Handshakes pass the listening socket.
    assert set(traffic.quality) == {"exact", "listener"}
    assert sum(traffic.quality.values()) == traffic.totals.bytes


@FAMILIES
@pytest.mark.parametrize("connects", [False, True])
def test_datagrams_count_to_the_byte(
    family: socket.AddressFamily, connects: bool, moved: Callable[[], Traffic]
) -> None:
    host, got = LOCALHOST[family], 0
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            if connects:
                client.connect(server.getsockname())
            for size in (0, 1, 1000, 9000, 60_000):
                if connects:
                    client.send(b"x" * size)
                else:
                    client.sendto(b"x" * size, server.getsockname())
                data, sender = server.recvfrom(1 << 16)
                got += len(data)
            server.sendto(b"y" * 77, sender)
            answer = len(client.recv(1 << 16))
    traffic = moved()
    assert (got, answer) == (70_001, 77)
    assert payload(traffic.totals) == (got + answer, got + answer)
    assert {one.protocol for one in traffic.peers} == {"udp"}


def test_threads_count(moved: Callable[[], Traffic]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        servers = [serve(listener) for _ in range(8)]

        def send(size: int) -> None:
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"x" * size)
                client.shutdown(socket.SHUT_WR)
                read_all(client)

        senders = [threading.Thread(target=send, args=(10_000 + n,)) for n in range(8)]
        for thread in senders:
            thread.start()
        for thread in (*senders, *servers):
            thread.join()
    got = sum(server.got for server in servers)  # type: ignore[attr-defined]
    assert got == 80_028
    assert payload(moved().totals) == (got, got)


def test_children_count_however_short_they_live(moved: Callable[[], Traffic]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        got = 0
        for number in range(50):
            child = os.fork()
            if child == 0:
                if number % 2 and os.fork():  # a grandchild sends, whose parent exits first
                    os._exit(0)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x" * (number + 1), server.getsockname())
                os._exit(0)
            got += len(server.recv(100))
            os.waitpid(child, 0)
    assert payload(moved().totals) == (got, got) == (1275, 1275)


def test_a_command_counts(moved: Callable[[], Traffic]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = serve(listener, b"y" * 5)
        port = listener.getsockname()[1]
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -c 70000 /dev/zero >&3; true"
        subprocess.run(["bash", "-c", script], check=True)
        server.join()
    client_side, server_side = find(moved(), port)
    assert client_side.transmit_payload_bytes == server_side.receive_payload_bytes == 70_000


def test_sendfile_counts(tmp_path: Path, moved: Callable[[], Traffic]) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2_000_003))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = serve(listener)
        with socket.create_connection(listener.getsockname()) as client, file.open("rb") as source:
            client.sendfile(source)
            client.shutdown(socket.SHUT_WR)
            read_all(client)
        server.join()
    assert payload(moved().totals) == (2_000_003, 2_000_003)


def test_only_the_block_counts_of_a_connection_that_is_older_and_outlives_it() -> None:
    require_bpf()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as served,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        datagrams.connect(datagrams.getsockname())
        exchange(client, served, 11_111)
        for size in (1, 22_222):
            with hogpipe.measure() as measured:
                exchange(client, served, size)
                datagrams.send(b"z" * 10)
            assert payload(measured.totals) == (size + 10, size + 10)
            exchange(client, served, 33_333)


def exchange(client: socket.socket, served: socket.socket, size: int) -> None:
    client.sendall(b"x" * size)
    left = size
    while left:
        left -= len(served.recv(left))


def test_a_connection_to_a_listener_that_is_older_counts() -> None:
    require_bpf()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with hogpipe.measure() as measured:
            client = socket.create_connection(listener.getsockname())
            served, _ = listener.accept()
            exchange(client, served, 5000)
        for one in (client, served):
            one.close()
    assert payload(measured.totals) == (5000, 5000)


def test_what_no_process_has_read_yet_counts(moved: Callable[[], Traffic]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as served,
    ):
        client.sendall(b"x" * 3000)
        served.recv(3000, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert payload(moved().totals) == (3000, 3000)


def test_a_byte_counts_once_though_packets_are_lost(
    netns: Namespace, moved: Callable[[], Traffic]
) -> None:
    require("nft")
    rules = (
        "table inet t { chain c { type filter hook input priority 0; numgen inc mod 9 0 drop; }; }"
    )
    subprocess.run(netns.command("nft", rules), check=True)
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        server = serve(listener, b"y" * 300_003)
        address = listener.getsockname()
        with netns.call(lambda: socket.create_connection(address)) as client:
            client.sendall(b"x" * 700_001)
            client.shutdown(socket.SHUT_WR)
            got = read_all(client)
        server.join()
    traffic = moved()
    assert got == 300_003
    assert payload(traffic.totals) == (1_000_004, 1_000_004)
    assert traffic.totals.transmit_bytes > traffic.totals.receive_bytes


def test_measurements_nest_and_overlap() -> None:
    require_bpf()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        hogpipe.measure() as outer,
    ):
        client.sendto(b"x" * 10, ("127.0.0.1", 9))
        with hogpipe.measure() as inner:
            client.sendto(b"x" * 200, ("127.0.0.1", 9))
        client.sendto(b"x" * 3000, ("127.0.0.1", 9))
    assert inner.totals.transmit_payload_bytes == 200
    assert outer.totals.transmit_payload_bytes == 3210


async def test_measurements_work_inside_a_running_event_loop() -> None:
    require_bpf()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        async with hogpipe.measure() as awaited:
            with hogpipe.measure() as plain:
                client.sendto(b"x" * 10, ("127.0.0.1", 9))
            assert (await awaited.read_async()).totals.transmit_payload_bytes == 10
            client.sendto(b"x" * 10, ("127.0.0.1", 9))
    assert plain.totals.transmit_payload_bytes == 10
    assert awaited.totals.transmit_payload_bytes == 20


async def test_a_measurement_whose_begin_is_cancelled_leaves_nothing_behind(root: None) -> None:
    del root
    measured, before = hogpipe.measure(), set(threading.enumerate())

    async def enter() -> None:
        async with measured:
            pytest.fail("it was entered")

    task = asyncio.create_task(enter())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError):
        measured.read()
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert not names & {"measuring", "forks"}


def test_a_child_leaves_the_block_of_its_parent_without_an_effect() -> None:
    require_bpf()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        hogpipe.measure() as measured,
    ):
        child = os.fork()
        if child == 0:
            measured.__exit__(None, None, None)
            try:
                measured.read()
            except RuntimeError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.sendto(b"x" * 10, ("127.0.0.1", 9))
    assert measured.totals.transmit_payload_bytes == 10


def test_an_error_in_the_block_passes_and_what_was_moved_is_known() -> None:
    require_bpf()
    measured = hogpipe.measure()

    def fail() -> None:
        with measured, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x" * 10, ("127.0.0.1", 9))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert measured.totals.transmit_payload_bytes == 10


def test_a_measurement_is_entered_once_and_read_inside() -> None:
    require_bpf()
    measured = hogpipe.measure()
    with pytest.raises(RuntimeError, match="nothing was read yet"):
        measured.totals  # noqa: B018 - it raises
    with measured:
        pass
    for outside in (measured.read, measured.restart, measured.__enter__):
        with pytest.raises(RuntimeError):
            outside()


def test_without_privileges_the_error_names_the_remedy(root: None) -> None:
    del root
    program = (
        "import hogpipe\n"
        "try: hogpipe.measure().__enter__()\n"
        "except hogpipe.NotPermittedError as error: print(error, error.exit_code)\n"
    )
    command = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    done = subprocess.run(
        [*command, sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "eBPF: " in done.stdout
    assert "CAP_NET_RAW" in done.stdout
    assert done.stdout.endswith(" 77\n")
