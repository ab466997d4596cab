"""Sockets of other network namespaces, on a fake tree with processes in several of them."""

import errno
import itertools
import logging
import math
import shutil
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_proc import CLOSE, LISTEN, FakeProc, format_row
from support.resolving import attribute

from hogpipe.attribution.procfs.container_tables import ContainerTables
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint
from hogpipe.attribution.procfs.matching import NO_MATCH, Match
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.linux.netns.namespace_links import NamespaceLinks
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.model import OWN_NAMESPACE, UNATTRIBUTED, FlowKey, Quality

TCP, UDP = 6, 17
NO_DEADLINE = math.inf
OWN, RED, BLUE = 1, 2, 3
ANY, ANY6, MAPPED = bytes(4), bytes(16), bytes(10) + b"\xff\xff"
HERE, THERE = b"\x0a\0\0\2", b"\xc0\0\2\1"
HERE6, THERE6 = b"\xfd" + bytes(14) + b"\2", b"\xfd" + bytes(14) + b"\1"


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    made = FakeProc(tmp_path / "proc")
    add(made, 1, OWN)
    return made


def add(proc: FakeProc, pid: int, namespace: int) -> None:
    proc.process(pid)
    proc.enter(pid, namespace)


def connection(inode: int, port: int = 4000) -> bytes:
    return format_row((HERE, port), (THERE, 80), inode=inode)


def flow(namespace: int | None, port: int = 4000, protocol: int = TCP) -> FlowKey:
    return FlowKey(protocol, HERE, port, THERE, 80, "br0", namespace)


class Processes(NamespaceProcesses):
    """Counts how often the processes are listed."""

    listed = 0

    def refresh(self, now: float, *, thorough: bool = False) -> None:
        self.listed += 1
        super().refresh(now, thorough=thorough)


def refuse(_pid: int, _namespace: int) -> socket.socket:
    raise PermissionError(errno.EPERM, "setns")


class Tables(ContainerTables):
    """The tables to test, at a time `now`; no namespace may be entered."""

    def __init__(self, proc: FakeProc, *, fixed: Reader = Reader.PROCFS, **bounds: float) -> None:
        self.now = 0.0
        self.processes = Processes(proc.root, OWN)
        links = NamespaceLinks(self.processes, refuse)
        bounds = {"walk_budget": 1.0, **bounds}
        procfs = Procfs(proc.root)
        super().__init__(procfs, self.processes, lambda: self.now, links, fixed=fixed, **bounds)


def inodes(match: Match) -> list[int]:
    return [row.inode for row in match.rows]


def test_equal_flows_of_two_namespaces_match_their_own_sockets(proc: FakeProc) -> None:
    add(proc, 20, RED)
    add(proc, 30, BLUE)
    proc.process_table(20, "tcp", connection(200))
    proc.process_table(30, "tcp", connection(300))
    found = Tables(proc).match([flow(RED), flow(BLUE)], NO_DEADLINE)
    assert {key.namespace: inodes(match) for key, match in found.items()} == {
        RED: [200],
        BLUE: [300],
    }
    assert all(match.quality is Quality.EXACT for match in found.values())


def test_a_flow_that_may_be_in_several_namespaces_matches_no_socket(proc: FakeProc) -> None:
    add(proc, 20, RED)
    proc.process_table(20, "tcp", connection(200))
    containers = Tables(proc)
    assert containers.match([flow(None)], NO_DEADLINE) == {flow(None): NO_MATCH}
    assert containers.counts.tables == 0


def test_a_namespace_is_read_once_for_all_its_flows(proc: FakeProc) -> None:
    add(proc, 20, RED)
    add(proc, 21, RED)
    for pid in (20, 21):
        proc.process_table(pid, "tcp", *[connection(port, port) for port in range(200, 300)])
        proc.process_table(pid, "tcp6")
    containers = Tables(proc)
    found = containers.match([flow(RED, port) for port in range(200, 300)], NO_DEADLINE)
    assert [inodes(match) for match in found.values()] == [[port] for port in range(200, 300)]
    assert containers.counts.tables == 1, "all were found in the first table"


