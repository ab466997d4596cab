"""Which of the ledger and /proc decides, with a scripted ledger and a fake /proc."""

import math
import os
import pwd
import shutil
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from support.fake_proc import BOOT_TIME, LISTEN, FakeProc, format_row
from support.resolving import attribute

from hogpipe.attribution.ledger.ledger_resolver import LedgerResolver
from hogpipe.attribution.ledger.socket_ledger import OpenLedger, open_ledger
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import FlowsInSpans, Resolution
from hogpipe.errors import ConfigurationError
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.model import (
    CONTESTED,
    UNATTRIBUTED,
    Attribution,
    Contested,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
    Span,
)

TCP, UDP = 6, 17
HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
OUTBOUND = FlowKey(TCP, HERE, 4000, THERE, 80, "eth0")
INBOUND = FlowKey(TCP, HERE, 80, THERE, 4000, "eth0")
DATAGRAMS = FlowKey(UDP, HERE, 4000, THERE, 53, "eth0")
CURL = SocketOwner(pid=77, start=1000, user_id=0, command="curl", cgroup=1)
GONE = SocketOwner(pid=78, start=None, user_id=0, command="dig", cgroup=1)
MASTER = SocketOwner(pid=10, start=1000, user_id=0, command="master", cgroup=1)


class ScriptedLedger:
    """Answers from `entries`; `later` is added by the second refresh."""

    def __init__(self) -> None:
        self.entries: dict[FlowKey, LedgerEntry] = {}
        self.later: dict[FlowKey, LedgerEntry] = {}
        self.by_span: dict[FlowKey, dict[Span | None, LedgerEntry]] = {}
        """Entries by span, of contested flows."""
        self.asked: list[tuple[FlowKey, int | None]] = []
        self.divisible: list[tuple[FlowKey, Span | None]] = []
        self.comparisons: list[tuple[int, int | None]] = []
        self.senders: dict[FlowKey, LedgerEntry] = {}
        self.refreshed = 0
        self.closed = False
        self.sockets: list[SnapshotSocket] = []
        self.has_lost = False
        self.snapshots = 0

    def refresh(self) -> None:
        self.refreshed += 1
        if self.refreshed > 1:
            self.entries |= self.later

    def owner_of(
        self,
        flow: FlowKey,
        namespace: int | None,
        span: Span | None,
        /,
        *,
        is_divisible: bool = False,
    ) -> LedgerEntry | Contested | None:
        self.asked.append((flow, namespace))
        self.divisible += [(flow, span)] * is_divisible
        entries = self.by_span.get(flow)
        if entries is not None:
            return entries.get(span, CONTESTED)
        return self.entries.get(flow)

    def owners_of(
        self, flows: FlowsInSpans, namespace: int | None, /
    ) -> list[LedgerEntry | Contested | None]:
        return [self.owner_of(flow, namespace, span) for flow, span in flows]

    names_packet_senders = False

    def packet_senders_of(self, flows: FlowsInSpans, /) -> list[LedgerEntry | None]:
        return [self.senders.get(flow) for flow, _span in flows]

    def record_comparison(self, cookie: int, /, *, holder: SocketOwner | None) -> None:
        self.comparisons.append((cookie, None if holder is None else holder.pid))

    def needs_snapshot(self) -> bool:
        return self.has_lost

    def begin_snapshot(self) -> None:
        self.has_lost = False
        self.snapshots += 1

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket]) -> None:
        self.sockets += sockets

    def counts(self) -> LedgerCounts:
        return LedgerCounts(*range(1, 11))

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A resolver with its /proc and its ledger."""

    def __init__(self, root: Path, cgroups: bytes = b"") -> None:
        self.proc = FakeProc(root)
        self.proc.process(1, cgroup=cgroups)
        for name in ("tcp", "tcp6", "udp", "udp6"):
            self.proc.table(name)
        self.ledger = ScriptedLedger()
        self.clock = Clock()
        self.resolver = self.make(lambda path: OpenLedger(self.ledger, NetworkNamespaces(path)))
        self.resolver.prepare()

    def make(
        self, open_ledger: Callable[[Path], OpenLedger], *, required: bool = True
    ) -> LedgerResolver:
        resolver = ProcfsResolver(self.proc.root)
        return LedgerResolver(
            resolver, self.proc.root, required=required, open_ledger=open_ledger, clock=self.clock
        )

    def record(
        self,
        flow: FlowKey,
        owner: SocketOwner,
        quality: Quality = Quality.EXACT,
        *,
        may_outlive_owner: bool = False,
        is_released: bool = False,
        is_lasting: bool = False,
    ) -> None:
        self.ledger.entries[flow] = LedgerEntry(
            quality, owner, 1, may_outlive_owner, is_released, is_lasting
        )

    def show(self, flow: FlowKey, *pids: int) -> None:
        """Add the socket of a flow to /proc, held by living processes."""
        name = "tcp" if flow.protocol == TCP else "udp"
        local, remote = (flow.local_address, flow.local_port), (THERE, flow.remote_port)
        self.proc.table(name, format_row(local, remote, inode=5))
        for pid in pids:
            self.proc.process(pid, sockets={3: 5})

    def listen(self, pid: int) -> None:
        self.proc.table("tcp", format_row((bytes(4), 80), (bytes(4), 0), inode=6, state=LISTEN))
        self.proc.process(pid, sockets={3: 6})

    def recall(self, flow: FlowKey, span: Span | None) -> Attribution | None:
        (found,) = self.resolver.recall([(flow, span)])
        return None if found is None else found.attribution

    def find(self, flow: FlowKey) -> tuple[Quality, int | None] | None:
        answer = attribute(self.resolver, [flow]).get(flow)
        if answer is None:
            return None
        return answer.quality, None if answer.process is None else answer.process.pid


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "proc")


def test_an_exact_entry_is_conclusive_so_that_no_table_is_read(stage: Stage) -> None:
    stage.record(OUTBOUND, CURL)
    assert stage.find(OUTBOUND) == (Quality.EXACT, 77)
    assert stage.resolver.counts().table_reads == 0
    assert stage.ledger.asked == [(OUTBOUND, read_own_cookie())]


def test_a_living_owner_is_described_by_proc(stage: Stage) -> None:
    stage.proc.process(77, command=b"curl", executable=b"/usr/bin/curl", cgroup=b"0::/a.service\n")
    stage.record(OUTBOUND, CURL)
    process = attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process
    assert process is not None
    assert (process.executable, process.unit) == ("/usr/bin/curl", "a.service")


def test_an_owner_that_has_exited_is_described_as_the_kernel_reported_it(stage: Stage) -> None:
    stage.record(OUTBOUND, CURL)
    process = attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process
    assert process is not None
    assert (process.pid, process.start, process.command) == (77, 1000, "curl")
    assert (process.user_id, process.user_name, process.executable) == (0, "root", None)
    assert process.created_ns is not None
    assert process.created_ns > BOOT_TIME * 1_000_000_000
    assert attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process is process


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        (b"0::/init.scope\n", "a.service"),
        (b"2:cpu:/\n1:name=systemd:/\n0::/\n", None),
        (b"", None),
    ],
)
def test_the_control_group_names_the_unit_of_an_exited_owner_where_there_is_only_cgroup_v2(
    tmp_path: Path, cgroups: bytes, unit: str | None
) -> None:
    stage = Stage(tmp_path / "proc", cgroups)
    path = "/system.slice/a.service"
    stage.record(OUTBOUND, replace(CURL, cgroup_path=path))
    process = attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process
    assert process is not None
    assert (process.unit, process.cgroup) == (unit, path if unit else None)


def test_an_owner_whose_pid_was_reused_is_not_taken_for_the_other_process(
    stage: Stage,
) -> None:
    stage.proc.process(77, start=2000, command=b"other")
    stage.record(OUTBOUND, CURL)
    process = attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process
    assert process is not None
    assert (process.start, process.command) == (1000, "curl")


def test_an_owner_that_exited_before_it_was_read_has_no_start(stage: Stage) -> None:
    stage.proc.process(78, command=b"other")
    stage.record(OUTBOUND, GONE)
    process = attribute(stage.resolver, [OUTBOUND])[OUTBOUND].process
    assert process is not None
    assert (process.pid, process.start, process.created_ns) == (78, None, None)
    assert process.command == "dig"


def test_a_flow_that_the_ledger_does_not_know_is_looked_up_in_proc(stage: Stage) -> None:
    stage.record(DATAGRAMS, CURL)
    stage.show(OUTBOUND, 5)
    found = attribute(stage.resolver, [OUTBOUND, DATAGRAMS])
    pids = {flow: answer.process and answer.process.pid for flow, answer in found.items()}
    assert pids == {OUTBOUND: 5, DATAGRAMS: 77}


def test_the_ledger_is_asked_again_after_proc(stage: Stage) -> None:
    stage.ledger.later[DATAGRAMS] = LedgerEntry(Quality.EXACT, CURL, 1)
    assert stage.find(DATAGRAMS) == (Quality.EXACT, 77)
    assert stage.resolver.counts().table_reads > 0


def test_a_udp_flow_that_neither_source_knows_is_left_out(stage: Stage) -> None:
    assert stage.find(DATAGRAMS) is None
    assert attribute(stage.resolver, [OUTBOUND]) == {OUTBOUND: UNATTRIBUTED}


def test_a_connection_in_proc_is_more_certain_than_the_owner_of_the_port(stage: Stage) -> None:
    stage.proc.process(10)
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    assert stage.find(INBOUND) == (Quality.LISTENER, 10)
    stage.show(INBOUND, 11)
    assert stage.find(INBOUND) == (Quality.EXACT, 11)


def test_of_two_owners_of_a_port_the_recorded_one_decides_while_it_is_alive(
    stage: Stage,
) -> None:
    stage.proc.process(10)
    stage.listen(11)
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    assert stage.find(INBOUND) == (Quality.LISTENER, 10)


def test_a_port_whose_recorded_owner_has_exited_belongs_to_the_present_one(stage: Stage) -> None:
    stage.listen(11)
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    assert stage.find(INBOUND) == (Quality.LISTENER, 11)


@pytest.mark.parametrize("flow", [OUTBOUND, DATAGRAMS])
def test_an_open_socket_whose_recorded_owner_has_exited_belongs_to_its_holder(
    stage: Stage, flow: FlowKey
) -> None:
    stage.proc.process(77)
    stage.show(flow, 5)
    stage.record(flow, CURL, may_outlive_owner=True)
    assert stage.find(flow) == (Quality.EXACT, 77)
    assert stage.resolver.counts().table_reads == 0
    shutil.rmtree(stage.proc.root / "77")
    assert stage.find(flow) == (Quality.EXACT, 5)
    stage.record(flow, CURL)
    assert stage.find(flow) == (Quality.EXACT, 77)


@pytest.mark.parametrize("flow", [OUTBOUND, DATAGRAMS])
def test_a_lasting_socket_belongs_to_its_holder_though_the_recorded_owner_is_alive(
    stage: Stage, flow: FlowKey
) -> None:
    stage.proc.process(77)
    stage.show(flow, 5)
    stage.record(flow, CURL)
    assert stage.find(flow) == (Quality.EXACT, 77)
    stage.record(flow, CURL, is_lasting=True)
    assert stage.find(flow) == (Quality.EXACT, 5)
    assert stage.ledger.comparisons == [(1, 5)]


@pytest.mark.parametrize(("started", "owner"), [(4999, 77), (5000, 5), (5001, 5)])
def test_a_young_socket_is_compared_if_its_owner_has_forked_since(
    stage: Stage, started: int, owner: int
) -> None:
    children = stage.proc.process(77) / "task" / "77" / "children"
    children.parent.mkdir(parents=True)
    children.write_text("4 5 ")
    stage.show(OUTBOUND, 5)
    stage.proc.process(5, start=started, parent=77, sockets={3: 5})
    ticks = os.sysconf("SC_CLK_TCK")
    used_ns = 5000 * 1_000_000_000 // ticks + 1
    stage.ledger.entries[OUTBOUND] = LedgerEntry(Quality.EXACT, CURL, 1, used_ns=used_ns)
    assert stage.find(OUTBOUND) == (Quality.EXACT, owner)


@pytest.mark.parametrize("pid", [10, 99])
@pytest.mark.parametrize(("workers", "is_final"), [((), True), ((11, 12), False)])
def test_the_owner_of_a_connection_that_one_of_several_workers_will_accept_is_provisional(
    stage: Stage, pid: int, workers: tuple[int, ...], *, is_final: bool
) -> None:
    stage.proc.table(
        "tcp",
        format_row((bytes(4), 80), (bytes(4), 0), inode=6, state=LISTEN),
        format_row((HERE, 80), (THERE, 4000), inode=0),
    )
    stage.proc.process(10, sockets={3: 6})
    for worker in workers:
        stage.proc.process(worker, parent=10, sockets={3: 6})
    stage.record(INBOUND, replace(MASTER, pid=pid), Quality.LISTENER)  # 99 has exited
    resolution = stage.resolver.resolve({INBOUND: ()})[INBOUND]
    assert resolution.attribution.process is not None
    assert resolution.attribution.process.pid == 10
    assert (resolution.is_final, resolution.may_be_refined) == (is_final, not is_final)
    stage.record(INBOUND, replace(MASTER, pid=11), is_released=True)
    assert stage.find(INBOUND) == (Quality.EXACT, 11)


def test_a_listening_socket_that_was_left_to_another_process_is_that_process_s(
    stage: Stage,
) -> None:
    stage.proc.process(10)
    stage.listen(11)
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    assert stage.find(INBOUND) == (Quality.LISTENER, 10)  # closed: 11 may have come later
    stage.proc.table(
        "tcp",
        format_row((bytes(4), 80), (bytes(4), 0), inode=6, state=LISTEN),
        format_row((HERE, 80), (THERE, 4000), inode=0),
    )
    assert stage.find(INBOUND) == (Quality.LISTENER, 11)


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("pid", [10, 99])
def test_the_owner_of_a_closed_connection_whose_release_is_yet_to_be_recorded_is_provisional(
    stage: Stage, pid: int, *, is_held: bool
) -> None:
    stage.listen(10)
    if is_held:
        stage.show(INBOUND, 11)
    entry = LedgerEntry(Quality.LISTENER, replace(MASTER, pid=pid), 1, awaits_release=True)
    stage.ledger.entries[INBOUND] = entry
    resolution = stage.resolver.resolve({INBOUND: ()})[INBOUND]
    assert resolution.attribution.process is not None
    assert resolution.attribution.process.pid == (11 if is_held else 10)
    assert (resolution.is_final, resolution.may_be_refined) == (is_held, not is_held)


def test_a_recorded_owner_that_still_holds_a_lasting_socket_is_confirmed(stage: Stage) -> None:
    stage.show(OUTBOUND, 77)
    stage.record(OUTBOUND, CURL)
    assert stage.find(OUTBOUND) == (Quality.EXACT, 77)
    assert stage.ledger.comparisons == []
    stage.record(OUTBOUND, CURL, is_lasting=True)
    assert stage.find(OUTBOUND) == (Quality.EXACT, 77)
    assert stage.ledger.comparisons == [(1, None)]


@pytest.mark.parametrize(
    ("flow", "owner", "quality", "holders", "is_lasting", "may_be_refined"),
    [
        (INBOUND, MASTER, Quality.LISTENER, (), False, True),
        (INBOUND, MASTER, Quality.LISTENER, (11,), False, False),
        (OUTBOUND, CURL, Quality.EXACT, (), False, False),
        (OUTBOUND, CURL, Quality.EXACT, (), True, True),
        (DATAGRAMS, CURL, Quality.EXACT, (), True, False),
    ],
)
def test_the_owner_of_an_open_connection_whose_holder_is_not_known_yet_is_provisional(
    stage: Stage,
    *,
    flow: FlowKey,
    owner: SocketOwner,
    quality: Quality,
    holders: tuple[int, ...],
    is_lasting: bool,
    may_be_refined: bool,
) -> None:
    stage.proc.process(10)
    stage.proc.process(77)
    stage.show(flow, *holders)
    stage.record(flow, owner, quality, is_lasting=is_lasting)
    resolution = stage.resolver.resolve({flow: ()})[flow]
    assert resolution.may_be_refined is may_be_refined
    assert resolution.is_final is not may_be_refined
    if not holders:
        assert resolution.attribution.quality is quality
        assert resolution.attribution.process is not None
        assert resolution.attribution.process.pid == owner.pid


def test_a_closed_connection_that_a_listening_socket_accepted_is_final(stage: Stage) -> None:
    stage.proc.process(10)
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    assert stage.resolver.resolve({INBOUND: ()})[INBOUND].is_final


def test_a_released_datagram_socket_keeps_its_owner_whoever_uses_the_port_now(stage: Stage) -> None:
    stage.show(DATAGRAMS, 5)
    stage.record(DATAGRAMS, CURL, Quality.LISTENER)
    assert stage.find(DATAGRAMS) == (Quality.EXACT, 5)
    stage.record(DATAGRAMS, CURL, Quality.LISTENER, is_released=True)
    assert stage.find(DATAGRAMS) == (Quality.LISTENER, 77)


def test_a_contested_flow_is_resolved_span_by_span_without_proc(
    stage: Stage,
) -> None:
    stage.show(DATAGRAMS, 5)
    stage.show(OUTBOUND, 5)
    first, second, third = Span(1, 2), Span(5, 6), Span(8, 9)
    stage.ledger.by_span[DATAGRAMS] = {
        first: LedgerEntry(Quality.EXACT, CURL, 1),
        third: LedgerEntry(Quality.EXACT, GONE, 2),
    }
    stage.record(OUTBOUND, CURL)
    times = {DATAGRAMS: [first, second, third], OUTBOUND: [Span(1, 9)]}
    found = stage.resolver.resolve(times)
    assert found[DATAGRAMS].attribution == UNATTRIBUTED
    assert stage.resolver.counts().table_reads == 0
    owners = found[DATAGRAMS].owners_by_span
    assert owners is not None
    assert [one.process and one.process.pid for one in owners] == [77, None, 78]
    assert found[OUTBOUND].owners_by_span is None
    assert stage.recall(DATAGRAMS, second) == UNATTRIBUTED
    assert stage.ledger.divisible == [(DATAGRAMS, Span(1, 9))]  # else the ledger counts it


def test_a_socket_without_a_holder_belongs_to_its_recorded_owner(stage: Stage) -> None:
    stage.record(OUTBOUND, CURL, may_outlive_owner=True)
    assert stage.find(OUTBOUND) == (Quality.EXACT, 77)
    stage.listen(5)
    inbound = replace(INBOUND, remote_port=4001)
    stage.record(inbound, CURL, may_outlive_owner=True)
    assert stage.find(inbound) == (Quality.EXACT, 77)


def test_a_flow_of_an_unknown_namespace_is_not_looked_up_in_another(stage: Stage) -> None:
    elsewhere = replace(DATAGRAMS, namespace=4_000_000_000)
    stage.record(elsewhere, CURL)
    assert stage.find(elsewhere) is None
    assert stage.ledger.asked == []


def test_a_flow_that_may_be_in_any_namespace_is_looked_up_in_all(stage: Stage) -> None:
    anywhere = replace(DATAGRAMS, namespace=None)
    stage.record(anywhere, CURL)
    assert stage.find(anywhere) == (Quality.EXACT, 77)
    assert stage.ledger.asked == [(anywhere, None)]


def test_a_recorded_owner_is_recalled_without_reading_proc(stage: Stage) -> None:
    stage.proc.process(77, executable=b"/usr/bin/curl")
    stage.record(OUTBOUND, CURL)
    found = stage.recall(OUTBOUND, None)
    assert found is not None
    assert found.process is not None
    assert (found.quality, found.process.pid, found.process.executable) == (
        Quality.EXACT,
        77,
        None,
    )
    looked_up = attribute(stage.resolver, [OUTBOUND])[OUTBOUND]
    assert stage.recall(OUTBOUND, None) == looked_up
    assert stage.recall(INBOUND, None) is None
    assert stage.recall(replace(OUTBOUND, namespace=4_000_000_000), None) is None


def test_what_is_recalled_of_datagrams_lasts_until_the_release_of_their_socket(
    stage: Stage,
) -> None:
    stage.record(DATAGRAMS, CURL)
    stage.record(OUTBOUND, CURL)
    found = stage.resolver.recall([(DATAGRAMS, None), (OUTBOUND, None)])
    assert [one and one.open_for for one in found] == [math.inf, 0.0]


def test_recalling_a_flow_does_not_block_on_the_name_of_a_user(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, asked = threading.Event(), threading.Event()

    def ask_directory(_user_id: int) -> pwd.struct_passwd:
        asked.set()
        assert answered.wait(30)
        return pwd.struct_passwd(("alice", "x", 7, 7, "", "/", "/bin/sh"))

    def recall() -> str | None:
        found = stage.recall(OUTBOUND, None)
        assert found is not None
        assert found.process is not None
        return found.process.user_name

    monkeypatch.setattr(pwd, "getpwuid", ask_directory)
    stage.record(OUTBOUND, replace(CURL, user_id=7))
    with ThreadPoolExecutor(1) as lookup_thread:
        try:
            lookup = lookup_thread.submit(stage.resolver.resolve, {OUTBOUND: ()})
            assert asked.wait(30)
            assert recall() is None
        finally:
            answered.set()
        lookup.result(30)
    assert recall() == "alice"


def test_a_flow_that_the_ledger_knows_is_final(stage: Stage) -> None:
    stage.record(OUTBOUND, CURL)
    stage.show(INBOUND, 11)
    found = stage.resolver.resolve({OUTBOUND: (), INBOUND: ()})
    assert [found[flow].is_final for flow in (OUTBOUND, INBOUND)] == [True, False]
    stage.record(INBOUND, MASTER, Quality.LISTENER)
    found = stage.resolver.resolve({INBOUND: ()})
    assert found == {INBOUND: Resolution(found[INBOUND].attribution, is_final=True)}
    assert found[INBOUND].attribution.quality is Quality.EXACT  # by /proc


def test_the_five_tuple_of_an_exact_datagram_entry_may_be_reused(stage: Stage) -> None:
    stage.record(OUTBOUND, CURL)
    stage.record(DATAGRAMS, CURL)
    found = stage.resolver.resolve({OUTBOUND: (), DATAGRAMS: ()})
    assert [found[one].may_be_reused for one in (OUTBOUND, DATAGRAMS)] == [False, True]
    stage.record(DATAGRAMS, CURL, Quality.LISTENER)  # one socket, whoever sends
    assert not stage.resolver.resolve({DATAGRAMS: ()})[DATAGRAMS].may_be_reused


def test_the_release_of_an_exact_datagram_entry_will_be_reported_while_it_is_open(
    stage: Stage,
) -> None:
    def open_for() -> float:
        return stage.resolver.resolve({DATAGRAMS: ()})[DATAGRAMS].open_for

    stage.record(DATAGRAMS, CURL)
    assert open_for() == math.inf
    stage.proc.process(77)
    stage.show(DATAGRAMS, 77)
    stage.record(DATAGRAMS, CURL, is_lasting=True)
    assert open_for() == math.inf
    stage.record(DATAGRAMS, CURL, is_released=True)
    assert open_for() == 0.0
    stage.record(DATAGRAMS, CURL, Quality.LISTENER)
    assert open_for() == 0.0


def test_after_a_loss_of_events_snapshots_are_taken_but_not_too_often(
    stage: Stage,
) -> None:
    assert stage.ledger.snapshots == 0
    with socket.create_server(("127.0.0.1", 0)) as made:
        stage.ledger.sockets.clear()
        for now, snapshots in ((1.0, 1), (4.0, 1), (6.5, 2)):
            stage.clock.now = now
            stage.ledger.has_lost = True
            stage.find(OUTBOUND)
            assert stage.ledger.snapshots == snapshots
        stage.ledger.has_lost = False
        stage.clock.now = 20.0
        stage.find(OUTBOUND)
        assert stage.ledger.snapshots == 2
        port = made.getsockname()[1]
    found = [
        (one.namespace_cookie, one.local_address, one.local_port, one.remote_port)
        for one in stage.ledger.sockets
    ]
    assert found.count((read_own_cookie(), b"\x7f\0\0\1", port, 0)) == 2


def test_the_counters_include_those_of_the_ledger(stage: Stage) -> None:
    assert stage.resolver.counts().ledger == LedgerCounts(
        sockets=1, events=2, events_lost=3, sockets_lost=4, malformed_events=5, evicted=6,
        unknown_releases=7, contested=8, unidentified_processes=9, snapshots=10,
        namespaces_not_entered=0,
    )  # fmt: skip


def test_closing_closes_the_ledger(stage: Stage) -> None:
    stage.resolver.close()
    assert stage.ledger.closed


def refuse(_procfs: Path) -> OpenLedger:
    raise BpfUnavailableError(Obstacle.PRIVILEGES, "eBPF: not permitted; run as root")


def test_without_a_ledger_all_owners_come_from_proc_and_its_description_says_why(
    stage: Stage,
) -> None:
    resolver = stage.make(refuse, required=False)
    resolver.prepare()
    assert resolver.describe() == (
        f"owners come from {stage.proc.root} alone; connections of some milliseconds may have none "
        "(no ledger: eBPF: not permitted; run as root)"
    )
    stage.show(OUTBOUND, 5)
    answer = attribute(resolver, [OUTBOUND])[OUTBOUND]
    assert answer.process is not None
    assert answer.process.pid == 5
    assert resolver.counts().ledger is None
    resolver.close()


def test_a_required_ledger_that_is_not_available_is_an_error(stage: Stage) -> None:
    with pytest.raises(BpfUnavailableError) as caught:
        stage.make(refuse).prepare()
    assert caught.value.exit_code == 77


def test_a_recorded_proc_has_no_ledger(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="does not show the processes of this host"):
        open_ledger(stage.proc.root)


def test_each_call_returns_new_counters(stage: Stage) -> None:
    before = msgspec.structs.replace(stage.resolver.counts())
    stage.find(DATAGRAMS)
    assert stage.resolver.counts().since(before).table_reads > 0


@pytest.mark.parametrize(
    ("quality", "pid"), [(None, 77), (Quality.LISTENER, 77), (Quality.EXACT, 10)]
)
def test_a_flow_without_a_socket_of_its_own_is_that_of_who_sends_it_through_a_packet_socket(
    stage: Stage, quality: Quality | None, pid: int
) -> None:
    """Whoever has the port of such a flow has none of its bytes."""
    stage.ledger.senders[DATAGRAMS] = LedgerEntry(Quality.EXACT, CURL, 9, is_released=True)
    if quality is not None:
        stage.proc.process(MASTER.pid)
        stage.record(DATAGRAMS, MASTER, quality)
    assert stage.find(DATAGRAMS) == (Quality.EXACT, pid)
    assert stage.resolver.counts().table_reads == 0
