"""Sockets opened before the ledger: read from the kernel's tables, and attributed from then on.

Servers run in a network namespace of their own and have exited when their flows are looked up.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.resolving import attribute
from support.sockets import TCP, UDP, make_flow

from hogpipe.attribution.ledger import socket_snapshot
from hogpipe.attribution.ledger.flow_lookup import FlowLookup
from hogpipe.attribution.ledger.ledger_resolver import LedgerResolver
from hogpipe.attribution.ledger.socket_ledger import open_ledger
from hogpipe.attribution.ledger.socket_snapshot import (
    DumpedSocket,
    SnapshotTaker,
    read_sockets,
    with_owners,
)
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.model import FlowKey, Process, Quality, SocketOwner

PROCFS = Path("/proc")
PORT = 900
HERE = ("127.0.0.1", PORT)
MAX_SOCKETS = 32_768
ON_LOOPBACK = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::")]

# Forks `workers` times, then answers on TCP and UDP with its pid.
SERVER = """
import os, selectors, signal, socket, sys
host, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((host, port))
def serve():
    selector = selectors.DefaultSelector()
    for one in (listener, datagrams):
        one.setblocking(False)
        selector.register(one, selectors.EVENT_READ)
    held = []
    while True:
        for key, _ in selector.select():
            try:
                if key.fileobj is listener:
                    held.append(listener.accept()[0])
                    held[-1].send(b"%d" % os.getpid())
                else:
                    datagrams.sendto(b"%d" % os.getpid(), datagrams.recvfrom(100)[1])
            except BlockingIOError:
                pass
for _ in range(workers):
    if os.fork() == 0:
        serve()
print("ready", flush=True)
if workers:
    signal.pause()
serve()
"""


class Server:
    """A server in a network namespace; `kill` ends its workers, too."""

    def __init__(self, netns: Namespace, host: str = "127.0.0.1", workers: int = 0) -> None:
        self.process = netns.popen(
            *(sys.executable, "-c", SERVER, host, str(PORT), str(workers)),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def kill(self) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def start(netns: Namespace) -> Iterator[Callable[..., Server]]:
    require_bpf()
    started: list[Server] = []

    def begin(host: str = "127.0.0.1", workers: int = 0) -> Server:
        started.append(Server(netns, host, workers))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


@pytest.fixture
def stale() -> StaleFlows:
    """Return the flows that the ledgers of this test invalidate."""
    return StaleFlows()


@pytest.fixture
def opened(stale: StaleFlows) -> Iterator[Callable[[], LedgerResolver]]:
    """Return how to open and prepare a resolver with a ledger that adds to `stale`."""
    made: list[LedgerResolver] = []

    def begin() -> LedgerResolver:
        made.append(
            LedgerResolver(
                ProcfsResolver(PROCFS),
                PROCFS,
                required=True,
                open_ledger=partial(open_ledger, stale=stale),
            )
        )
        made[-1].prepare()
        return made[-1]

    yield begin
    for one in made:
        one.close()


def inside(netns: Namespace, flow: FlowKey) -> FlowKey:
    namespace = Path(f"/run/netns/{netns.name}").stat().st_ino
    return FlowKey(*(getattr(flow, name) for name in flow.__struct_fields__[:-1]), namespace)


def connect(netns: Namespace, host: str) -> tuple[socket.socket, int]:
    """Connect to the server; return the client's end and the pid that answered."""
    client = netns.call(lambda: socket.create_connection((host, PORT), timeout=10))
    return client, int(client.recv(100))


