"""The sockets of flows that are looked up, as attribution asks for them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hogpipe.capture.ebpf.flow_socket_table import RowSockets
from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.row_flows import make_row_flows
from hogpipe.linux.bpf.maps import Losses
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.model import OWN_NAMESPACE, FlowKey, Quality, SnapshotSocket, SocketOwner

FLOW = FlowKey(6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1000, "")
OTHER = FlowKey(6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1001, "")
NGINX, WORKER = SocketOwner(10, 5, 0, "nginx", 1), SocketOwner(11, 6, 0, "nginx", 1)
CHILD = SocketOwner(99, 1000, 0, "child", 0)


def record(
    flow_sockets: FlowSockets,
    flow: FlowKey,
    cookie: int,
    owner: SocketOwner | None,
    quality: Quality,
    *,
    namespace: int = 3,
) -> bool:
    """Record a row of a flow; return whether the flow was another socket's before."""
    return record_rows(flow_sockets, [(flow, cookie)], namespace, owner, quality)[0]


def record_rows(
    flow_sockets: FlowSockets,
    rows: Sequence[tuple[FlowKey, int]],
    namespace: int = 3,
    owner: SocketOwner | None = NGINX,
    quality: Quality = Quality.LISTENER,
) -> list[bool]:
    """Record rows of flows with the cookies of their sockets in one call."""
    raw = b"".join(
        encode_endpoints(
            flow.local_address, flow.local_port, flow.remote_address, flow.remote_port,
            flow.protocol,
        )
        for flow, _cookie in rows
    )  # fmt: skip
    made = np.zeros(len(rows), TRAFFIC_ROW)
    made["endpoints"] = np.frombuffer(raw, np.uint64).reshape(len(rows), -1)
    none = np.zeros(len(rows), np.int64)
    sockets = RowSockets(
        np.array([cookie for _flow, cookie in rows], np.uint64),
        np.full(len(rows), namespace, np.uint64),
        none,
        [owner],
        np.full(len(rows), quality is Quality.LISTENER),
    )
    return flow_sockets.record(make_row_flows(made, none, [OWN_NAMESPACE]), sockets).tolist()


def record_release(flow_sockets: FlowSockets, cookie: int, owner: SocketOwner) -> None:
    flow_sockets.record_releases(np.array([cookie], np.uint64), np.zeros(1, np.int64), [owner])


def find_awaiting(flow_sockets: FlowSockets, cookies: list[int]) -> list[bool]:
    return flow_sockets.find_awaiting_release(np.array(cookies, np.uint64)).tolist()


def in_snapshot(cookie: int, owner: SocketOwner | None) -> SnapshotSocket:
    return SnapshotSocket(cookie, 3, 6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1000, owner)


def test_the_owner_of_an_open_connection_is_that_of_its_listening_socket() -> None:
    flow_sockets = FlowSockets()
    assert not record(flow_sockets, FLOW, 7, NGINX, Quality.LISTENER)
    entry = flow_sockets.owner_of(FLOW, 3)
    assert entry is not None
    assert (entry.quality, entry.owner, entry.cookie) == (Quality.LISTENER, NGINX, 7)
    assert flow_sockets.owner_of(FLOW, 4) is None
    assert flow_sockets.owner_of(FLOW, None) == entry
    assert flow_sockets.owner_of(OTHER, 3) is None


def test_the_owner_of_a_socket_from_before_the_programs_is_that_of_the_snapshot() -> None:
    flow_sockets = FlowSockets()
    flow_sockets.ingest_snapshot([in_snapshot(7, WORKER), in_snapshot(8, None)])
    record(flow_sockets, FLOW, 7, None, Quality.EXACT, namespace=0)
    record(flow_sockets, OTHER, 8, None, Quality.EXACT, namespace=0)
    entry = flow_sockets.owner_of(FLOW, 3)
    assert entry is not None
    assert (entry.quality, entry.owner) == (Quality.EXACT, WORKER)
    assert flow_sockets.owner_of(OTHER, 3) is None
    found = flow_sockets.find_snapshot_namespaces(np.array([7, 9, 8], np.uint64))
    assert found.tolist() == [3, 0, 3]