def test_the_second_table_is_read_for_flows_without_exact_match_in_the_first(
    proc: FakeProc,
) -> None:
    add(proc, 20, RED)
    listener = format_row((ANY, 80), (ANY, 0), inode=205, state=LISTEN)
    mapped = format_row((MAPPED + HERE, 4001), (MAPPED + THERE, 80), inode=206)
    six = format_row((HERE6, 4002), (THERE6, 80), inode=207)
    proc.process_table(20, "tcp", connection(200), listener)
    proc.process_table(20, "tcp6", mapped, six)
    inbound = FlowKey(TCP, HERE, 80, THERE, 9, "br0", RED)
    over_six = FlowKey(TCP, HERE6, 4002, THERE6, 80, "br0", RED)
    found = Tables(proc).match([flow(RED), flow(RED, 4001), inbound, over_six], NO_DEADLINE)
    assert [(match.quality, inodes(match)) for match in found.values()] == [
        (Quality.EXACT, [200]),
        (Quality.EXACT, [206]),
        (Quality.LISTENER, [205]),
        (Quality.EXACT, [207]),
    ]


def test_udp_and_raw_sockets_are_found_too(proc: FakeProc) -> None:
    add(proc, 20, RED)
    proc.process_table(20, "udp", format_row((ANY, 53), (ANY, 0), inode=201, state=CLOSE))
    proc.process_table(20, "udp6")
    proc.process_table(20, "raw", format_row((ANY, 47), (ANY, 0), inode=202, state=CLOSE))
    answered = FlowKey(UDP, HERE, 53, THERE, 999, "br0", RED)
    tunnelled = FlowKey(47, HERE, 0, THERE, 0, "br0", RED)
    found = Tables(proc).match([answered, tunnelled], NO_DEADLINE)
    assert [inodes(match) for match in found.values()] == [[201], [202]]


def test_if_a_process_has_exited_another_one_shows_the_tables(proc: FakeProc) -> None:
    add(proc, 20, RED)
    add(proc, 21, RED)
    for pid in (20, 21):
        proc.process_table(pid, "tcp", connection(200))
    containers = Tables(proc)
    containers.match([flow(RED)], NO_DEADLINE)
    shutil.rmtree(proc.root / "20")
    assert inodes(containers.match([flow(RED)], NO_DEADLINE)[flow(RED)]) == [200]
    shutil.rmtree(proc.root / "21")
    add(proc, 22, RED)
    proc.process_table(22, "tcp", connection(200))
    assert inodes(containers.match([flow(RED)], NO_DEADLINE)[flow(RED)]) == [200]


def test_tables_of_a_process_that_left_its_namespace_are_discarded(proc: FakeProc) -> None:
    add(proc, 20, RED)
    proc.process_table(20, "tcp", connection(200))
    containers = Tables(proc)
    containers.match([flow(RED)], NO_DEADLINE)
    proc.enter(20, BLUE)
    assert containers.match([flow(RED)], NO_DEADLINE) == {flow(RED): NO_MATCH}


def test_processes_are_listed_once_for_a_batch_of_removed_namespaces(proc: FakeProc) -> None:
    containers = Tables(proc)
    removed = [flow(namespace) for namespace in range(100, 200)]
    assert set(containers.match(removed, NO_DEADLINE).values()) == {NO_MATCH}
    assert containers.processes.listed == 1


def test_flows_without_a_socket_in_an_incomplete_table_are_deferred(proc: FakeProc) -> None:
    add(proc, 20, RED)
    add(proc, 30, BLUE)
    proc.process_table(20, "tcp", connection(200), *[connection(port, port) for port in range(99)])
    proc.process_table(20, "tcp6")
    proc.process_table(30, "tcp")
    (proc.root / "30" / "net" / "tcp6").symlink_to("/dev/zero")
    procfs = Procfs(proc.root, itertools.count().__next__)
    containers = Tables(proc)
    containers._procfs = procfs
    found = containers.match([flow(RED), flow(RED, 9999), flow(BLUE)], 3)
    assert {key: inodes(match) for key, match in found.items()} == {
        flow(RED): [200],
        flow(RED, 9999): [],
    }
    assert containers.deferred == 1
    assert procfs.tables_incomplete == 1


