"""Traffic of processes in other network namespaces, as containers have them, held against tcpdump.

`host` is a namespace that plays the host: hogpipe runs in it. Guests are further ones.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import Namespace, namespace, require
from support.running import (
    Running,
    assert_conserved,
    hogpipe,
    peer,
    read_records,
    running,
    tcpdump,
    traffic_of,
    write_config,
)
from support.wire import Moved, count, read_packets, told_of

SIZE = "300000"
TAIL = 0.3  # seconds for the last packets to pass before the captures are ended
IN_SIGHT = "network namespaces at captured interfaces: "

pytestmark = pytest.mark.usefixtures("_programs")


@pytest.fixture
def _programs() -> None:
    require("ip", "tcpdump")


@contextmanager
def inhabited(*guests: Namespace) -> Iterator[None]:
    """Have a process in each guest, as a container has: an empty one is known only when sought."""
    with ExitStack() as stack:
        for guest in guests:
            stack.enter_context(running(guest, "sleep", "60"))
        yield


@contextmanager
def bridged(guests: int, *, empty: bool = False) -> Iterator[tuple[Namespace, list[Namespace]]]:
    """Make a host with a bridge br0, and guests whose veths are its ports: port0, port1, …

    As a container has, each guest has a process before it has an interface, if not `empty`.
    """
    with ExitStack() as stack:
        host = stack.enter_context(namespace())
        host.ip("link", "add", "br0", "type", "bridge")
        host.ip("address", "add", "10.88.0.1/24", "dev", "br0")
        host.ip("address", "add", "fd88::1/64", "dev", "br0", "nodad")
        host.ip("link", "set", "br0", "up")
        made = [stack.enter_context(namespace()) for _ in range(guests)]
        if not empty:
            stack.enter_context(inhabited(*made))
        for number, guest in enumerate(made):
            plug_in(host, guest, number)
        yield host, made


def plug_in(host: Namespace, guest: Namespace, number: int) -> None:
    join(host, guest, f"port{number}", f"10.88.0.{number + 2}/24", f"fd88::{number + 2}/64")
    host.ip("link", "set", f"port{number}", "master", "br0")


def join(host: Namespace, guest: Namespace, port: str, *addresses: str) -> None:
    """Give a guest an eth0 with these addresses, whose other end is `port` of the host."""
    host.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", guest.name)
    for address in addresses:
        guest.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    guest.ip("link", "set", "eth0", "up")
    host.ip("link", "set", port, "up")


def address(number: int) -> tuple[str, str]:
    return f"10.88.0.{number + 2}", f"fd88::{number + 2}"


HOST = ("10.88.0.1", "fd88::1")


def config(folder: Path, *interfaces: str, more: str = "") -> Path:
    return write_config(
        folder,
        f"""
        [capture]
        interfaces = {json.dumps(interfaces)}
        {more}
        [aggregation]
        interval = 0.5
        group_by = ["process", "interface"]
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


@contextmanager
def capturing(
    folder: Path,
    host: Namespace,
    on: Sequence[str],
    interfaces: Sequence[str],
    ledger: str = "off",
) -> Iterator[Running]:
    """Run hogpipe on `interfaces`, and tcpdump on each of `on` to hold it against."""
    with ExitStack() as stack:
        dumps = [stack.enter_context(tcpdump(host, name, folder / f"{name}.pcap")) for name in on]
        words = ("-v", "run", config(folder, *interfaces), "--set", f"attribution.ledger={ledger}")
        run = stack.enter_context(hogpipe(host, *words))
        run.wait_for_each(*(f"capturing on {name}$" for name in on))
        yield run
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
        for dump in dumps:
            dump.end()


def talk(client: Namespace, server: dict[str, Any]) -> Any:
    return peer(client, "talk", SIZE, json.dumps(server["servers"]))


def records_of(folder: Path) -> list[dict[str, Any]]:
    records = read_records(folder / "records.jsonl")
    assert_conserved(records)
    return records