def test_an_accepted_connection_of_an_older_listener_has_the_owner_of_that() -> None:
    def listening(cookie: int, address: bytes, owner: SocketOwner) -> SnapshotSocket:
        return SnapshotSocket(cookie, 3, 6, address, 80, bytes(4), 0, owner)

    flow_sockets = FlowSockets()
    record(flow_sockets, FLOW, 7, None, Quality.LISTENER)
    assert flow_sockets.owner_of(FLOW, 3) is None
    sockets = [listening(1, bytes(4), NGINX), listening(2, b"\x0a\0\0\3", WORKER)]
    flow_sockets.ingest_snapshot(sockets)
    entry = flow_sockets.owner_of(FLOW, 3)
    assert entry is not None
    assert (entry.quality, entry.owner) == (Quality.LISTENER, NGINX)
    assert entry.awaits_release
    flow_sockets.ingest_snapshot([*sockets, listening(4, FLOW.local_address, WORKER)])
    assert flow_sockets.owner_of(FLOW, 3) is None
    record_release(flow_sockets, 7, WORKER)
    released = flow_sockets.owner_of(FLOW, 3)
    assert released is not None
    assert (released.quality, released.owner) == (Quality.EXACT, WORKER)


def test_a_flow_that_another_socket_has_now_is_reported() -> None:
    flow_sockets = FlowSockets()
    answers = [
        record(flow_sockets, FLOW, cookie, NGINX, Quality.LISTENER) for cookie in (7, 7, 8, 8)
    ]
    assert answers == [False, False, True, False]


def test_the_flows_recorded_longest_ago_are_evicted_and_counted() -> None:
    flow_sockets = FlowSockets(max_flows=1)
    record(flow_sockets, FLOW, 7, NGINX, Quality.LISTENER)
    record(flow_sockets, OTHER, 8, NGINX, Quality.LISTENER)
    flow_sockets.set_losses(Losses(1, 2, 3), 4)
    counts = flow_sockets.counts()
    assert flow_sockets.owner_of(FLOW, 3) is None
    assert flow_sockets.owner_of(OTHER, 3) is not None
    assert (counts.sockets, counts.events, counts.evicted) == (1, 2, 1)
    assert (counts.events_lost, counts.sockets_lost, counts.unidentified_processes) == (1, 2, 4)


def test_flows_that_are_no_longer_recorded_expire() -> None:
    now = 0.0
    flow_sockets = FlowSockets(clock=lambda: now)
    record(flow_sockets, FLOW, 7, NGINX, Quality.LISTENER)
    for now in (31.0, 62.0, 93.0):
        record(flow_sockets, OTHER, 8, NGINX, Quality.LISTENER)
        is_known = now < 60
        assert (flow_sockets.owner_of(FLOW, 3) is not None) is is_known
        assert find_awaiting(flow_sockets, [7, 8]) == [is_known, True]
        assert flow_sockets.counts().sockets == 1 + is_known
    now = 130.0
    record(flow_sockets, FLOW, 7, NGINX, Quality.EXACT)  # now OTHER is of the former generation
    record_release(flow_sockets, 8, WORKER)
    entry = flow_sockets.owner_of(OTHER, 3)
    assert entry is not None
    assert (entry.owner, entry.is_released) == (WORKER, True)


def test_an_accepted_connection_has_the_owner_that_closed_it_once_its_release_is_recorded() -> None:
    flow_sockets = FlowSockets()
    record(flow_sockets, FLOW, 7, NGINX, Quality.LISTENER)
    record(flow_sockets, OTHER, 8, NGINX, Quality.EXACT)
    awaiting = flow_sockets.owner_of(FLOW, 3)
    assert awaiting is not None
    assert (awaiting.awaits_release, awaiting.is_released) == (True, False)
    assert find_awaiting(flow_sockets, [7, 8, 9]) == [True, False, False]
    for cookie in (7, 8, 9):
        record_release(flow_sockets, cookie, WORKER)
    entry, other = flow_sockets.owner_of(FLOW, 3), flow_sockets.owner_of(OTHER, 3)
    assert entry is not None
    assert (entry.quality, entry.owner) == (Quality.EXACT, WORKER)
    assert (entry.awaits_release, entry.is_released, entry.is_lasting) == (False, True, False)
    assert not entry.may_outlive_owner
    assert other is not None
    assert other.owner == NGINX
    assert find_awaiting(flow_sockets, [7]) == [False]


def test_no_release_is_awaited_of_flows_that_were_evicted_or_replaced() -> None:
    flow_sockets = FlowSockets(max_flows=1)
    for flow, cookie in ((FLOW, 7), (OTHER, 8), (OTHER, 9)):
        record(flow_sockets, flow, cookie, NGINX, Quality.LISTENER)
    assert find_awaiting(flow_sockets, [7, 8, 9]) == [False, False, True]


@pytest.mark.parametrize(
    ("flow", "quality", "is_lasting"),
    [
        (FLOW, Quality.EXACT, True),
        (FLOW, Quality.LISTENER, False),
        (replace(FLOW, protocol=17), Quality.EXACT, False),
    ],
)
def test_a_connection_that_is_looked_up_may_have_been_passed_on(
    flow: FlowKey, quality: Quality, is_lasting: bool
) -> None:
    flow_sockets = FlowSockets()
    record(flow_sockets, flow, 7, NGINX, quality)
    entry = flow_sockets.owner_of(flow, 3)
    assert entry is not None
    assert entry.is_lasting is is_lasting


