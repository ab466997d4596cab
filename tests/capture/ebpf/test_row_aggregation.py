"""Rows become sums by owner and flows to look up: no byte is lost, and each has its owner."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.flow_rows import list_sums
from support.health import encode_health, healths
from support.traffic import make_traffic

from hogpipe.aggregation.dimensions import RowField, list_row_fields
from hogpipe.capture.ebpf import row_aggregation
from hogpipe.capture.ebpf.row_aggregation import EpochRows, RowAggregator
from hogpipe.capture.ebpf.row_flows import RowFlows, make_row_flows
from hogpipe.capture.ebpf.unresolved_rows import UnresolvedRows
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.health_columns import decode_health
from hogpipe.flows.packet_rows import Flags, FlowSums, PacketRows
from hogpipe.linux.bpf.health_rows import NO_HEALTH, HealthRows
from hogpipe.linux.bpf.shapes import BY_LISTENER, FRESH, PACKET_SOCKET, RELEASED, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import (
    RowOwner,
    Rows,
    TrafficRow,
    decode_rows,
    encode_endpoints,
)
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    OWN_NAMESPACE,
    UNKNOWN_FLOW,
    Attribution,
    CaptureCounts,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    TcpHealth,
    TrafficCounts,
    is_sum,
)

HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
TCP, UDP = 6, 17
LISTENER, WORKER, SYSTEMD, EXITED = 10, 11, 1, 9
REUSED, REUSED_NS = 8, 6  # the pid of a process that started after the records of another


class FakeOwners:
    """The owners in a test."""

    own_namespace = 3

    def __init__(self) -> None:
        self.unresolved: list[TrafficRow] = []
        self.unconfirmed: set[int] = set()
        self.passed_on: set[int] = set()
        self.awaiting_release: set[int] = set()
        self.releases: list[tuple[int, int]] = []
        self.earlier: dict[int, RowOwner] = {}
        self.reopened: set[int] = set()
        """Cookies of sockets whose flows were those of others."""

    def find_earlier_owners(
        self, cookies: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], list[RowOwner | None]]:
        owners = [None, *self.earlier.values()]
        numbers = [owners.index(self.earlier.get(cookie)) for cookie in cookies.tolist()]
        return np.array(numbers), owners

    def find_unconfirmed(self, cookies: Collection[int]) -> list[bool]:
        return [cookie in self.unconfirmed for cookie in cookies]

    def find_passed_on(self, cookies: Collection[int]) -> list[bool]:
        return [cookie in self.passed_on for cookie in cookies]

    def record_releases(self, rows: Rows, exited: Flags) -> None:
        assert len(rows) == len(exited)
        for one in decode_rows(rows):
            if one.cookie in self.awaiting_release:
                self.releases.append((one.cookie, one.owner.pid))

    def find_start_ns(self, pid: int) -> int | None:
        return None if pid == EXITED else REUSED_NS if pid == REUSED else 0

    def attribute(self, owner: RowOwner, quality: Quality) -> Attribution:
        return Attribution(quality, Process(owner.pid, owner.boot_ns, command=owner.command))

    def record_unresolved(self, rows: Rows, exited: Flags) -> tuple[RowFlows, Flags]:
        assert len(rows) == len(exited)
        self.unresolved += decode_rows(rows)
        flows = make_row_flows(rows, np.zeros(len(rows), np.intp), [OWN_NAMESPACE])
        return flows, np.isin(rows["cookie"], list(self.reopened))


class Owned(NamedTuple):
    """A row of the sums by owner."""

    flow: FlowKey
    traffic: TrafficCounts
    attribution: Attribution
    flows: int


class Batch(NamedTuple):
    """What is in a flow batch, one by one."""

    owned: list[Owned]
    flows: dict[FlowKey, FlowDelta]
    """Those that are looked up, and sums."""
    counts: CaptureCounts


def list_owned(sums: FlowSums | None) -> list[Owned]:
    if sums is None:
        return []
    assert sums.new_flows is not None
    rows = zip(list_sums(sums), sums.new_flows.tolist(), strict=True)
    return [Owned(*row, flows) for row, flows in rows]


class Bench:
    """A row aggregator beside a flow table."""

    def __init__(self, owners: FakeOwners | None = None, fields: Collection[RowField] = ()) -> None:
        self.owners = owners or FakeOwners()
        self.table = FlowTable(1000, 1000)
        unresolved = UnresolvedRows(self.table, lambda: 0.0)
        self.rows = RowAggregator(self.owners, unresolved, fields)
        self.healths: list[TcpHealth] = []
        """All that is known, of owners and of flows that are looked up."""

    def aggregate(
        self,
        one: EpochRows,
        health: HealthRows = NO_HEALTH,
        *,
        window_ends: bool = True,
        last: bool = False,
    ) -> Iterator[Batch]:
        for batch in self.rows.aggregate(one, health, window_ends=window_ends, last=last):
            assert not batch.flows
            self.healths += self._list_health(batch)
            flows = self._count(batch.rows) if batch.rows is not None else {}
            yield Batch(list_owned(batch.owned), flows, batch.counts)

    def _list_health(self, batch: FlowBatch) -> list[TcpHealth]:
        found = [] if batch.health is None else decode_health(batch.health.health.tolist())
        if batch.owned is not None and batch.owned.health is not None:
            found += decode_health(batch.owned.health.tolist())
        return [one for one in found if one is not None]

    def _count(self, rows: PacketRows) -> dict[FlowKey, FlowDelta]:
        flows = self.table.count(rows, 0.0)
        self.table.receive(flows, 0.0)
        for flow, traffic, _attribution in list_sums(self.table.drain()):
            flows.setdefault(flow, FlowDelta()).add_counts(traffic)
        return flows


def row(
    pid: int,
    endpoints: bytes = b"",
    counts: tuple[int, int, int, int] = (100, 1, 200, 2),
    *,
    cookie: int = 1,
    by_listener: bool = False,
    released: bool = False,
    fresh: bool = False,
    command: str = "python",
    boot_ns: int = 5,
    namespace: int = 3,
) -> Rows:
    made = np.zeros(1, TRAFFIC_ROW)
    made["cookie"], made["pid"] = cookie, pid
    made["flags"] = BY_LISTENER * by_listener | RELEASED * released | FRESH * fresh
    made["counts"], made["boot_ns"], made["namespace"] = counts, boot_ns, namespace
    made["command"] = np.frombuffer(command.encode().ljust(16, b"\0"), np.uint64)
    made["endpoints"] = np.frombuffer(endpoints or encode_endpoints(b"", 0, b"", 0, 0), np.uint64)
    return made


def pack(port: int, protocol: int = TCP, remote_port: int = 80) -> bytes:
    return encode_endpoints(HERE, port, THERE, remote_port, protocol)


def rows(*made: Rows) -> Rows:
    return np.concatenate([np.zeros(0, TRAFFIC_ROW), *made])


def epoch(
    other_flows: Rows | None = None,
    connections: Rows | None = None,
    overflow: Rows | None = None,
) -> EpochRows:
    return EpochRows(
        *(rows() if one is None else one for one in (other_flows, connections, overflow))
    )


def aggregate(
    one: EpochRows,
    *dimensions: str,
    owners: FakeOwners | None = None,
    bench: Bench | None = None,
) -> list[Batch]:
    return list((bench or Bench(owners, list_row_fields(dimensions))).aggregate(one))


def test_the_connections_of_a_process_are_one_sum() -> None:
    connections = rows(*(row(7, pack(port), cookie=port) for port in range(1000, 1010)))
    (batch,) = aggregate(epoch(connections=connections), "process")
    (owned,) = batch.owned
    assert owned.flows == 10
    assert owned.traffic == make_traffic((1000, 10), (2000, 20))
    assert owned.attribution == Attribution(Quality.EXACT, Process(7, 5, command="python"))
    assert batch.flows == {}
    assert (batch.counts.captured.packets, batch.counts.captured.bytes) == (30, 3000)


@pytest.mark.parametrize(
    ("dimension", "groups"), [("transport", 2), ("remote", 1), ("network_type", 1), ("flow", 3)]
)
def test_rows_that_differ_in_a_dimension_are_kept_apart(dimension: str, groups: int) -> None:
    other_flows = rows(row(7, pack(1000, UDP)), row(7, pack(1001, UDP)))
    connections = row(7, pack(1000))
    (batch,) = aggregate(epoch(other_flows, connections), "process", dimension)
    assert len(batch.owned) == groups
    assert sum(one.flows for one in batch.owned) == 3


def test_the_handshake_is_added_to_the_process_that_served_the_connection() -> None:
    handshake = row(LISTENER, pack(80, remote_port=1000), (60, 1, 112, 2), by_listener=True)
    served = row(WORKER, pack(80, remote_port=1000), cookie=2)
    (batch,) = aggregate(epoch(handshake, served), "process")
    (owned,) = batch.owned
    assert owned.attribution.process is not None
    assert owned.attribution.process.pid == WORKER
    assert owned.traffic == make_traffic((160, 2), (312, 4))
    assert owned.flows == 1


def test_a_handshake_is_not_added_to_equal_endpoints_in_another_namespace() -> None:
    handshake = row(LISTENER, pack(80), by_listener=True, namespace=4)
    served = row(WORKER, pack(80), cookie=2)
    bench = Bench(fields=list_row_fields(["process"]))
    qualities = []
    for one in (epoch(handshake, served), epoch(connections=served), epoch()):
        (batch,) = aggregate(one, bench=bench)
        qualities.append({owned.attribution.quality for owned in batch.owned})
    assert qualities == [{Quality.EXACT}, {Quality.EXACT, Quality.LISTENER}, set()]


def test_packets_of_the_kernel_are_added_to_the_owner_of_their_connection() -> None:
    last = row(0, pack(1000), (52, 1, 0, 0), cookie=9, namespace=0)
    (batch,) = aggregate(epoch(last, row(7, pack(1000))), "process")
    assert batch.flows == {}
    assert batch.owned[0].traffic.transmit_bytes == 152


def test_what_is_written_to_a_packet_socket_is_its_senders_and_of_our_own_namespace() -> None:
    injected = row(EXITED, pack(80), (60, 1, 0, 0), cookie=2, namespace=0)
    injected["flags"] |= PACKET_SOCKET | RELEASED
    (batch,) = aggregate(epoch(injected, row(7, pack(80))), "process", "flow")
    assert batch.flows == {}
    moved = {
        (one.attribution.process and one.attribution.process.pid): one.traffic.transmit_bytes
        for one in batch.owned
    }
    assert moved == {EXITED: 60, 7: 100}
    assert {one.flow.namespace for one in batch.owned} == {OWN_NAMESPACE}


@pytest.mark.parametrize("last", [False, True])
def test_a_handshake_without_its_connection_is_the_listeners_after_another_epoch(
    *, last: bool
) -> None:
    handshake = row(LISTENER, pack(80), by_listener=True)
    bench = Bench(fields=list_row_fields(["process"]))
    batches = [
        batch
        for one, is_last in ((epoch(handshake), last), (epoch(), False))
        for batch in bench.aggregate(one, window_ends=True, last=is_last)
    ]
    owned = [[one.attribution.quality for one in batch.owned] for batch in batches]
    assert owned == ([[Quality.LISTENER], []] if last else [[], [Quality.LISTENER]])


def test_a_handshake_is_added_to_the_connection_that_is_established_in_the_next_epoch() -> None:
    handshake = row(LISTENER, pack(80), (60, 1, 60, 1), by_listener=True)
    served = row(WORKER, pack(80), cookie=2, released=True)
    bench = Bench(fields=list_row_fields(["process"]))
    (first,) = aggregate(epoch(handshake), bench=bench)
    assert (first.owned, first.counts.captured.bytes) == ([], 0)
    (batch,) = aggregate(epoch(connections=served), bench=bench)
    (owned,) = batch.owned
    assert owned.attribution.process is not None
    assert owned.attribution.process.pid == WORKER
    assert owned.traffic == make_traffic((160, 2), (260, 3))
    assert batch.counts.captured.bytes == 420


def test_open_connections_and_sockets_without_an_owner_are_looked_up() -> None:
    owners = FakeOwners()
    open_one = row(LISTENER, pack(80), by_listener=True)
    old_one = row(0, pack(81))
    activated = row(SYSTEMD, pack(53, UDP), command="systemd")
    (batch,) = aggregate(epoch(activated, rows(open_one, old_one)), "process", owners=owners)
    assert batch.owned == []
    assert len(batch.flows) == len(owners.unresolved) == 3


def test_datagrams_of_a_socket_from_before_the_programs_are_its_owners_in_the_snapshot() -> None:
    owners = FakeOwners()
    owners.earlier = {
        cookie: RowOwner(5, 1, WORKER + cookie, 0, "dns", 4, 0) for cookie in (2, 3, 9)
    }
    flows = rows(
        *(row(0, pack(53, UDP, peer), cookie=2, namespace=0) for peer in range(1000)),
        row(0, pack(54, UDP), cookie=3),
        row(0, pack(55, UDP), cookie=4),
        row(LISTENER, pack(56, UDP), cookie=9),
    )
    connection = row(0, pack(80), cookie=9)
    (batch,) = aggregate(epoch(flows, connection), "process", owners=owners)
    sums = {
        one.attribution.process and one.attribution.process.pid: one.flows for one in batch.owned
    }
    assert sums == {WORKER + 2: 1000, WORKER + 3: 1, LISTENER: 1}
    assert {flow.local_port for flow in batch.flows} == {55, 80}


def test_rows_that_are_too_many_to_look_up_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_aggregation, "_MAX_LOOKED_UP", 2)
    owners = FakeOwners()
    flows = rows(
        *(row(0, pack(53, UDP, peer)) for peer in range(5)),
        row(0, encode_endpoints(bytes(16), 53, bytes(16), 1, UDP)),
        row(0, pack(9, 132)),
    )
    connections = rows(*(row(0, pack(80, TCP, peer)) for peer in range(3)))
    whole = epoch(flows, connections, row(0))
    (batch,) = aggregate(whole, "process", owners=owners)
    folded = {
        (flow.protocol, len(flow.local_address)): delta.total_bytes
        for flow, delta in batch.flows.items()
        if is_sum(flow)
    }
    assert folded == {(UDP, 4): 900, (UDP, 16): 300, (132, 4): 300, (0, 0): 300}
    assert len(owners.unresolved) == 2 + 3 + 1, "connections and the overflow are looked up"
    assert batch.counts.overflowed.bytes == 300 + 1500
    assert sum(delta.total_bytes for delta in batch.flows.values()) == 11 * 300


def test_a_new_connection_that_is_open_at_the_end_of_an_epoch_is_carried_over() -> None:
    owners = FakeOwners()
    bench = Bench(owners)
    new = row(LISTENER, pack(80), cookie=2, by_listener=True, fresh=True)
    handshake = row(LISTENER, pack(80), (60, 1, 112, 2), by_listener=True)
    (batch,) = bench.aggregate(epoch(handshake, new), window_ends=True)
    assert (batch.owned, batch.flows, batch.counts.captured.bytes) == ([], {}, 0)
    served = row(WORKER, pack(80), cookie=2, released=True)
    other = row(WORKER, pack(81), cookie=1, released=True)
    (batch,) = bench.aggregate(epoch(connections=rows(other, served)), window_ends=True)
    (owned,) = batch.owned
    assert owned.attribution.process is not None
    assert owned.attribution.process.pid == WORKER
    assert (owned.flows, owned.traffic) == (2, make_traffic((360, 4), (712, 8)))
    assert owners.unresolved == []


def test_a_carried_over_row_is_added_once_to_a_connection_of_two_rows() -> None:
    bench = Bench()
    new = row(LISTENER, pack(80), by_listener=True, fresh=True)
    list(bench.aggregate(epoch(connections=new), window_ends=True))
    served, last_packets = (row(WORKER, pack(80), released=True) for _ in range(2))
    (batch,) = bench.aggregate(epoch(connections=rows(served, last_packets)), window_ends=True)
    assert batch.owned[0].traffic == make_traffic((300, 3), (600, 6))


@pytest.mark.parametrize("last", [True, False])
def test_a_connection_is_carried_over_once_and_not_in_the_last_epoch(last: bool) -> None:
    bench = Bench()
    new = row(LISTENER, pack(80), by_listener=True, fresh=True)
    batches = [*bench.aggregate(epoch(connections=new), window_ends=True, last=last)]
    if not last:
        assert batches[0].flows == {}
        batches = [*bench.aggregate(epoch(), window_ends=True)]
    assert [delta.total_bytes for delta in batches[0].flows.values()] == [300]


def test_a_connection_that_no_other_process_closed_is_the_listeners() -> None:
    closed = row(LISTENER, pack(80), by_listener=True, released=True)
    (batch,) = aggregate(epoch(connections=closed), "process")
    assert batch.owned[0].attribution.quality is Quality.LISTENER


def test_a_socket_that_outlives_its_owner_is_looked_up() -> None:
    alive = row(EXITED, pack(1000), cookie=1)
    closed = row(EXITED, pack(1001), cookie=2, released=True)
    (batch,) = aggregate(epoch(connections=rows(alive, closed)), "process")
    assert len(batch.flows) == len(batch.owned) == 1
    (flow,) = batch.flows
    assert flow.local_port == 1000


def test_a_socket_is_released_if_one_of_its_rows_has_the_flag() -> None:
    flows = rows(*(row(EXITED, pack(53, UDP, peer), released=peer == 1) for peer in (1, 2)))
    (batch,) = aggregate(epoch(flows), "process")
    assert batch.flows == {}
    assert [one.flows for one in batch.owned] == [2]


def test_a_socket_whose_owners_pid_was_reused_is_looked_up() -> None:
    left = row(REUSED, pack(1000), cookie=1, boot_ns=REUSED_NS - 1)
    own = row(REUSED, pack(1001), cookie=2, boot_ns=REUSED_NS)
    (batch,) = aggregate(epoch(connections=rows(left, own)), "process")
    assert [flow.local_port for flow in batch.flows] == [1000]
    assert [one.flow.local_port for one in batch.owned] == [1001]


@pytest.mark.parametrize(
    ("made", "is_looked_up"),
    [
        (row(10, pack(1000)), True),
        (row(10, pack(1000), cookie=2), False),
        (row(10, pack(1000), released=True), False),
        (row(10, pack(1000), cookie=3, released=True), True),
        (row(10, b""), False),
    ],
    ids=["open", "confirmed", "released", "released after it was passed on", "without endpoints"],
)
def test_an_open_connection_is_looked_up_until_its_owner_is_confirmed(
    made: Rows, is_looked_up: bool
) -> None:
    owners = FakeOwners()
    owners.unconfirmed, owners.passed_on = {1, 3}, {3}
    (batch,) = Bench(owners).aggregate(epoch(connections=made), window_ends=True)
    assert (bool(batch.flows), bool(batch.owned)) == (is_looked_up, not is_looked_up)


def test_two_processes_of_one_pid_are_kept_apart() -> None:
    records = [
        row(REUSED, pack(1000 + at), cookie=at, boot_ns=at, released=True)
        for at in (REUSED_NS - 1, REUSED_NS)
    ]
    (batch,) = aggregate(epoch(connections=rows(*records)), "process")
    owners = [one.attribution.process for one in batch.owned]
    assert {owner and owner.start for owner in owners} == {REUSED_NS - 1, REUSED_NS}


def test_two_sockets_of_one_flow_are_looked_up_together() -> None:
    both = rows(row(0, pack(80), cookie=1), row(0, pack(80), cookie=2))
    (batch,) = aggregate(epoch(connections=both), "process")
    (delta,) = batch.flows.values()
    assert delta.total_bytes == 600


def test_overflow_is_its_processes_without_a_flow() -> None:
    (batch,) = aggregate(epoch(overflow=rows(row(7), row(0))), "process", "flow")
    assert [one.flow for one in batch.owned] == [UNKNOWN_FLOW] == list(batch.flows)
    assert batch.counts.overflowed.bytes == batch.counts.captured.bytes == 600


def test_overflow_of_a_process_that_exited_is_its_own() -> None:
    (batch,) = aggregate(epoch(overflow=rows(row(EXITED))), "process")
    assert [one.attribution.quality for one in batch.owned] == [Quality.EXACT]
    assert batch.flows == {}


def test_flows_of_other_namespaces_are_not_kept_apart_where_their_owner_is_known() -> None:
    own = FakeOwners.own_namespace
    made = rows(*(row(7, pack(1000), namespace=at) for at in (own, own + 1, own + 2)))
    (batch,) = aggregate(epoch(connections=rows(made[:1])), "flow")
    assert [one.flow.namespace for one in batch.owned] == [OWN_NAMESPACE]
    (batch,) = aggregate(epoch(connections=rows(made[1:])), "flow")
    assert [(one.flow.namespace, one.flows) for one in batch.owned] == [(None, 2)]


def test_many_sums_are_handed_over_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_aggregation, "_SUMS_IN_BATCH", 2)
    made = rows(row(0, pack(80)), *(row(7, pack(port), cookie=port) for port in range(1, 6)))
    batches = aggregate(epoch(connections=made), "process", "flow")
    assert [(len(batch.owned), len(batch.flows)) for batch in batches] == [(2, 1), (2, 0), (1, 0)]
    assert sum(batch.counts.captured.bytes for batch in batches) == 6 * 300
    assert {one.flow.local_port for batch in batches for one in batch.owned} == {*range(1, 6)}


def test_a_process_is_identified_by_its_earliest_record() -> None:
    records = rows(*(row(7, pack(1000 + at), cookie=at, boot_ns=at) for at in (30, 10, 20)))
    (batch,) = aggregate(epoch(connections=records), "process")
    assert batch.owned[0].attribution.process is not None
    assert batch.owned[0].attribution.process.start == 10


def test_a_flow_counts_once_in_a_window_of_several_epochs() -> None:
    bench = Bench()
    again = [row(7, pack(1000), cookie=1), row(7, pack(1001), cookie=2)]
    flows = []
    for connections, window_ends in (
        (rows(again[0]), False),
        (rows(*again), True),
        (rows(*again), True),
    ):
        (batch,) = bench.aggregate(epoch(connections=connections), window_ends=window_ends)
        flows.append(batch.owned[0].flows)
    assert flows == [1, 1, 2]


pids = st.sampled_from([0, 7, EXITED, REUSED])
counts = st.tuples(*[st.integers(0, 1 << 40)] * 4)
some_endpoints = st.builds(
    pack, st.integers(1, 3), st.sampled_from([1, TCP, UDP]), st.integers(1, 2)
)
some_rows = st.builds(
    row,
    pids,
    some_endpoints,
    counts,
    cookie=st.integers(1, 4),
    by_listener=st.booleans(),
    released=st.booleans(),
    fresh=st.booleans(),
    command=st.sampled_from(["python", "systemd", "nginx"]),
    boot_ns=st.integers(1, REUSED_NS + 1),
    namespace=st.integers(0, 2),
)
overflow = st.builds(row, pids, counts=counts)
epochs = st.builds(
    epoch,
    st.lists(some_rows, max_size=8).map(lambda made: rows(*made)),
    st.lists(some_rows, max_size=8).map(lambda made: rows(*made)),
    st.lists(overflow, max_size=3).map(lambda made: rows(*made)),
)


@given(
    st.lists(epochs, min_size=1, max_size=3),
    st.sets(st.sampled_from(["process", "transport", "remote", "flow", "user"])),
)
def test_bytes_and_packets_are_conserved(run: list[EpochRows], dimensions: set[str]) -> None:
    """However rows are grouped in later epochs."""
    before = sum(table["counts"].sum(axis=0) for one in run for table in one).tolist()
    bench = Bench(fields=list_row_fields(dimensions))
    after: Counter[int] = Counter()
    for number, one in enumerate(run, 1):
        if number == 2:
            bench.rows.regroup(list_row_fields(["transport"]), BUILT_IN_NETWORKS)
        captured = [0, 0]
        batched = [0, 0]
        for batch in bench.aggregate(one, window_ends=True, last=number == len(run)):
            for moved in (*batch.flows.values(), *(owned.traffic for owned in batch.owned)):
                after[0] += moved.transmit_bytes
                after[1] += moved.transmit_packets
                after[2] += moved.receive_bytes
                after[3] += moved.receive_packets
                batched[0] += moved.total_bytes
                batched[1] += moved.transmit_packets + moved.receive_packets
            captured[0] += batch.counts.captured.bytes
            captured[1] += batch.counts.captured.packets
        assert captured == batched
    assert [after[at] for at in range(4)] == before


@given(st.lists(st.tuples(epochs, st.lists(healths, min_size=8)), min_size=1, max_size=3))
def test_the_health_of_connections_is_conserved(
    run: list[tuple[EpochRows, list[TcpHealth]]],
) -> None:
    """Also that of connections that are carried over, whoever owns them."""
    bench, before = Bench(fields=list_row_fields(["process"])), TcpHealth()
    for number, (one, made) in enumerate(run, 1):
        known = made[: len(one.connections)]
        health = HealthRows(one.connections["cookie"], encode_health(known))
        for counted in known:
            before.add(counted)
        list(bench.aggregate(one, health, last=number == len(run)))
    after = TcpHealth()
    for found in bench.healths:
        after.add(found)
    assert after == before


def test_a_connection_of_which_only_the_health_changed_is_no_flow_of_the_window() -> None:
    connections = rows(row(7, pack(1000), (0, 0, 0, 0)))
    bench = Bench(fields=list_row_fields(["process"]))
    health = HealthRows(connections["cookie"], encode_health([TcpHealth(timed_out=1)]))
    (batch,) = bench.aggregate(epoch(connections=connections), health)
    assert [one.flows for one in batch.owned] == [0]
    assert bench.healths == [TcpHealth(timed_out=1)]


@given(
    st.lists(some_rows, max_size=12).map(lambda made: rows(*made)),
    st.dictionaries(st.integers(0, 4), st.sampled_from([7, EXITED, WORKER])),
)
def test_a_row_without_an_owner_has_that_of_its_datagram_socket_from_before(
    other_flows: Rows, pids: dict[int, int]
) -> None:
    owners = FakeOwners()
    owners.earlier = {
        cookie: RowOwner(5, 1, pid, 0, "dns", 4, 0) for cookie, pid in pids.items() if cookie
    }
    expected: Counter[int] = Counter()
    for one in decode_rows(other_flows):
        pid = one.owner.pid
        if not pid and one.cookie and one.endpoints.protocol != TCP:
            pid = pids.get(one.cookie, 0)
        expected[pid] += one.counts.total_bytes
    found: Counter[int] = Counter()
    bench = Bench(owners)
    for batch in bench.aggregate(epoch(other_flows), window_ends=True, last=True):
        for owned in batch.owned:
            assert owned.attribution.process is not None
            found[owned.attribution.process.pid] += owned.traffic.total_bytes
    for row_ in owners.unresolved:
        found[row_.owner.pid] += row_.counts.total_bytes
    assert +found == +expected


def test_rows_are_grouped_by_the_fields_of_the_latest_regrouping() -> None:
    bench = Bench(fields=list_row_fields(["process"]))
    made = epoch(connections=rows(row(7, pack(1001), cookie=1), row(7, pack(1002), cookie=2)))
    groups = []
    for dimension in ("process", "flow", "transport"):
        bench.rows.regroup(list_row_fields([dimension]), BUILT_IN_NETWORKS)
        (batch,) = aggregate(made, bench=bench)
        groups.append(len(batch.owned))
    assert groups == [1, 2, 1]


def test_who_closed_a_connection_is_recorded_if_a_lookup_awaits_it() -> None:
    owners = FakeOwners()
    owners.awaiting_release = {1, 2, 3}
    connections = rows(
        row(WORKER, pack(1001), cookie=1, released=True),
        row(LISTENER, pack(1002), cookie=2, by_listener=True),
        row(LISTENER, pack(1003), cookie=3, by_listener=True, released=True),
        row(WORKER, pack(1004), cookie=4, released=True),
    )
    aggregate(epoch(connections=connections), owners=owners)
    assert owners.releases == [(1, WORKER)]