def test_namespaces_beyond_the_bound_are_deferred_to_later_batches(proc: FakeProc) -> None:
    places = {20: 100, 30: 101, 40: 102}
    for pid, namespace in places.items():
        add(proc, pid, namespace)
        proc.process_table(pid, "tcp", connection(pid))
    containers = Tables(proc, max_seconds=0.0)
    flows = [flow(namespace) for namespace in places.values()]
    answers = [containers.match(flows, NO_DEADLINE) for _ in places]
    assert [len(answer) for answer in answers] == [1, 1, 1]
    assert {key.namespace for answer in answers for key in answer} == set(places.values())
    assert containers.deferred == 6


def test_new_processes_of_known_namespaces_are_listed_once_a_second(proc: FakeProc) -> None:
    add(proc, 20, RED)
    proc.process_table(20, "tcp", connection(200))
    containers = Tables(proc)
    for now in (0.0, 0.5, 0.9, 1.0, 1.5):
        containers.now = now
        containers.match([flow(RED)], NO_DEADLINE)
        containers.match([], NO_DEADLINE)
    assert containers.processes.listed == 2


@pytest.fixture
def spending(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Three containers; reading one takes seconds of CPU, for which credit comes in minutes."""
    for pid, namespace in {20: 100, 30: 101, 40: 102}.items():
        add(proc, pid, namespace)
        proc.process_table(pid, "tcp", connection(pid))
    monkeypatch.setattr(time, "thread_time", itertools.count().__next__)
    return Tables(proc, walk_budget=0.1, max_seconds=math.inf)


def test_reading_tables_of_proc_has_a_budget_of_its_own_and_takes_turns(spending: Tables) -> None:
    flows = [flow(namespace) for namespace in (100, 101, 102)]
    read = []
    for _ in range(6):
        found = spending.match(flows, NO_DEADLINE)
        assert spending.match(flows, NO_DEADLINE) == {}, "there is no credit left"
        read += [key.namespace for key in found]
        spending.now += 1000.0
    assert sorted(read) == 2 * [100] + 2 * [101] + 2 * [102]
    assert sorted(read[:3]) == [100, 101, 102]
    assert spending.deferred == 6 * (2 + 3)
    assert spending.counts.procfs == 6, "a table that is not read is not counted"


def test_a_sample_without_credit_sees_no_socket(spending: Tables) -> None:
    to = Endpoint(100, TCP, THERE, 80)
    assert len(spending.match([flow(101)], NO_DEADLINE)) == 1
    found = spending.read_endpoint_sockets(100, [to])
    assert found == {to: []}
    assert spending.counts.procfs == 1


def test_without_the_right_to_enter_a_namespace_its_tables_of_proc_are_read(
    proc: FakeProc, caplog: pytest.LogCaptureFixture
) -> None:
    add(proc, 20, RED)
    add(proc, 30, BLUE)
    proc.process_table(20, "tcp", connection(200))
    proc.process_table(30, "tcp", connection(300))
    containers = Tables(proc, fixed=Reader.SOCK_DIAG)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            found = containers.match([flow(RED), flow(BLUE)], NO_DEADLINE)
            assert [inodes(match) for match in found.values()] == [[200], [300]]
    assert containers.counts.refused == 2, "each namespace is tried once"
    assert len(caplog.records) == 1


def test_malformed_rows_are_counted(proc: FakeProc) -> None:
    add(proc, 20, RED)
    proc.process_table(20, "tcp", connection(200), b"   1: nonsense")
    containers = Tables(proc)
    assert inodes(containers.match([flow(RED)], NO_DEADLINE)[flow(RED)]) == [200]
    assert containers.counts.rows_skipped == 1


def test_the_owner_of_a_containers_flow_is_the_process_that_holds_the_socket(
    proc: FakeProc,
) -> None:
    proc.process(10, sockets={3: 100})
    proc.process(20, sockets={3: 200})
    proc.enter(20, RED)
    proc.table("tcp", connection(100))
    proc.process_table(20, "tcp", connection(200))
    resolver = ProcfsResolver(proc.root, socket_table="procfs")
    flows = [flow(OWN_NAMESPACE), flow(RED), flow(BLUE), flow(None)]
    found = attribute(resolver, flows)
    owners = [found[one].process for one in flows]
    assert [owner and owner.pid for owner in owners] == [10, 20, None, None]
    assert found[flow(BLUE)] == found[flow(None)] == UNATTRIBUTED


def test_evidence_of_the_host_names_no_owner_in_a_container(proc: FakeProc) -> None:
    seen = range(4000, 4020)
    proc.process(10, sockets={port: port for port in seen})
    add(proc, 20, RED)
    proc.table("tcp", *[connection(port, port) for port in seen])
    now = 0.0
    resolver = ProcfsResolver(proc.root, socket_table="procfs", clock=lambda: now)
    resolver.prepare()
    resolver.resolve([flow(OWN_NAMESPACE, port) for port in (5000, 5001)])
    proc.table("tcp")
    now = 0.9
    resolver.resolve([flow(OWN_NAMESPACE, port) for port in (5000, 5001)])
    assert resolver.infer(flow(OWN_NAMESPACE, 5000)).quality is Quality.INFERRED
    assert resolver.infer(flow(RED, 5000)) == UNATTRIBUTED
    unseen = [flow(RED, port) for port in range(5000, 5010)]
    assert set(attribute(resolver, unseen).values()) == {UNATTRIBUTED}


@pytest.mark.parametrize("place", [OWN_NAMESPACE, RED, BLUE])
def test_a_closed_socket_has_the_owner_of_the_others_of_its_endpoint_in_its_own_namespace(
    proc: FakeProc, place: int
) -> None:
    seen = range(4000, 4020)
    holders = {OWN_NAMESPACE: 10, RED: 20, BLUE: 30}
    for namespace, pid in holders.items():
        proc.process(pid, sockets={port: port for port in seen} if namespace == place else {})
        proc.enter(pid, namespace or OWN)

    def write(*rows: bytes) -> None:
        for namespace, pid in holders.items():
            present = rows if namespace == place else ()
            proc.table("tcp", *present) if pid == 10 else proc.process_table(pid, "tcp", *present)

    write(*[connection(port, port) for port in seen])
    now = 0.0
    resolver = ProcfsResolver(proc.root, socket_table="procfs", clock=lambda: now)
    resolver.prepare()
    missed = [flow(namespace, port) for namespace in holders for port in (5000, 5001)]
    resolver.resolve(missed)
    write()
    now = 0.9
    resolver.resolve(missed)
    for namespace, pid in holders.items():
        inferred = resolver.infer(flow(namespace, 5002))
        expected = (Quality.INFERRED, pid) if namespace == place else (Quality.NONE, None)
        assert (inferred.quality, inferred.process and inferred.process.pid) == expected
        assert attribute(resolver, [flow(namespace, 5003)])[flow(namespace, 5003)] == inferred
    assert resolver.infer(flow(None, 5002)) == UNATTRIBUTED


PLACES = st.lists(
    st.tuples(st.sampled_from([RED, BLUE]), st.integers(4000, 4005)), unique=True, max_size=8
)
ASKED = st.sets(
    st.tuples(st.sampled_from([RED, BLUE, 77, None]), st.integers(4000, 4005)), max_size=12
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(places=PLACES, asked=ASKED)
def test_a_flow_matches_a_socket_of_its_own_namespace_or_none(
    tmp_path_factory: pytest.TempPathFactory,
    places: list[tuple[int, int]],
    asked: set[tuple[int | None, int]],
) -> None:
    proc = FakeProc(tmp_path_factory.mktemp("tree") / "proc")
    numbered = {place: 1000 + number for number, place in enumerate(places)}
    for pid, namespace in ((20, RED), (30, BLUE)):
        add(proc, pid, namespace)
        rows = [connection(inode, at[1]) for at, inode in numbered.items() if at[0] == namespace]
        proc.process_table(pid, "tcp", *rows)
    flows = [flow(namespace, port) for namespace, port in asked]
    found = Tables(proc).match(flows, NO_DEADLINE)
    assert found.keys() == set(flows)
    for key, match in found.items():
        expected = numbered.get((key.namespace or 0, key.local_port))
        assert inodes(match) == ([] if expected is None else [expected])