def test_a_confirmation_holds_longer_each_time() -> None:
    now = 0.0
    flow_sockets = FlowSockets(clock=lambda: now)
    confirmed = []
    while now < 40:
        if flow_sockets.find_unconfirmed([7]) == [True]:
            flow_sockets.record_comparison(7, holder=None)
            confirmed.append(now)
        now += 0.5
    assert confirmed == [0.0, 1.0, 3.0, 7.0, 15.0, 23.0, 31.0, 39.0]


def test_confirmations_are_bounded_and_those_made_longest_ago_are_evicted() -> None:
    flow_sockets = FlowSockets(max_flows=2, clock=lambda: 0.0)
    for cookie in (7, 8, 7, 9):
        flow_sockets.record_comparison(cookie, holder=None)
    assert flow_sockets.find_unconfirmed([7, 8, 9]) == [False, True, False]


def test_a_connection_that_was_passed_on_is_its_holders_and_looked_up_to_its_end() -> None:
    """Also where its first owner has it again: then that is the holder."""
    flow_sockets = FlowSockets(clock=lambda: 0.0)
    record(flow_sockets, FLOW, 7, NGINX, Quality.EXACT)
    owners, unconfirmed, passed_on = [], [], []
    for holder in (None, CHILD, None, NGINX):
        flow_sockets.record_comparison(7, holder=holder)
        entry = flow_sockets.owner_of(FLOW, 3)
        assert entry is not None
        owners.append(entry.owner)
        unconfirmed += flow_sockets.find_unconfirmed([7])
        passed_on += flow_sockets.find_passed_on([7])
    assert owners == [NGINX, CHILD, CHILD, NGINX]
    assert unconfirmed == passed_on == [False, True, True, True]
    assert flow_sockets.find_passed_on([8]) == [False]


def test_a_flood_of_flows_leaves_at_most_the_bound_and_the_newest_of_them() -> None:
    flow_sockets = FlowSockets(max_flows=300)
    flows = [replace(FLOW, remote_port=port) for port in range(2000)]
    for cookie, flow in enumerate(flows):
        record(flow_sockets, flow, cookie, NGINX, Quality.EXACT)
        assert flow_sockets.counts().sockets <= 300
    counts = flow_sockets.counts()
    assert counts.sockets + counts.evicted == len(flows)
    is_known = [flow_sockets.owner_of(flow, 3) is not None for flow in flows]
    assert is_known == sorted(is_known)
    assert counts.sockets == sum(is_known) > 290


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), min_size=1, max_size=6),
        max_size=6,
    ),
    st.integers(1, 9),
)
def test_flows_recorded_in_columns_are_as_if_recorded_one_by_one(
    epochs: list[list[tuple[int, int]]], max_flows: int
) -> None:
    """As far as there is room; with more flows in one call than that, the bound holds."""
    flow_sockets = FlowSockets(max_flows)
    known: dict[FlowKey, int] = {}
    for rows in epochs:
        made = [(replace(FLOW, remote_port=port), cookie) for port, cookie in rows]
        changed = record_rows(flow_sockets, made)
        has_room = len(known.keys() | {flow for flow, _cookie in made}) <= max_flows
        reopened = set()
        for flow, cookie in made:
            if known.pop(flow, cookie) != cookie:
                reopened.add(flow)
            known[flow] = cookie
        counts = flow_sockets.counts()
        assert counts.sockets <= max_flows
        if not has_room:
            assert counts.evicted
            break
        assert {flow for (flow, _), is_other in zip(made, changed, strict=True) if is_other} == (
            reopened
        )
        for flow, cookie in known.items():
            entry = flow_sockets.owner_of(flow, 3)
            assert entry is not None
            assert entry.cookie == cookie


def test_flows_have_their_owners_however_many_owners_there_were() -> None:
    flow_sockets = FlowSockets(max_flows=4)
    owners = [SocketOwner(pid, 5, 0, "curl", 1) for pid in range(1, 900)]
    for owner in owners:
        flow = replace(FLOW, remote_port=owner.pid % 7)
        record(flow_sockets, flow, owner.pid, owner, Quality.EXACT)
        entry = flow_sockets.owner_of(flow, 3)
        assert entry is not None
        assert entry.owner == owner
    known = [flow_sockets.owner_of(replace(FLOW, remote_port=port), 3) for port in range(7)]
    assert {entry.owner for entry in known if entry} <= set(owners[-4:])
