"""The ledger on the running kernel: short exchanges of real processes, from both endpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bpf import (
    all_attached,
    attached_by,
    control_group,
    find_cgroup_root,
    nothing_stays_attached,
    require_bpf,
)
from support.namespaces import Namespace
from support.running import wait_until
from support.shortage import few_descriptors

from hogpipe.attribution.ledger import kernel_ledger
from hogpipe.attribution.ledger.kernel_ledger import KernelLedger, next_pause
from hogpipe.attribution.ledger.socket_events import EventBlock
from hogpipe.attribution.ledger.socket_snapshot import read_sockets, with_owners
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.bpf.obstacles import BpfUnavailableError
from hogpipe.linux.bpf.programs import attach_ledger_programs
from hogpipe.linux.clocks import read_boot_time
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.procfs import Procfs
from hogpipe.model import Contested, FlowKey, LedgerEntry, Quality, Span

TCP, UDP = 6, 17
PORT, EXCHANGES = 900, 200
HOUR_NS = 3600 * 1_000_000_000
SMALL_RING = 1 << 15  # bytes; too few for the events of so many exchanges
PART = 400  # events that are ingested at once
LOOPBACK = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")]

# A server of one socket and two workers that accept from it; each answer has the worker's pid.
SERVER = """
import os, signal, socket, sys
host = sys.argv[1]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server(
    (host, int(sys.argv[2])), family=family, backlog=1024, dualstack_ipv6=host == "::"
)
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((host, int(sys.argv[2])))
def accept():
    while True:
        connection, _ = listener.accept()
        connection.send(b"%d" % os.getpid())
        connection.close()
def answer():
    while True:
        _, peer = datagrams.recvfrom(100)
        datagrams.sendto(b"%d" % os.getpid(), peer)
workers = []
for work in (accept, accept, answer):
    pid = os.fork()
    if pid == 0:
        work()
    workers.append(pid)
print("ready", flush=True)
sys.stdin.read()
for pid in workers:
    os.kill(pid, signal.SIGKILL)
"""

# Prints its pid and, for each exchange, its local port and the pid that answered.
CLIENT = """
import json, os, socket, sys
host, port, kind, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
exchanges = []
for _ in range(count):
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as end:
        end.settimeout(10)
        if kind == "sendto":
            end.sendto(b"x", (host, port))
        else:
            end.connect((host, port))
        if kind == "connected":
            end.send(b"x")
        exchanges.append([end.getsockname()[1], int(end.recv(100))])