def assert_moved(
    folder: Path, records: Sequence[dict[str, Any]], interface: str, process: dict[str, Any]
) -> None:
    """Compare what a process is told to have moved with what passed an interface."""
    truth = count(list(read_packets(folder / f"{interface}.pcap")), process["ports"])
    assert truth.transmit_bytes > int(SIZE)
    assert told_of(records, process["pid"]) == truth
    assert places_of(records, process["pid"]) == {interface}


def places_of(records: Sequence[dict[str, Any]], pid: int) -> set[str]:
    return {
        record["network"]["interface"]["name"]
        for record in traffic_of(records)
        if record.get("process", {}).get("pid") == pid
    }


def test_a_guest_and_the_host_talk_over_a_bridge_and_each_has_its_bytes(tmp_path: Path) -> None:
    with (
        bridged(1) as (host, (guest,)),
        capturing(tmp_path, host, ["br0", "port0"], ["auto"]),
        peer(guest, "serve", *address(0)) as far_server,
        peer(host, "serve", *HOST) as near_server,
        talk(host, far_server) as near_client,
        talk(guest, near_server) as far_client,
    ):
        time.sleep(TAIL)
    records = records_of(tmp_path)
    for process in (far_server, far_client):
        assert_moved(tmp_path, records, "port0", process)
    for process in (near_server, near_client):
        assert_moved(tmp_path, records, "br0", process)


def test_on_a_bridge_that_is_named_both_sides_of_a_packet_count(tmp_path: Path) -> None:
    with (
        bridged(1) as (host, (guest,)),
        capturing(tmp_path, host, ["br0"], ["br0"]),
        peer(guest, "serve", *address(0)) as server,
        talk(host, server) as client,
    ):
        time.sleep(TAIL)
    records = records_of(tmp_path)
    for process in (server, client):
        assert_moved(tmp_path, records, "br0", process)


