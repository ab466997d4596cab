"""The owners that the ledger finds, from events as the kernel records them."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.ledger import (
    ALICE,
    ANY4,
    ANY6,
    BOB,
    ELSEWHERE,
    HERE,
    NAMESPACE,
    SERVICE_MANAGER,
    TCP,
    THERE,
    UDP,
    encode_event,
    find_owner,
    flow,
    make_event,
    span_at,
)

from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.attribution.ledger.socket_events import EventBlock, SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    CONTESTED,
    Contested,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
    Span,
)

UDP_FLOW = flow(5000, 53, UDP)
KEYS = [*(flow(port, 53) for port in range(50000, 50004)), flow(80, 53), UDP_FLOW]


def connect(
    ledger: Ledger, owner: SocketOwner, cookie: int = 1, namespace: int = NAMESPACE, at: float = 0.0
) -> None:
    ledger.ingest(
        make_event(
            EventKind.CONNECTED,
            cookie,
            40000,
            local=HERE,
            remote=THERE,
            remote_port=443,
            namespace=namespace,
            at=at,
        ),
        owner,
        at,
    )


def accept(ledger: Ledger, owner: SocketOwner | None, cookie: int = 1, at: float = 0.0) -> None:
    event = make_event(
        EventKind.ACCEPTED, cookie, 80, local=HERE, remote=THERE, remote_port=50000, at=at
    )
    ledger.ingest(event, owner, at)


def datagrams(
    ledger: Ledger,
    owner: SocketOwner,
    cookie: int,
    kind: EventKind,
    *,
    local_port: int = 5000,
    at: float = 0.0,
) -> None:
    event = make_event(kind, cookie, local_port, protocol=UDP, remote=THERE, remote_port=53, at=at)
    ledger.ingest(event, owner, at)


def release(
    ledger: Ledger,
    owner: SocketOwner,
    cookie: int,
    *,
    at: float,
    local_port: int = 0,
    protocol: int = UDP,
) -> None:
    far = 53 if local_port else 0
    ledger.ingest(
        make_event(
            EventKind.RELEASED, cookie, local_port, protocol=protocol, remote_port=far, at=at
        ),
        owner,
        at,
    )


def test_a_connection_is_owned_by_the_process_that_connected() -> None:
    ledger = Ledger()
    connect(ledger, ALICE)
    assert find_owner(ledger, flow(40000, 443)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(40000, 444)) is None
    assert find_owner(ledger, flow(40000, 443, local=ELSEWHERE)) is None


def test_equal_five_tuples_in_two_namespaces_have_two_owners() -> None:
    ledger = Ledger()
    connect(ledger, ALICE, cookie=1, namespace=1)
    connect(ledger, BOB, cookie=2, namespace=2)
    for namespace, owner in ((1, ALICE), (2, BOB)):
        entry = ledger.owner_of(flow(40000, 443), namespace, span_at(0), 0.0)
        assert isinstance(entry, LedgerEntry)
        assert entry.owner == owner
    assert ledger.owner_of(flow(40000, 443), None, span_at(0), 0.0) is None


def test_a_flow_of_an_unknown_namespace_has_an_owner_if_one_namespace_has_a_match() -> None:
    ledger = Ledger()
    connect(ledger, ALICE, namespace=5)
    entry = ledger.owner_of(flow(40000, 443), None, span_at(0), 0.0)
    assert isinstance(entry, LedgerEntry)
    assert entry.owner == ALICE


def test_a_reused_five_tuple_has_the_owner_of_the_time_and_invalidates_flows() -> None:
    ledger = Ledger()
    connect(ledger, ALICE, cookie=1)
    find_owner(ledger, flow(40000, 443))
    connect(ledger, BOB, cookie=2, at=5.0)
    assert ledger.stale.drain() == [flow(40000, 443)]
    assert find_owner(ledger, flow(40000, 443), 6.0) == (Quality.EXACT, BOB)
    assert ledger.stale.drain() == []
    assert find_owner(ledger, flow(40000, 443), 6.0, span_at(1.0, 2.0)) == (Quality.EXACT, ALICE)
    assert ledger.stale.drain() == [flow(40000, 443)]
    assert find_owner(ledger, flow(40000, 443), 6.0, span_at(4.0, 6.0)) is CONTESTED
    assert ledger.stale.drain() == [flow(40000, 443)]
    assert ledger.counts().contested == 1


def test_a_connection_on_a_reused_five_tuple_owns_its_packets_from_the_first() -> None:
    ledger = Ledger()
    connect(ledger, ALICE, cookie=1)
    connect(ledger, BOB, cookie=2, at=5.0)
    for first in (5.00002, 4.99998):  # the clocks of packets and events differ
        opening = span_at(first, 5.00005)
        assert find_owner(ledger, flow(40000, 443), 6.0, opening) == (Quality.EXACT, BOB)
    assert find_owner(ledger, flow(40000, 443), 6.0, span_at(5.00002, 6.0)) == (Quality.EXACT, BOB)
    assert find_owner(ledger, flow(40000, 443), 6.0, span_at(4.9998, 4.9999)) == (
        Quality.EXACT,
        ALICE,
    )
    assert find_owner(ledger, flow(40000, 443), 6.0, span_at(4.9998, 5.0001)) is CONTESTED


def test_an_accepted_connection_has_the_owner_of_the_listener_until_its_release() -> None:
    ledger = Ledger()
    accept(ledger, ALICE)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    ledger.ingest(make_event(EventKind.RELEASED, 1), BOB, 1.0)
    assert ledger.stale.drain() == [flow(80, 50000)]
    assert find_owner(ledger, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_an_accepted_connection_without_a_known_listener_has_an_owner_at_its_release() -> None:
    ledger = Ledger()
    accept(ledger, None)
    assert find_owner(ledger, flow(80, 50000)) is None
    ledger.ingest(make_event(EventKind.RELEASED, 1), BOB, 1.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_the_service_manager_does_not_own_what_its_services_accept() -> None:
    ledger = Ledger()
    accept(ledger, SERVICE_MANAGER)
    assert find_owner(ledger, flow(80, 50000)) is None
    ledger.ingest(make_event(EventKind.RELEASED, 1), BOB, 1.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_a_listening_socket_owns_flows_at_its_port() -> None:
    ledger = Ledger()
    ledger.ingest(make_event(EventKind.LISTENING, 1, 80, local=ANY6), ALICE, 0.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    ledger.ingest(make_event(EventKind.LISTENING, 2, 80, local=HERE), BOB, 0.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, BOB)
    assert find_owner(ledger, flow(80, 50000, local=ELSEWHERE)) == (Quality.LISTENER, ALICE)


def test_a_port_with_two_owners_is_ambiguous_and_counted() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND)
    datagrams(ledger, BOB, 2, EventKind.BOUND)
    assert find_owner(ledger, UDP_FLOW) is None
    assert ledger.counts().contested == 1


def test_threads_of_one_process_with_different_names_are_one_owner() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND)
    datagrams(ledger, SocketOwner(10, 100, 1000, "worker-7", 1), 2, EventKind.BOUND)
    assert find_owner(ledger, UDP_FLOW) == (Quality.LISTENER, ALICE)


def test_a_sender_is_exact_for_its_first_peer_and_a_listener_for_others() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.SENT)
    assert find_owner(ledger, UDP_FLOW) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_port_that_is_recorded_only_at_the_release_is_matched_from_then_on() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.CONNECTED, local_port=0)
    assert find_owner(ledger, UDP_FLOW) is None
    ledger.ingest(make_event(EventKind.RELEASED, 1, 5000, protocol=UDP, remote_port=53), ALICE, 1.0)
    assert find_owner(ledger, UDP_FLOW) == (Quality.EXACT, ALICE)


def test_a_port_recorded_with_another_peer_at_the_release_is_not_matched() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.CONNECTED, local_port=0)
    ledger.ingest(make_event(EventKind.RELEASED, 1, 5000, protocol=UDP, remote_port=54), ALICE, 1.0)
    assert find_owner(ledger, UDP_FLOW) is None


def test_a_released_port_is_invalidated_and_unknown_while_another_socket_may_hold_it() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.SENT)
    find_owner(ledger, UDP_FLOW)
    release(ledger, ALICE, 1, at=1.0)
    assert ledger.stale.drain() == [UDP_FLOW]
    datagrams(ledger, BOB, 2, EventKind.CONNECTED, local_port=0, at=1.5)
    assert find_owner(ledger, UDP_FLOW, 2.0, span_at(1.2)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, UDP_FLOW, 2.0) is None
    assert find_owner(ledger, UDP_FLOW, 2.0, span_at(0.9, 1.9)) is CONTESTED
    release(ledger, BOB, 2, at=3.0, local_port=5000)
    assert ledger.stale.drain() == [UDP_FLOW]
    assert find_owner(ledger, UDP_FLOW, 3.0, span_at(2.0)) == (Quality.EXACT, BOB)
    assert find_owner(ledger, UDP_FLOW, 3.0, span_at(0.9)) == (Quality.EXACT, ALICE)


def test_a_lookup_of_a_free_port_invalidates_its_flow_at_once() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.SENT)
    ledger.ingest(make_event(EventKind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert find_owner(ledger, UDP_FLOW, 1.0) == (Quality.EXACT, ALICE)
    assert ledger.stale.drain() == [UDP_FLOW]
    assert ledger.stale.drain() == []


def test_an_open_socket_at_a_port_precedes_a_released_one() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND)
    ledger.ingest(make_event(EventKind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert find_owner(ledger, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, ALICE)
    datagrams(ledger, BOB, 2, EventKind.BOUND)
    assert find_owner(ledger, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, BOB)


def test_a_flow_of_a_released_sender_has_the_owner_of_the_next_socket_at_its_port() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.SENT)
    release(ledger, ALICE, 1, at=1.0)
    assert find_owner(ledger, UDP_FLOW, 2.0) == (Quality.EXACT, ALICE)
    datagrams(ledger, BOB, 2, EventKind.BOUND, at=3.0)
    assert find_owner(ledger, UDP_FLOW, 3.5, span_at(2.0)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, UDP_FLOW, 3.5) == (Quality.LISTENER, BOB)


def test_a_port_held_in_turn_has_one_owner_in_each_turn_and_is_contested_across_turns() -> None:
    ledger = Ledger()
    turns = [(cookie, ALICE if cookie % 2 else BOB) for cookie in range(1, 9)]
    for cookie, owner in turns:
        datagrams(ledger, owner, cookie, EventKind.BOUND, at=cookie)
        release(ledger, owner, cookie, at=cookie + 0.9)
    for cookie, owner in turns:
        during = span_at(cookie + 0.1, cookie + 0.8)
        assert find_owner(ledger, UDP_FLOW, 9.0, during) == (Quality.LISTENER, owner)
    assert find_owner(ledger, UDP_FLOW, 9.0, span_at(3.5, 4.5)) is CONTESTED
    assert find_owner(ledger, UDP_FLOW, 9.0, span_at(3.5, 8.5)) is CONTESTED
    assert ledger.counts().contested == 2


def test_a_span_that_is_looked_up_in_parts_counts_as_contested_only_where_a_part_is() -> None:
    ledger = Ledger()
    for cookie, owner in ((1, ALICE), (2, BOB)):
        datagrams(ledger, owner, cookie, EventKind.BOUND, at=cookie)
        release(ledger, owner, cookie, at=cookie + 0.9)
    parts = {span_at(1.1, 1.8): ALICE, span_at(2.1, 2.8): BOB}
    hull = span_at(1.1, 2.8)
    assert ledger.owner_of(UDP_FLOW, NAMESPACE, hull, 9.0, is_divisible=True) is CONTESTED
    for part, owner in parts.items():
        assert find_owner(ledger, UDP_FLOW, 9.0, part) == (Quality.LISTENER, owner)
    assert ledger.counts().contested == 0
    assert ledger.owner_of(UDP_FLOW, NAMESPACE, hull, 9.0) is CONTESTED
    assert ledger.counts().contested == 1


def test_another_socket_at_a_port_or_flow_invalidates_the_flows_there() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND)
    mine, others = UDP_FLOW, flow(5000, 99, UDP)
    for key in (mine, others):
        assert find_owner(ledger, key) == (Quality.LISTENER, ALICE)
    datagrams(ledger, BOB, 2, EventKind.CONNECTED, at=1.0)
    assert ledger.stale.drain() == [mine]
    assert find_owner(ledger, mine, 2.0) == (Quality.EXACT, BOB)
    datagrams(ledger, BOB, 3, EventKind.BOUND, at=3.0)
    assert ledger.stale.drain() == [mine, others]
    assert find_owner(ledger, others, 4.0) is None


def test_a_simultaneous_open_is_owned_by_the_process_that_connected() -> None:
    ledger = Ledger()
    connect(ledger, ALICE)
    event = make_event(
        EventKind.ACCEPTED, 1, 40000, local=HERE, remote=THERE, remote_port=443, at=1.0
    )
    ledger.ingest(event, ALICE, 1.0)
    assert find_owner(ledger, flow(40000, 443), 2.0) == (Quality.EXACT, ALICE)


def test_a_socket_that_connects_again_has_a_new_port_from_then_on() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.CONNECTED, local_port=0, at=1.0)
    datagrams(ledger, ALICE, 1, EventKind.CONNECTED, local_port=0, at=5.0)
    release(ledger, ALICE, 1, at=6.0, local_port=5000)
    assert find_owner(ledger, UDP_FLOW, 7.0, span_at(5.5)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, UDP_FLOW, 7.0, span_at(2.0)) is CONTESTED


def test_one_process_that_binds_a_port_repeatedly_is_one_owner() -> None:
    ledger = Ledger()
    for cookie in range(1, 9):
        datagrams(ledger, ALICE, cookie, EventKind.BOUND, at=cookie)
        release(ledger, ALICE, cookie, at=cookie + 0.9)
    answer = find_owner(ledger, UDP_FLOW, 9.0, span_at(1.5, 8.5))
    assert answer == (Quality.LISTENER, ALICE)


def test_packets_from_before_a_socket_was_bound_are_contested() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND, at=5.0)
    assert find_owner(ledger, UDP_FLOW, 6.0, span_at(5.0, 6.0)) == (
        Quality.LISTENER,
        ALICE,
    )
    assert find_owner(ledger, UDP_FLOW, 6.0, span_at(4.0, 6.0)) is CONTESTED
    assert find_owner(ledger, UDP_FLOW, 6.0, span_at(3.0, 4.0)) is CONTESTED


def test_packets_right_after_a_release_may_belong_to_the_released_socket() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND, at=1.0)
    release(ledger, ALICE, 1, at=2.0)
    datagrams(ledger, BOB, 2, EventKind.BOUND, at=2.00005)
    assert find_owner(ledger, UDP_FLOW, 3.0, span_at(2.0001, 2.0002)) is CONTESTED
    assert find_owner(ledger, UDP_FLOW, 3.0, span_at(2.001)) == (Quality.LISTENER, BOB)


def test_a_handshake_belongs_to_the_connection_that_it_opens_not_to_the_former_one() -> None:
    ledger = Ledger()
    accept(ledger, ALICE, cookie=1, at=10.0)
    assert find_owner(ledger, flow(80, 50000), 10.0, span_at(9.9, 10.0)) == (
        Quality.LISTENER,
        ALICE,
    )
    release(ledger, ALICE, 1, at=11.0, protocol=TCP)
    accept(ledger, BOB, cookie=2, at=20.0)
    assert find_owner(ledger, flow(80, 50000), 20.0, span_at(19.5, 20.0)) == (Quality.LISTENER, BOB)
    assert find_owner(ledger, flow(80, 50000), 20.0, span_at(10.5, 11.5)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(80, 50000), 20.0, span_at(10.5, 20.0)) is CONTESTED


def test_two_sockets_at_one_port_at_once_are_ambiguous() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND, at=1.0)
    datagrams(ledger, BOB, 2, EventKind.BOUND, at=2.0)
    assert find_owner(ledger, UDP_FLOW, 4.0, span_at(3.0, 4.0)) is None
    assert find_owner(ledger, UDP_FLOW, 4.0, span_at(1.5, 4.0)) is CONTESTED
    assert find_owner(ledger, UDP_FLOW, 4.0, span_at(1.5, 1.8)) == (
        Quality.LISTENER,
        ALICE,
    )


def make_lossy_ledger() -> Ledger:
    """Return a ledger of two sockets from before a loss of events, and one from after it."""
    ledger = Ledger()
    connect(ledger, ALICE, cookie=1, at=1.0)
    datagrams(ledger, ALICE, 2, EventKind.BOUND, at=1.0)
    assert find_owner(ledger, flow(40000, 443), 2.0) == (Quality.EXACT, ALICE)
    ledger.record_loss(5_000_000_000, 6_000_000_000)
    event = make_event(EventKind.BOUND, 3, 6000, protocol=UDP, at=7.0)
    ledger.ingest(event, BOB, 7.0)
    return ledger


def test_after_a_loss_only_packets_from_before_and_later_sockets_have_owners() -> None:
    ledger = make_lossy_ledger()
    assert ledger.stale.drain() == [flow(40000, 443)]
    assert ledger.needs_snapshot
    for now in (5.5, 6.5, 8.0):
        assert find_owner(ledger, flow(40000, 443), now) is None
        assert find_owner(ledger, UDP_FLOW, now) is None
    assert find_owner(ledger, flow(40000, 443), 8.0, span_at(2.0, 4.9)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, UDP_FLOW, 8.0, span_at(2.0, 4.9)) == (
        Quality.LISTENER,
        ALICE,
    )
    assert find_owner(ledger, flow(6000, 53, UDP), 8.0) == (Quality.LISTENER, BOB)


def test_an_event_from_a_loss_is_valid_until_its_own_time_only() -> None:
    ledger = Ledger()
    ledger.record_loss(
        5_000_000_000, 6_000_000_000
    )  # the following events were drained together with the loss
    datagrams(ledger, ALICE, 1, EventKind.BOUND, at=5.2)
    datagrams(ledger, BOB, 2, EventKind.BOUND, local_port=5001, at=5.3)
    release(ledger, BOB, 2, at=5.5)
    assert find_owner(ledger, UDP_FLOW, 7.0, span_at(5.4)) is None
    assert find_owner(ledger, flow(5001, 53, UDP), 7.0, span_at(5.4)) == (Quality.LISTENER, BOB)
    assert find_owner(ledger, flow(5001, 53, UDP), 7.0, span_at(5.6)) is None


def test_a_snapshot_after_a_loss_confirms_the_sockets_that_are_open() -> None:
    ledger = make_lossy_ledger()
    ledger.begin_snapshot()
    ledger.ingest_snapshot([SnapshotSocket(2, NAMESPACE, UDP, ANY4, 5000, ANY4, 0, ALICE)], 8.0)
    assert not ledger.needs_snapshot
    assert find_owner(ledger, UDP_FLOW, 8.0, span_at(5.0, 8.0)) == (
        Quality.LISTENER,
        ALICE,
    )
    assert find_owner(ledger, flow(6000, 53, UDP), 8.0) == (Quality.LISTENER, BOB)
    assert find_owner(ledger, flow(40000, 443), 8.0, span_at(2.0)) is None
    assert (ledger.counts().sockets, ledger.counts().evicted, ledger.counts().snapshots) == (
        2,
        1,
        1,
    )


def test_sockets_made_during_a_loss_have_owners_from_its_end_on() -> None:
    ledger = make_lossy_ledger()
    ledger.begin_snapshot()
    release(ledger, BOB, 5, at=7.8)
    sockets = [
        SnapshotSocket(cookie, NAMESPACE, UDP, ANY4, port, ANY4, 0, BOB)
        for cookie, port in ((4, 7000), (5, 7001))
    ]
    ledger.ingest_snapshot(sockets, 8.0)
    assert find_owner(ledger, flow(7000, 53, UDP), 8.0, span_at(6.0, 8.0)) == (
        Quality.LISTENER,
        BOB,
    )
    assert find_owner(ledger, flow(7000, 53, UDP), 8.0, span_at(5.0, 8.0)) is CONTESTED
    assert find_owner(ledger, flow(7001, 53, UDP), 8.0) is None


def test_a_snapshot_that_was_begun_and_not_ingested_is_still_needed() -> None:
    ledger = make_lossy_ledger()
    ledger.begin_snapshot()
    assert ledger.needs_snapshot


def test_a_loss_during_a_snapshot_requires_another_snapshot() -> None:
    ledger = make_lossy_ledger()
    ledger.begin_snapshot()
    ledger.record_loss(7_600_000_000, 7_700_000_000)
    sockets = [
        SnapshotSocket(cookie, NAMESPACE, UDP, ANY4, port, ANY4, 0, ALICE)
        for cookie, port in ((2, 5000), (4, 7000))
    ]
    ledger.ingest_snapshot(sockets, 8.0)
    assert ledger.needs_snapshot
    for port in (5000, 7000):
        assert find_owner(ledger, flow(port, 53, UDP), 8.0) is None
    ledger.begin_snapshot()
    ledger.ingest_snapshot(sockets, 9.0)
    for port in (5000, 7000):
        assert find_owner(ledger, flow(port, 53, UDP), 9.0) == (Quality.LISTENER, ALICE)


def test_a_listening_socket_owns_what_passed_before_the_next_one_listened() -> None:
    ledger = Ledger()
    ledger.ingest(make_event(EventKind.LISTENING, 1, 80, local=HERE, at=1.0), ALICE, 1.0)
    ledger.ingest(make_event(EventKind.LISTENING, 2, 80, at=2.0), BOB, 2.0)
    release(ledger, ALICE, 1, at=3.0, protocol=TCP)
    for span, owner in ((span_at(2.5), ALICE), (span_at(4.0), BOB)):
        assert find_owner(ledger, flow(80, 50000), 4.0, span) == (Quality.LISTENER, owner)
    assert ledger.counts().contested == 0
    release(ledger, BOB, 2, at=5.0, protocol=TCP)
    assert find_owner(ledger, flow(80, 50000), 6.0) == (Quality.LISTENER, BOB)
    assert ledger.stale.drain() == [flow(80, 50000)]
    assert find_owner(ledger, flow(80, 50000), 6.0) == (Quality.LISTENER, BOB)
    assert ledger.stale.drain() == []  # else each batch would look it up again


def test_a_port_that_is_bound_repeatedly_keeps_a_bounded_number_of_sockets() -> None:
    ledger = Ledger()
    for cookie in range(1, 1000):
        datagrams(ledger, ALICE, cookie, EventKind.BOUND)
        ledger.ingest(make_event(EventKind.RELEASED, cookie, protocol=UDP), ALICE, 1.0)
    at_port = ledger._index._by_port[NAMESPACE, UDP, 5000]
    assert len(at_port) <= 33
    assert find_owner(ledger, UDP_FLOW, 1.0) == (Quality.LISTENER, ALICE)
    assert ledger.counts().sockets == 999


def test_a_bound_socket_that_connects_keeps_its_port() -> None:
    ledger = Ledger()
    datagrams(ledger, ALICE, 1, EventKind.BOUND)
    datagrams(ledger, ALICE, 1, EventKind.CONNECTED)
    assert find_owner(ledger, UDP_FLOW) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_released_socket_expires_after_the_grace_time() -> None:
    ledger = Ledger(grace=10.0)
    accept(ledger, ALICE)
    ledger.ingest(make_event(EventKind.RELEASED, 1), BOB, 5.0)
    assert find_owner(ledger, flow(80, 50000), 14.9) == (Quality.EXACT, BOB)
    assert find_owner(ledger, flow(80, 50000), 15.1) is None
    assert ledger.counts().sockets == 0
    assert ledger.counts().evicted == 0


def test_the_oldest_socket_that_serves_no_port_is_evicted_and_counted() -> None:
    ledger = Ledger(max_sockets=2)
    datagrams(ledger, BOB, 1, EventKind.BOUND)
    connect(ledger, ALICE, cookie=2)
    accept(ledger, ALICE, cookie=3)
    assert ledger.counts().sockets == 2
    assert ledger.counts().evicted == 1
    assert find_owner(ledger, flow(40000, 443)) is None
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    assert find_owner(ledger, UDP_FLOW) == (Quality.LISTENER, BOB)


def test_flows_of_a_socket_that_is_evicted_are_invalidated_as_its_release_is_not_noticed() -> None:
    ledger = Ledger(max_sockets=1)
    connect(ledger, ALICE, cookie=2)
    assert find_owner(ledger, flow(40000, 443)) == (Quality.EXACT, ALICE)
    datagrams(ledger, BOB, 1, EventKind.BOUND)
    assert ledger.stale.drain() == [flow(40000, 443)]


def test_sockets_that_serve_ports_are_evicted_if_there_are_no_others() -> None:
    ledger = Ledger(max_sockets=3)
    for cookie in range(1, 40):
        datagrams(ledger, BOB, cookie, EventKind.BOUND, local_port=cookie)
    assert ledger.counts().sockets == 3
    assert ledger.counts().evicted == 36


def test_a_connection_expires_a_grace_time_after_its_last_event() -> None:
    ledger = Ledger(grace=10.0)
    connect(ledger, ALICE, cookie=1)
    accept(ledger, ALICE, cookie=2)
    ledger.ingest(make_event(EventKind.RELEASED, 2), BOB, 5.0)
    assert find_owner(ledger, flow(40000, 443), 10.1) is None
    assert find_owner(ledger, flow(80, 50000), 10.1) == (Quality.EXACT, BOB)
    assert find_owner(ledger, flow(80, 50000), 15.1) is None


def test_a_release_of_an_unknown_socket_is_counted() -> None:
    ledger = Ledger()
    ledger.ingest(make_event(EventKind.RELEASED, 9), ALICE, 0.0)
    assert ledger.counts().unknown_releases == 1


owners = st.sampled_from([None, ALICE, BOB, SERVICE_MANAGER])
events = st.builds(
    make_event,
    st.sampled_from(list(EventKind)),
    st.integers(1, 4),
    st.sampled_from([0, 80, 5000]),
    protocol=st.sampled_from([TCP, UDP]),
    local=st.sampled_from([ANY4, HERE, ANY6]),
    remote=st.sampled_from([ANY4, THERE]),
    remote_port=st.sampled_from([0, 53]),
    namespace=st.sampled_from([0, 1, 2]),
)


@given(st.lists(st.tuples(events, owners, st.floats(0, 3))), st.integers(1, 5), st.floats(0, 5))
def test_any_history_keeps_the_bounds_and_finds_only_recorded_owners(
    history: list[tuple[SocketEvent, SocketOwner | None, float]], room: int, age: float
) -> None:
    ledger, now, recorded = Ledger(grace=2.0, max_sockets=room), 0.0, set()
    keys = [flow(port, 53, protocol) for port in (80, 5000) for protocol in (TCP, UDP)]
    for event, owner, pause in history:
        now += pause
        ledger.ingest(replace(event, boot_ns=round(now * 1e9)), owner, now)
        recorded.add(owner)
        assert ledger.counts().sockets <= room
        for key in keys:
            for namespace in (None, 1, 2):
                entry = ledger.owner_of(key, namespace, span_at(max(now - age, 0.0), now), now)
                assert not isinstance(entry, LedgerEntry) or entry.owner in recorded
    for cookie in {event.cookie for event, _, _ in history}:
        ledger.ingest(make_event(EventKind.RELEASED, cookie), None, now)
    ledger.ingest(make_event(EventKind.RELEASED, 99), None, now + 10)
    assert ledger.counts().sockets == 0


def ingest_block(
    ledger: Ledger, history: list[tuple[SocketEvent, SocketOwner | None]], now: float
) -> None:
    block = EventBlock(b"".join(encode_event(event) for event, _ in history))
    ledger.ingest_block(block, [owner for _, owner in history], now)


connections = st.builds(
    make_event,
    st.sampled_from([EventKind.CONNECTED, EventKind.ACCEPTED, EventKind.RELEASED]),
    st.integers(1, 30),
    st.integers(50000, 50003),
    local=st.just(HERE),
    remote=st.just(THERE),
    remote_port=st.just(53),
    namespace=st.sampled_from([1, 2]),
)
blocks = st.lists(st.lists(st.tuples(st.one_of(connections, connections, events), owners)))


@given(blocks, st.integers(0, 30), st.sets(st.integers(0, 6)))
def test_a_block_is_ingested_as_its_events_are_one_by_one(
    history: list[list[tuple[SocketEvent, SocketOwner | None]]], asked: int, losses: set[int]
) -> None:
    together, apart, now = Ledger(), Ledger(), 0.0
    listeners = [SnapshotSocket(99, NAMESPACE, TCP, ANY4, 50001, ANY4, 0, ALICE)]
    for ledger in (together, apart):
        ledger.ingest_snapshot(listeners, now)
    for number, block in enumerate(as_recorded(history)):
        now += 1.0
        moment = block[-1][0].boot_ns if block else 1
        if number in losses:
            for ledger in (together, apart):
                ledger.record_loss(moment - asked, moment - asked // 2)
        ingest_block(together, block, now)
        for event, owner in block:
            apart.ingest(event, owner, now)
        span = Span(moment - asked, moment + 1)
        assert answers_together(together, span, now) == answers(apart, span, now)
        assert together.counts() == apart.counts()
        assert set(together.stale.drain()) == set(apart.stale.drain())


def as_recorded(
    history: list[list[tuple[SocketEvent, SocketOwner | None]]],
) -> Iterator[list[tuple[SocketEvent, SocketOwner | None]]]:
    """Yield blocks as the kernel may record them.

    A socket never changes its namespace, and its release is its last event. A TCP connection has a
    port from its beginning on.
    """
    moment, released = 0, set[int]()
    for block in history:
        timed = []
        for event, owner in block:
            has_no_port = event.protocol == TCP and not event.local_port
            if event.cookie in released or (has_no_port and event.kind is EventKind.CONNECTED):
                continue
            moment += 10
            namespace = event.cookie % 3
            timed.append((replace(event, boot_ns=moment, namespace_cookie=namespace), owner))
            if event.kind is EventKind.RELEASED:
                released.add(event.cookie)
        yield timed


def answers(ledger: Ledger, span: Span, now: float) -> list[LedgerEntry | Contested | None]:
    return [
        ledger.owner_of(key, namespace, span, now) for namespace in (None, 1, 2) for key in KEYS
    ]


def answers_together(
    ledger: Ledger, span: Span, now: float
) -> list[LedgerEntry | Contested | None]:
    """Return the same, with the flows of each namespace asked about at once."""
    asked = [(key, span) for key in KEYS]
    return [one for namespace in (None, 1, 2) for one in ledger.owners_of(asked, namespace, now)]


def test_a_block_that_reuses_five_tuples_keeps_the_order_of_its_events() -> None:
    ledger = Ledger()
    first, second = (
        make_event(
            EventKind.CONNECTED, cookie, 40000, local=HERE, remote=THERE, remote_port=443, at=at
        )
        for cookie, at in ((1, 1.0), (2, 2.0))
    )
    ingest_block(ledger, [(first, ALICE), (second, BOB)], 2.0)
    assert find_owner(ledger, flow(40000, 443), 2.0, span_at(1.5)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(40000, 443), 2.0, span_at(2.5)) == (Quality.EXACT, BOB)


def test_blocks_keep_the_bound() -> None:
    ledger = Ledger(max_sockets=3)
    opened = [
        make_event(
            EventKind.CONNECTED, cookie, 40000 + cookie, local=HERE, remote=THERE, remote_port=443
        )
        for cookie in range(1, 11)
    ]
    ingest_block(ledger, [(replace(one, boot_ns=1), ALICE) for one in opened], 0.0)
    assert ledger.counts().sockets == 3
    assert ledger.counts().evicted == 7
    assert find_owner(ledger, flow(40001, 443), 0.0) is None
    assert find_owner(ledger, flow(40010, 443), 0.0) == (Quality.EXACT, ALICE)