print(json.dumps([os.getpid(), exchanges]))
"""


class Server:
    """A server inside a namespace, with its clients."""

    def __init__(self, netns: Namespace, host: str) -> None:
        self._netns, self._host = netns, host
        bind = "::" if "." in host and ":" in host else host
        self._process = netns.popen(
            *(sys.executable, "-c", SERVER, bind, str(PORT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid

    def exchange(self, kind: str, clients: int = 3) -> list[tuple[int, int, int]]:
        """Return client pid, client port and worker pid of each exchange; ports are unique."""
        started = [
            self._netns.popen(
                *(sys.executable, "-c", CLIENT, self._host, str(PORT), kind, str(EXCHANGES)),
                stdout=subprocess.PIPE,
            )
            for _ in range(clients)
        ]
        printed = [json.loads(one.communicate()[0]) for one in started]
        found = [(pid, port, worker) for pid, ends in printed for port, worker in ends]
        uses = Counter(port for _, port, _ in found)
        return [one for one in found if uses[one[1]] == 1]

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(params=LOOPBACK, ids=["ipv4", "ipv6", "mapped"])
def server(request: Any, netns: Namespace, ledger: KernelLedger) -> Iterator[tuple[Server, str]]:  # noqa: ARG001
    on_wire, host = request.param
    made = Server(netns, host)
    try:
        yield made, on_wire
    finally:
        made.end()


def flow(protocol: int, address: str, local_port: int, remote_port: int) -> FlowKey:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    return FlowKey(protocol, raw, local_port, raw, remote_port, "lo")


def entry_of(answer: LedgerEntry | Contested | None) -> LedgerEntry:
    assert isinstance(answer, LedgerEntry)
    return answer


def find_entry(ledger: KernelLedger, key: FlowKey, netns: Namespace) -> LedgerEntry:
    ledger.refresh()
    return entry_of(ledger.owner_of(key, netns.call(read_own_cookie)))


def test_short_connections_are_owned_by_client_and_worker(
    server: tuple[Server, str], netns: Namespace, ledger: KernelLedger
) -> None:
    made, address = server
    cookie = netns.call(read_own_cookie)
    exchanges = made.exchange("tcp")
    assert len(exchanges) > EXCHANGES
    ledger.refresh()
    for client, port, worker in exchanges:
        outbound = entry_of(ledger.owner_of(flow(TCP, address, port, PORT), cookie))
        inbound = entry_of(ledger.owner_of(flow(TCP, address, PORT, port), cookie))
        assert (outbound.owner.pid, outbound.quality) == (client, Quality.EXACT)
        assert (inbound.owner.pid, inbound.quality) == (worker, Quality.EXACT)
    assert ledger.counts().events_lost == 0


@pytest.mark.parametrize("step", [-HOUR_NS, HOUR_NS], ids=["back", "forward"])
def test_packets_after_a_step_of_the_wall_clock_have_owners_from_the_next_lookup_on(
    netns: Namespace, ledger: KernelLedger, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def open_sockets() -> tuple[socket.socket, socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0))
        return listener, socket.create_connection(listener.getsockname())

    listener, end = netns.call(open_sockets)
    with listener, end:
        started = time.time_ns()
        # What its packets carry if the clock is stepped right before.
        span = Span(started + step, time.time_ns() + step)
        key = flow(TCP, "127.0.0.1", end.getsockname()[1], end.getpeername()[1])
        cookie = netns.call(read_own_cookie)
        ledger.refresh()
        monkeypatch.setattr(kernel_ledger, "read_boot_time", lambda: read_boot_time() + step)
        ledger.refresh()
        assert entry_of(ledger.owner_of(key, cookie, span)).owner.pid == os.getpid()


@pytest.mark.parametrize("kind", ["sendto", "connected"])
def test_short_datagram_exchanges_are_owned_by_client_and_server(
    kind: str, server: tuple[Server, str], netns: Namespace, ledger: KernelLedger
) -> None:
    made, address = server
    cookie = netns.call(read_own_cookie)
    exchanges = made.exchange(kind)
    ledger.refresh()
    for client, port, _ in exchanges:
        outbound = entry_of(ledger.owner_of(flow(UDP, address, port, PORT), cookie))
        inbound = entry_of(ledger.owner_of(flow(UDP, address, PORT, port), cookie))
        assert (outbound.owner.pid, outbound.quality) == (client, Quality.EXACT)
        assert (inbound.owner.pid, inbound.quality) == (made.pid, Quality.LISTENER)


def test_workers_of_a_listener_from_before_the_ledger_are_known(netns: Namespace) -> None:
    require_bpf()
    made = Server(netns, "127.0.0.1")
    ledger = KernelLedger(attach_ledger_programs())
    try:
        for _, port, worker in made.exchange("tcp", clients=1):
            entry = find_entry(ledger, flow(TCP, "127.0.0.1", PORT, port), netns)
            assert (entry.owner.pid, entry.quality) == (worker, Quality.EXACT)
    finally:
        ledger.close()
        made.end()


def test_an_owner_has_user_command_and_start_time(netns: Namespace, ledger: KernelLedger) -> None:
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        entry = find_entry(ledger, flow(TCP, "127.0.0.1", port, 5), netns)
    stat = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()
    assert entry.quality is Quality.LISTENER
    assert entry.owner.pid == os.getpid()
    assert entry.owner.start == int(stat[19])
    assert entry.owner.user_id == os.getuid()
    assert entry.owner.command == Path(f"/proc/{os.getpid()}/comm").read_text().strip()


def test_an_owner_that_has_exited_has_the_path_of_its_control_group(
    netns: Namespace, ledger: KernelLedger
) -> None:
    with control_group() as folder:
        inner = folder / f"docker-{'0a' * 32}.scope"
        inner.mkdir()
        join = f'echo $$ > {inner}/cgroup.procs; exec "$@"'
        words = (sys.executable, "-c", CLIENT, "127.0.0.1", str(PORT), "tcp", "1")
        client = subprocess.Popen(
            netns.enter("sh", "-c", join, "sh", *words), stderr=subprocess.DEVNULL
        )
        client.wait()  # no server answers
        wait_until_gone(inner)
        ledger.refresh()
        inner.rmdir()
    owners = {one for one in ledger._owners._owners.values() if one.pid == client.pid}
    # Other processes' events in one block with those of the client may be older than the client.
    assert {one.cgroup_path for one in owners} == {f"/{folder.name}/{inner.name}"}
    assert all(one.cgroup for one in owners)


def wait_until_gone(folder: Path) -> None:
    while (folder / "cgroup.procs").read_text():
        time.sleep(0.01)


def test_the_process_that_connects_owns_a_socket_that_another_made(
    netns: Namespace, ledger: KernelLedger
) -> None:
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        end = netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        child = os.fork()
        if child == 0:
            end.connect(("127.0.0.1", port))
            os._exit(0)
        os.waitpid(child, 0)
        entry = find_entry(ledger, flow(TCP, "127.0.0.1", end.getsockname()[1], port), netns)
        end.close()
    assert entry.owner.pid == child


def test_equal_five_tuples_in_two_namespaces_have_two_owners(
    veth: tuple[Namespace, Namespace], ledger: KernelLedger
) -> None:
    servers = [Server(end, "127.0.0.1") for end in veth]
    try:
        ledger.refresh()
        key = flow(TCP, "127.0.0.1", PORT, 5)
        owners = [find_entry(ledger, key, end).owner.pid for end in veth]
        assert owners == [one.pid for one in servers]
        assert ledger.owner_of(key, None) is None
    finally:
        for one in servers:
            one.end()


def test_events_that_the_ring_buffer_has_no_room_for_are_counted(netns: Namespace) -> None:
    require_bpf()
    ledger = KernelLedger(attach_ledger_programs(ring_bytes=4096))
    made = Server(netns, "127.0.0.1")
    try:
        with ledger._lock:
            made.exchange("sendto", clients=1)
        ledger.refresh()
        lost = ledger.counts().events_lost
        assert lost > 0
    finally:
        ledger.close()
        made.end()
    assert ledger.counts().events_lost >= lost


def test_a_socket_from_before_a_loss_has_an_owner_again_after_a_snapshot(
    netns: Namespace,
) -> None:
    require_bpf()
    ledger = KernelLedger(attach_ledger_programs(ring_bytes=SMALL_RING))
    made = Server(netns, "127.0.0.1")
    try:
        key = flow(UDP, "127.0.0.1", PORT, 5)
        before = time.time_ns()
        owner = find_entry(ledger, key, netns).owner
        assert owner.pid == made.pid
        with ledger._lock:
            made.exchange("sendto", clients=1)
        ledger.refresh()
        assert ledger.counts().events_lost > 0
        cookie = netns.call(read_own_cookie)
        assert ledger.owner_of(key, cookie) is None
        assert ledger.stale.drain() == [key]
        assert entry_of(ledger.owner_of(key, cookie, Span(before, before + 1))).owner == owner
        assert not ledger.needs_snapshot()  # events may be lost again at any moment
        wait_until(ledger.needs_snapshot)
        ledger.begin_snapshot()
        sockets = read_sockets(NetworkNamespaces(Path("/proc")), 0.0, 10_000)
        ledger.ingest_snapshot(with_owners(sockets, {}))
        assert entry_of(ledger.owner_of(key, cookie)).owner == owner
        assert not ledger.needs_snapshot()
    finally:
        ledger.close()
        made.end()


def test_draining_stale_flows_ingests_only_a_part_of_a_backlog(
    ledger: KernelLedger,
) -> None:
    ledger._thread.stop()
    ledger.refresh()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        key = flow(UDP, "127.0.0.1", end.getsockname()[1], 5)
        ledger.refresh()
        assert entry_of(ledger.owner_of(key, read_own_cookie())).owner.pid == os.getpid()
        before = ledger.counts().events
        for _ in range(600):
            socket.create_server(("127.0.0.1", 0)).close()  # two events each
    assert ledger.stale.drain() == [key]  # though its release is the last event
    assert ledger.counts().events - before == PART
    ledger.refresh()
    assert ledger.counts().events - before >= 1200


def test_the_thread_pauses_for_less_time_while_many_events_come() -> None:
    pauses = [0.3]
    for events in [1, *[10_000] * 5, *[1] * 5]:
        pauses.append(next_pause(pauses[-1], events))
    assert pauses[1] == 0.3
    assert sorted(pauses[1:7], reverse=True) == pauses[1:7]
    assert pauses[6] == 0.01
    assert pauses[11] == 0.3


def test_the_thread_ingests_events_without_a_lookup(ledger: KernelLedger) -> None:
    before = ledger.counts().events
    socket.create_server(("127.0.0.1", 0)).close()
    wait_until(lambda: ledger.counts().events > before)


def test_events_that_cannot_be_ingested_count_as_lost_and_the_thread_goes_on(
    ledger: KernelLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [OSError(24, "Too many open files"), OSError(24, "Too many open files"), SystemExit()]
    ingest = ledger._ingest_block

    def fail(block: EventBlock) -> None:
        if errors:
            raise errors.pop()
        ingest(block)

    ledger.ingest_snapshot([])
    assert not ledger._ledger.needs_snapshot
    monkeypatch.setattr(ledger, "_ingest_block", fail)
    while errors:
        left = len(errors)
        socket.create_server(("127.0.0.1", 0)).close()
        wait_until(lambda left=left: len(errors) < left)  # type: ignore[misc]
    before = ledger.counts().events
    socket.create_server(("127.0.0.1", 0)).close()
    wait_until(lambda: ledger.counts().events > before)
    assert ledger._ledger.needs_snapshot
    assert ledger.counts().events_lost >= 3
    assert "the thread ledger failed and is started again: SystemExit" in caplog.text
    assert caplog.text.count("socket events cannot be ingested: ") == 1


def test_without_descriptors_nothing_stays_open_or_attached() -> None:
    require_bpf()
    files = count_files()
    processes = ProcessReader(Procfs(Path("/proc")))
    with nothing_stays_attached():
        for spare in range(8):
            programs = attach_ledger_programs()
            with few_descriptors(spare), pytest.raises((OSError, BpfUnavailableError)):
                KernelLedger(programs, processes=processes)
            assert count_files() == files
        assert not attached_by(os.getpid())
    maps = Path("/proc/self/maps").read_text()
    assert "bpf-map" not in maps


def count_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until_detached(ours: set[int]) -> None:
    root, patience = find_cgroup_root(), time.monotonic() + 10
    while ours & all_attached(root):  # links are dropped once the last RCU reader is gone
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_nothing_stays_attached_after_close_or_a_kill() -> None:
    require_bpf()
    root = find_cgroup_root()
    program = (
        "from hogpipe.linux.bpf.programs import *; all = attach_ledger_programs(); "
        "print(1); input()"
    )
    for ending in (signal.SIGKILL, None):
        child = subprocess.Popen(
            [sys.executable, "-u", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        ours = attached_by(child.pid) & all_attached(root)
        assert len(ours) == 9
        if ending is not None:
            child.send_signal(ending)
        child.communicate()
        wait_until_detached(ours)


def test_a_closed_ledger_still_answers_and_can_be_closed_again(ledger: KernelLedger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        key = flow(TCP, "127.0.0.1", listener.getsockname()[1], 5)
    ledger.close()
    ledger.close()
    ledger.refresh()
    entry = entry_of(ledger.owner_of(key, read_own_cookie()))
    assert entry.owner.pid == os.getpid()
