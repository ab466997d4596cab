"""Entries of the kernel's tables become flows: nothing is lost, and each goes where it should."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_traffic

from hogpipe.aggregation.dimensions import list_endpoint_fields
from hogpipe.capture.ebpf.row_aggregation import RowAggregator, Turn
from hogpipe.linux.bpf.shapes import BY_LISTENER, FRESH, RELEASED, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import Endpoints, RowOwner, Rows, TrafficRow, encode_endpoints
from hogpipe.model import (
    UNKNOWN_FLOW,
    Attribution,
    FlowBatch,
    FlowKey,
    Process,
    Quality,
)

HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
TCP, UDP = 6, 17
LISTENER, WORKER, SYSTEMD, GONE = 10, 11, 1, 9
REUSED, REUSED_NS = 8, 6  # the pid of a process that was started after the notes of another


class Known:
    """What is known of the sockets of a test."""

    def __init__(self) -> None:
        self.asked: list[TrafficRow] = []

    def name_flow(self, ends: Endpoints, holder: RowOwner) -> FlowKey:
        assert holder.pid
        return flow_of(ends)

    def started_ns(self, pid: int) -> int | None:
        return None if pid == GONE else REUSED_NS if pid == REUSED else 0

    def attribute(self, holder: RowOwner, quality: Quality) -> Attribution:
        return Attribution(quality, Process(holder.pid, holder.boot_ns, command=holder.command))

    def ask_for(self, entry: TrafficRow) -> tuple[FlowKey, bool]:
        self.asked.append(entry)
        return flow_of(entry.endpoints), False


def flow_of(ends: Endpoints) -> FlowKey:
    if not ends.local_address:
        return UNKNOWN_FLOW
    here, there = (ends.local_address, ends.local_port), (ends.remote_address, ends.remote_port)
    return FlowKey(ends.protocol, *here, *there, "")


def entry(
    pid: int,
    ends: bytes = b"",
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
    made["endpoints"] = np.frombuffer(ends or encode_endpoints(b"", 0, b"", 0, 0), np.uint64)
    return made


def ends(port: int, protocol: int = TCP, remote_port: int = 80) -> bytes:
    return encode_endpoints(HERE, port, THERE, remote_port, protocol)


def rows(*made: Rows) -> Rows:
    return np.concatenate([np.zeros(0, TRAFFIC_ROW), *made])


def turn(
    other_flows: Rows | None = None,
    connections: Rows | None = None,
    overflow: Rows | None = None,
) -> Turn:
    return Turn(*(rows() if one is None else one for one in (other_flows, connections, overflow)))


def sort(
    one: Turn, *dimensions: str, known: Known | None = None, sorter: RowAggregator | None = None
) -> list[FlowBatch]:
    sorter = sorter or RowAggregator(known or Known(), list_endpoint_fields(dimensions))
    return list(sorter.sort(one, window_ends=True))


def test_the_connections_of_a_process_are_one_sum() -> None:
    connections = rows(*(entry(7, ends(port), cookie=port) for port in range(1000, 1010)))
    (batch,) = sort(turn(connections=connections), "process")
    (owned,) = batch.owned
    assert owned.flows == 10
    assert owned.traffic == make_traffic((1000, 10), (2000, 20))
    assert owned.attribution == Attribution(Quality.EXACT, Process(7, 5, command="python"))
    assert batch.flows == {}
    assert (batch.counts.captured.packets, batch.counts.captured.bytes) == (30, 3000)


@pytest.mark.parametrize(
    ("dimension", "groups"), [("transport", 2), ("remote", 1), ("network_type", 1), ("flow", 3)]
)
def test_what_records_are_told_apart_by_is_kept_apart(dimension: str, groups: int) -> None:
    other_flows = rows(entry(7, ends(1000, UDP)), entry(7, ends(1001, UDP)))
    connections = entry(7, ends(1000))
    (batch,) = sort(turn(other_flows, connections), "process", dimension)
    assert len(batch.owned) == groups
    assert sum(one.flows for one in batch.owned) == 3


def test_a_connections_beginning_belongs_to_who_served_it() -> None:
    begin = entry(LISTENER, ends(80, remote_port=1000), (60, 1, 112, 2), by_listener=True)
    served = entry(WORKER, ends(80, remote_port=1000), cookie=2)
    (batch,) = sort(turn(begin, served), "process")
    (owned,) = batch.owned
    assert owned.attribution.process is not None
    assert owned.attribution.process.pid == WORKER
    assert owned.traffic == make_traffic((160, 2), (312, 4))
    assert owned.flows == 1


def test_a_beginning_is_not_given_to_equal_ends_in_another_namespace() -> None:
    begin = entry(LISTENER, ends(80), by_listener=True, namespace=4)
    served = entry(WORKER, ends(80), cookie=2)
    (batch,) = sort(turn(begin, served), "process")
    assert {one.attribution.quality for one in batch.owned} == {Quality.EXACT, Quality.LISTENER}


def test_what_the_kernel_sends_for_a_connection_is_its_owners() -> None:
    last = entry(0, ends(1000), (52, 1, 0, 0), cookie=9, namespace=0)
    (batch,) = sort(turn(last, entry(7, ends(1000))), "process")
    assert batch.flows == {}
    assert batch.owned[0].traffic.transmit_bytes == 152


def test_a_beginning_without_its_connection_is_the_listeners() -> None:
    begin = entry(LISTENER, ends(80), by_listener=True)
    (batch,) = sort(turn(begin), "process")
    assert batch.owned[0].attribution.quality is Quality.LISTENER


def test_an_open_connection_and_sockets_without_a_note_are_looked_up() -> None:
    known = Known()
    open_one = entry(LISTENER, ends(80), by_listener=True)
    old_one = entry(0, ends(81))
    activated = entry(SYSTEMD, ends(53, UDP), command="systemd")
    (batch,) = sort(turn(activated, rows(open_one, old_one)), "process", known=known)
    assert batch.owned == []
    assert len(batch.flows) == len(known.asked) == 3


def test_a_new_connection_that_is_open_at_the_end_of_a_turn_waits_for_the_next() -> None:
    known = Known()
    sorter = RowAggregator(known, [])
    new = entry(LISTENER, ends(80), cookie=2, by_listener=True, fresh=True)
    handshake = entry(LISTENER, ends(80), (60, 1, 112, 2), by_listener=True)
    (batch,) = sorter.sort(turn(handshake, new), window_ends=True)
    assert (batch.owned, batch.flows, batch.counts.captured.bytes) == ([], {}, 0)
    served = entry(WORKER, ends(80), cookie=2, released=True)
    other = entry(WORKER, ends(81), cookie=1, released=True)
    (batch,) = sorter.sort(turn(connections=rows(other, served)), window_ends=True)
    (owned,) = batch.owned
    assert owned.attribution.process is not None
    assert owned.attribution.process.pid == WORKER
    assert (owned.flows, owned.traffic) == (2, make_traffic((360, 4), (712, 8)))
    assert known.asked == []


def test_what_waited_is_added_once_to_a_connection_of_two_rows() -> None:
    sorter = RowAggregator(Known(), [])
    new = entry(LISTENER, ends(80), by_listener=True, fresh=True)
    list(sorter.sort(turn(connections=new), window_ends=True))
    served, farewell = (entry(WORKER, ends(80), released=True) for _ in range(2))
    (batch,) = sorter.sort(turn(connections=rows(served, farewell)), window_ends=True)
    assert batch.owned[0].traffic == make_traffic((300, 3), (600, 6))


@pytest.mark.parametrize("last", [True, False])
def test_a_connection_waits_once_and_not_at_the_end(last: bool) -> None:
    sorter = RowAggregator(Known(), [])
    new = entry(LISTENER, ends(80), by_listener=True, fresh=True)
    batches = [*sorter.sort(turn(connections=new), window_ends=True, last=last)]
    if not last:
        assert batches[0].flows == {}
        batches = [*sorter.sort(turn(), window_ends=True)]
    assert [delta.total_bytes for delta in batches[0].flows.values()] == [300]


def test_what_the_listeners_owner_let_go_without_a_trace_is_its_own() -> None:
    closed = entry(LISTENER, ends(80), by_listener=True, released=True)
    (batch,) = sort(turn(connections=closed), "process")
    assert batch.owned[0].attribution.quality is Quality.LISTENER


def test_a_socket_that_outlives_its_owner_is_looked_up() -> None:
    alive = entry(GONE, ends(1000), cookie=1)
    closed = entry(GONE, ends(1001), cookie=2, released=True)
    (batch,) = sort(turn(connections=rows(alive, closed)), "process")
    assert len(batch.flows) == len(batch.owned) == 1
    (flow,) = batch.flows
    assert flow.local_port == 1000


def test_a_socket_is_released_if_one_of_its_flows_says_so() -> None:
    flows = rows(*(entry(GONE, ends(53, UDP, peer), released=peer == 1) for peer in (1, 2)))
    (batch,) = sort(turn(flows), "process")
    assert batch.flows == {}
    assert [one.flows for one in batch.owned] == [2]


def test_a_socket_whose_owner_left_its_pid_to_another_is_looked_up() -> None:
    left = entry(REUSED, ends(1000), cookie=1, boot_ns=REUSED_NS - 1)
    own = entry(REUSED, ends(1001), cookie=2, boot_ns=REUSED_NS)
    (batch,) = sort(turn(connections=rows(left, own)), "process")
    assert [flow.local_port for flow in batch.flows] == [1000]
    assert [one.flow.local_port for one in batch.owned] == [1001]


def test_two_processes_of_one_pid_are_told_apart() -> None:
    notes = [
        entry(REUSED, ends(1000 + at), cookie=at, boot_ns=at, released=True)
        for at in (REUSED_NS - 1, REUSED_NS)
    ]
    (batch,) = sort(turn(connections=rows(*notes)), "process")
    owners = [one.attribution.process for one in batch.owned]
    assert {owner and owner.start for owner in owners} == {REUSED_NS - 1, REUSED_NS}


def test_two_sockets_of_one_flow_are_looked_up_together() -> None:
    both = rows(entry(0, ends(80), cookie=1), entry(0, ends(80), cookie=2))
    (batch,) = sort(turn(connections=both), "process")
    (delta,) = batch.flows.values()
    assert delta.total_bytes == 600


def test_what_found_no_room_is_its_processes_without_a_flow() -> None:
    (batch,) = sort(turn(overflow=rows(entry(7), entry(0))), "process", "flow")
    assert [one.flow for one in batch.owned] == [UNKNOWN_FLOW] == list(batch.flows)
    assert batch.counts.overflowed.bytes == batch.counts.captured.bytes == 600


def test_overflow_of_a_process_that_is_gone_is_its_own_all_the_same() -> None:
    (batch,) = sort(turn(overflow=rows(entry(GONE))), "process")
    assert [one.attribution.quality for one in batch.owned] == [Quality.EXACT]
    assert batch.flows == {}


def test_a_process_is_known_by_the_oldest_of_its_notes() -> None:
    notes = rows(*(entry(7, ends(1000 + at), cookie=at, boot_ns=at) for at in (30, 10, 20)))
    (batch,) = sort(turn(connections=notes), "process")
    assert batch.owned[0].attribution.process is not None
    assert batch.owned[0].attribution.process.start == 10


def test_a_flow_counts_once_in_a_window_of_several_turns() -> None:
    sorter = RowAggregator(Known(), [])
    again = [entry(7, ends(1000), cookie=1), entry(7, ends(1001), cookie=2)]
    flows = []
    for connections, window_ends in (
        (rows(again[0]), False),
        (rows(*again), True),
        (rows(*again), True),
    ):
        (batch,) = sorter.sort(turn(connections=connections), window_ends=window_ends)
        flows.append(batch.owned[0].flows)
    assert flows == [1, 1, 2]


pids = st.sampled_from([0, 7, GONE, REUSED])
counts = st.tuples(*[st.integers(0, 1 << 40)] * 4)
some_ends = st.builds(ends, st.integers(1, 3), st.sampled_from([1, TCP, UDP]), st.integers(1, 2))
entries = st.builds(
    entry,
    pids,
    some_ends,
    counts,
    cookie=st.integers(1, 4),
    by_listener=st.booleans(),
    released=st.booleans(),
    fresh=st.booleans(),
    command=st.sampled_from(["python", "systemd", "nginx"]),
    boot_ns=st.integers(1, REUSED_NS + 1),
    namespace=st.integers(0, 2),
)
overflow = st.builds(entry, pids, counts=counts)
turns = st.builds(
    turn,
    st.lists(entries, max_size=8).map(lambda made: rows(*made)),
    st.lists(entries, max_size=8).map(lambda made: rows(*made)),
    st.lists(overflow, max_size=3).map(lambda made: rows(*made)),
)


@given(
    st.lists(turns, min_size=1, max_size=3),
    st.sets(st.sampled_from(["process", "transport", "remote", "flow", "user"])),
)
def test_bytes_and_packets_are_conserved(run: list[Turn], dimensions: set[str]) -> None:
    went_in = sum(table["counts"].sum(axis=0) for one in run for table in one).tolist()
    sorter = RowAggregator(Known(), list_endpoint_fields(dimensions))
    came_out: Counter[int] = Counter()
    for number, one in enumerate(run, 1):
        captured = [0, 0]
        told = [0, 0]
        for batch in sorter.sort(one, window_ends=True, last=number == len(run)):
            for moved in (*batch.flows.values(), *(owned.traffic for owned in batch.owned)):
                came_out[0] += moved.transmit_bytes
                came_out[1] += moved.transmit_packets
                came_out[2] += moved.receive_bytes
                came_out[3] += moved.receive_packets
                told[0] += moved.total_bytes
                told[1] += moved.transmit_packets + moved.receive_packets
            captured[0] += batch.counts.captured.bytes
            captured[1] += batch.counts.captured.packets
        assert captured == told
    assert [came_out[at] for at in range(4)] == went_in