def test_on_the_hosts_end_of_a_veth_both_sides_of_a_packet_count(
    guest_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    host, guest = guest_veth
    with (
        inhabited(guest),
        capturing(tmp_path, host, ["left"], ["auto"]),
        peer(guest, "serve", "10.77.0.2", "fd77::2") as server,
        talk(host, server) as client,
    ):
        time.sleep(TAIL)
    records = records_of(tmp_path)
    for process in (server, client):
        assert_moved(tmp_path, records, "left", process)


def test_two_guests_of_a_bridge_have_each_its_bytes_at_its_own_port(tmp_path: Path) -> None:
    with (
        bridged(2) as (host, (one, other)),
        capturing(tmp_path, host, ["port0", "port1"], ["auto"]),
        peer(one, "serve", *address(0)) as server,
        talk(other, server) as client,
    ):
        time.sleep(TAIL)
    records = records_of(tmp_path)
    assert_moved(tmp_path, records, "port0", server)
    assert_moved(tmp_path, records, "port1", client)


def test_a_routed_packet_counts_at_its_guest_and_not_on_its_way(tmp_path: Path) -> None:
    with namespace() as host, namespace() as guest, namespace() as outside:
        join(host, guest, "port0", "10.88.0.2/24")
        join(host, outside, "uplink0", "10.89.0.2/24")
        host.ip("address", "add", "10.88.0.1/24", "dev", "port0")
        host.ip("address", "add", "10.89.0.1/24", "dev", "uplink0")
        guest.ip("route", "add", "default", "via", "10.88.0.1")
        outside.ip("route", "add", "default", "via", "10.89.0.1")
        host.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        with (
            inhabited(guest, outside),
            capturing(tmp_path, host, ["port0", "uplink0"], ["auto"]),
            peer(guest, "serve", "10.88.0.2") as server,
            talk(outside, server) as client,
        ):
            time.sleep(TAIL)
    records = records_of(tmp_path)
    assert_moved(tmp_path, records, "port0", server)
    assert_moved(tmp_path, records, "uplink0", client)


def test_guests_that_come_and_leave_during_a_run_are_followed(tmp_path: Path) -> None:
    with bridged(1) as (host, (first,)):
        dump_path = tmp_path / "port1.pcap"
        with capturing(tmp_path, host, ["port0"], ["auto"]) as run, ExitStack() as stack:
            with (
                peer(first, "serve", *address(0)) as first_server,
                talk(host, first_server),
                namespace() as second,
            ):
                # As a container does: there is a process before there is an interface.
                stack_of_second = stack.enter_context(ExitStack())
                stack_of_second.enter_context(running(second, "sleep", "60"))
                plug_in(host, second, 1)
                run.wait_for("capturing on port1")
                with (
                    tcpdump(host, "port1", dump_path) as dump,
                    peer(second, "serve", *address(1)) as second_server,
                    talk(first, second_server) as first_client,
                ):
                    time.sleep(TAIL)
                dump.end()
                stack_of_second.close()
            run.wait_for("port1.*(gone|comes up again)")
            with (
                peer(first, "serve", *address(0)) as third_server,
                talk(host, third_server),
            ):
                time.sleep(TAIL)
    records = records_of(tmp_path)
    assert_moved(tmp_path, records, "port1", second_server)
    for process in (first_server, first_client, third_server):
        assert_moved(tmp_path, records, "port0", process)


def test_a_process_that_enters_a_namespace_that_was_there_is_seen_from_its_first_packet(
    tmp_path: Path,
) -> None:
    with (
        bridged(1, empty=True) as (host, (guest,)),
        capturing(tmp_path, host, ["port0"], ["port0"]) as run,
    ):
        for _ in range(2):
            with peer(host, "serve", *HOST) as near, talk(guest, near) as far:
                time.sleep(TAIL)
        assert any(IN_SIGHT + "1" in line for line in run.errors)
    assert_moved(tmp_path, records_of(tmp_path), "port0", far)


SEND = """
import socket, sys, time
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("10.99.0.2", 4000))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    made.sendto(bytes(int(sys.argv[1])), ("10.99.0.1", 5000))
    time.sleep(0.05)
sys.stdin.read()
"""
DATAGRAMS, HEADERS = 10, 28


@contextmanager
def sender(where: Namespace, size: int) -> Iterator[int]:
    """Send datagrams of `size` bytes from 10.99.0.2:4000; gives the process's id."""
    words = (sys.executable, "-c", SEND, str(size))
    with running(where, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        assert run.process.stdin is not None
        assert run.process.stdout.readline() == "ready\n"
        run.process.stdin.write("\n")
        run.process.stdin.flush()
        yield run.process.pid
        run.process.stdin.close()
        assert run.wait() == 0, run.errors


def assert_ten_datagrams_passed(folder: Path, interface: str, size: int) -> None:
    packets = [one for one in read_packets(folder / f"{interface}.pcap") if one.protocol == 17]
    assert [one.size for one in packets].count(size + HEADERS) == DATAGRAMS


def test_equal_addresses_behind_two_veths_are_told_apart(tmp_path: Path) -> None:
    with namespace() as host, namespace() as red, namespace() as blue:
        for guest, port in ((red, "red0"), (blue, "blue0")):
            join(host, guest, port, "10.99.0.2/24")
        host.ip("address", "add", "10.99.0.1/24", "dev", "red0")
        host.ip("address", "add", "10.99.0.1/24", "dev", "blue0")
        with (
            inhabited(red, blue),
            capturing(tmp_path, host, ["red0", "blue0"], ["red0", "blue0"]),
            sender(red, 100) as red_pid,
            sender(blue, 300) as blue_pid,
        ):
            time.sleep(1.0)
    records = records_of(tmp_path)
    assert_ten_datagrams_passed(tmp_path, "red0", 100)
    assert_ten_datagrams_passed(tmp_path, "blue0", 300)
    assert told_of(records, red_pid) == Moved(1280, 10, 0, 0)
    assert told_of(records, blue_pid) == Moved(3280, 10, 0, 0)


@pytest.mark.parametrize("ledger", ["off", "auto"])
def test_equal_addresses_behind_one_bridge_have_an_owner_only_where_the_kernel_tells_sockets(
    tmp_path: Path, ledger: str
) -> None:
    with bridged(2) as (host, (red, blue)):
        host.ip("address", "add", "10.99.0.1/24", "dev", "br0")
        for guest in (red, blue):
            guest.ip("address", "add", "10.99.0.2/24", "dev", "eth0")
        with (
            capturing(tmp_path, host, ["br0"], ["br0"], ledger) as run,
            sender(red, 100) as pid,
        ):
            time.sleep(1.0)
            assert any(IN_SIGHT + "2" in line for line in run.errors)
    records = records_of(tmp_path)
    assert_ten_datagrams_passed(tmp_path, "br0", 100)
    if ledger == "auto":  # of both namespaces it knows the only socket with that port
        assert told_of(records, pid) == Moved(1280, 10, 0, 0)
        return
    assert told_of(records, pid) == Moved(0, 0, 0, 0)
    nobodys = [record for record in traffic_of(records) if "process" not in record]
    sent = [record["network"]["io"]["transmit"]["packets"] for record in nobodys]
    assert sum(sent) >= DATAGRAMS


def test_without_the_right_to_look_into_processes_a_guest_is_elsewhere(tmp_path: Path) -> None:
    require("setpriv")
    only_net_raw = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")
    path = config(tmp_path, "port0")
    with (
        bridged(1) as (host, (guest,)),
        running(host, *only_net_raw, sys.executable, "-m", "hogpipe", "-v", "run", path) as run,
    ):
        run.wait_for("capturing on")
        with peer(guest, "serve", *address(0)) as server, talk(host, server):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
    assert told_of(records_of(tmp_path), server["pid"]) == Moved(0, 0, 0, 0)
    assert not any(IN_SIGHT in line for line in run.errors)


@contextmanager
def hogpipe_in_a_container(guest: Namespace, folder: Path, path: Path) -> Iterator[Running]:
    """Run hogpipe in a guest with pids of its own; the host's /proc is in `folder`."""
    script = (
        f"mount --make-rprivate / && mount --rbind /proc {folder} && mount -t proc proc /proc"
        f" && exec {sys.executable} -m hogpipe -v run {path}"
    )
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount")
    with running(guest, *unshare, "sh", "-c", script) as run:
        run.wait_for("capturing on eth0")
        yield run
        time.sleep(TAIL)
        parent = run.process.pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(child), signal.SIGINT)
        assert run.wait() == 0, run.errors


def test_in_a_container_with_the_hosts_proc_the_host_is_what_the_interface_faces(
    tmp_path: Path,
) -> None:
    require("unshare", "mount")
    folder = tmp_path / "host"
    folder.mkdir()
    path = config(tmp_path, "eth0", more=f'[attribution]\nprocfs = "{folder}"')
    with bridged(1) as (host, (guest,)), tcpdump(guest, "eth0", tmp_path / "eth0.pcap") as dump:
        with (
            hogpipe_in_a_container(guest, folder, path),
            peer(host, "serve", *HOST) as server,
            talk(guest, server) as client,
        ):
            time.sleep(TAIL)
        dump.end()
    records = records_of(tmp_path)
    assert_moved(tmp_path, records, "eth0", client)
    assert_moved(tmp_path, records, "eth0", server)


def test_in_a_container_with_its_own_proc_others_are_elsewhere(tmp_path: Path) -> None:
    require("unshare", "mount")
    folder = tmp_path / "host"
    folder.mkdir()
    with (
        bridged(1) as (host, (guest,)),
        hogpipe_in_a_container(guest, folder, config(tmp_path, "eth0")) as run,
        peer(host, "serve", *HOST) as server,
        talk(guest, server),
    ):
        time.sleep(TAIL)
    assert not any(IN_SIGHT in line for line in run.errors)
    assert told_of(records_of(tmp_path), server["pid"]) == Moved(0, 0, 0, 0)