def exchange(netns: Namespace, host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = netns.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    client.settimeout(10)
    client.sendto(b"x", (host, PORT))
    client.recv(100)
    return client


def owner(resolver: LedgerResolver, netns: Namespace, flow: FlowKey) -> tuple[Quality, int | None]:
    answer = attribute(resolver, [inside(netns, flow)])[inside(netns, flow)]
    return answer.quality, None if answer.process is None else answer.process.pid


@pytest.mark.parametrize(("address", "host"), ON_LOOPBACK, ids=["ipv4", "ipv6", "dual-stack"])
def test_an_exited_server_keeps_the_flows_of_sockets_opened_before_the_ledger(
    netns: Namespace,
    start: Callable[..., Server],
    opened: Callable[[], LedgerResolver],
    address: str,
    host: str,
) -> None:
    server = start(host)
    place = (address, PORT)
    with ExitStack() as stack:
        early = stack.enter_context(connect(netns, address)[0])
        resolver = opened()
        late = stack.enter_context(connect(netns, address)[0])
        datagrams = stack.enter_context(exchange(netns, address))
        ends = [(address, one.getsockname()[1]) for one in (early, late, datagrams)]
        server.kill()
    assert owner(resolver, netns, make_flow(TCP, place, ends[0])) == (Quality.EXACT, server.pid)
    assert owner(resolver, netns, make_flow(TCP, place, ends[1])) == (Quality.EXACT, server.pid)
    quality, pid = owner(resolver, netns, make_flow(UDP, (address, PORT), ends[2]))
    assert pid == server.pid
    assert quality is not Quality.NONE


def test_an_open_connection_is_attributed_to_the_listener_of_the_snapshot(
    netns: Namespace, start: Callable[..., Server]
) -> None:
    server = start()
    ledger, namespaces = opened = open_ledger(PROCFS)
    try:
        SnapshotTaker(*opened, ProcfsResolver(PROCFS)).take_first(time.monotonic())
        with connect(netns, "127.0.0.1")[0] as client:
            flow = inside(netns, make_flow(TCP, HERE, client.getsockname()))
            lookup = FlowLookup(ledger, namespaces)
            entry = lookup.find({flow: ()}, time.monotonic()).entries[flow]
            assert (entry.quality, entry.owner.pid) == (Quality.LISTENER, server.pid)
            assert entry.owner.user_id == os.getuid()
            assert entry.owner.start is not None
    finally:
        ledger.close()


def test_workers_own_what_they_accept_and_datagrams_belong_to_who_bound_the_socket(
    netns: Namespace, start: Callable[..., Server], opened: Callable[[], LedgerResolver]
) -> None:
    server = start(workers=3)
    resolver = opened()
    with ExitStack() as stack:
        datagrams = [stack.enter_context(exchange(netns, "127.0.0.1")) for _ in range(20)]
        accepted = [connect(netns, "127.0.0.1") for _ in range(20)]
        ports = [one.getsockname()[1] for one in datagrams]
        flows = [make_flow(UDP, HERE, ("127.0.0.1", port)) for port in ports]
        connections = [
            (make_flow(TCP, HERE, stack.enter_context(one).getsockname()), worker)
            for one, worker in accepted
        ]
        assert {owner(resolver, netns, one) for one in flows} == {(Quality.LISTENER, server.pid)}
        server.kill()
    assert {owner(resolver, netns, one) for one in flows} == {(Quality.LISTENER, server.pid)}
    for flow, worker in connections:
        assert owner(resolver, netns, flow) == (Quality.EXACT, worker)


def test_a_second_server_on_the_port_gets_its_own_flows(
    netns: Namespace,
    start: Callable[..., Server],
    opened: Callable[[], LedgerResolver],
    stale: StaleFlows,
) -> None:
    first = start()
    resolver = opened()
    with exchange(netns, "127.0.0.1") as client:
        flow = make_flow(UDP, HERE, ("127.0.0.1", client.getsockname()[1]))
        assert owner(resolver, netns, flow)[1] == first.pid
        first.kill()
        second = start()
        assert inside(netns, flow) in stale.drain()
        client.sendto(b"x", HERE)
        assert int(client.recv(100)) == second.pid
        time.sleep(0.2)  # later than the release of the first socket
        assert owner(resolver, netns, flow)[1] == second.pid


def test_the_tables_and_the_events_use_the_same_cookie() -> None:
    so_cookie = 57  # include/uapi/asm-generic/socket.h
    with socket.create_server(("127.0.0.1", 0)) as ours:
        number = int.from_bytes(ours.getsockopt(socket.SOL_SOCKET, so_cookie, 8), sys.byteorder)
        seen = {
            one.cookie: one for one in read_sockets(NetworkNamespaces(PROCFS), 0.0, MAX_SOCKETS)
        }
        assert seen[number].inode == os.fstat(ours.fileno()).st_ino
        assert seen[number].namespace == read_own_cookie()


def test_the_number_of_sockets_is_bounded_and_datagram_sockets_come_first(
    start: Callable[..., Server],
) -> None:
    start()
    namespaces = NetworkNamespaces(PROCFS)
    for max_sockets in (0, 1, 3):
        assert len(read_sockets(namespaces, time.monotonic(), max_sockets)) == max_sockets
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        (first,) = read_sockets(namespaces, time.monotonic(), 1)
        assert first.protocol == UDP


def test_unconnected_sockets_come_first() -> None:
    one = DumpedSocket(1, 7, TCP, b"\x7f\0\0\1", 900, b"\x7f\0\0\2", 5, 0, 100)
    other = DumpedSocket(2, 7, TCP, b"\x7f\0\0\1", 900, bytes(4), 0, 0, 101)
    holders = {100: Process(pid=10, start=5, command="a", user_id=3), 101: Process(10, 5)}
    first, second = with_owners([one, other], holders)
    assert (first.cookie, second.cookie) == (2, 1)
    assert first.owner is second.owner
    assert first.owner == SocketOwner(10, 5, 0, "", 0)
    assert [one.owner for one in with_owners([one], {})] == [None]


def test_without_tables_of_the_kernel_owners_come_from_proc(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_table: str, _max_sockets: int) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(socket_snapshot, "read_full_dump", refuse)
    caplog.set_level("INFO")
    assert read_sockets(NetworkNamespaces(PROCFS), 0.0, MAX_SOCKETS) == []
    assert "come from /proc" in caplog.text


def test_sockets_without_a_holder_or_a_port_are_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        client_port, server_port = client.getsockname()[1], server.getsockname()[1]
        seen: list[DumpedSocket] = read_sockets(
            NetworkNamespaces(PROCFS), time.monotonic(), MAX_SOCKETS
        )
        client.close()
    connected = {(one.local_port, one.remote_port) for one in seen}
    assert (client_port, server_port) in connected
    assert (server_port, client_port) not in connected  # it is not accepted yet
    assert all(one.inode and one.local_port for one in seen)


# Connects a datagram socket, leaves it to a child, and exits.
DAEMON = """
import os, socket, sys
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.connect(("127.0.0.1", int(sys.argv[1])))
end.send(b"x")
if os.fork() == 0:
    print(os.getpid(), end.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_a_socket_inherited_by_a_child_belongs_to_the_child(
    netns: Namespace, opened: Callable[[], LedgerResolver]
) -> None:
    require_bpf()
    resolver = opened()
    daemon = netns.popen(
        *(sys.executable, "-c", DAEMON, str(PORT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    child, port = map(int, daemon.stdout.readline().split())
    try:
        daemon.wait()
        flow = make_flow(UDP, ("127.0.0.1", port), HERE)
        assert owner(resolver, netns, flow) == (Quality.EXACT, child)
    finally:
        daemon.communicate()
