"""Snapshots of open sockets, merged before and after events of the same sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    find_owner,
    flow,
    make_event,
    span_at,
)

from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import LedgerEntry, Quality, SnapshotSocket, SocketOwner


def listening(
    cookie: int, owner: SocketOwner | None, port: int = 80, protocol: int = TCP, local: bytes = ANY4
) -> SnapshotSocket:
    return SnapshotSocket(cookie, NAMESPACE, protocol, local, port, bytes(len(local)), 0, owner)


def connected(
    cookie: int,
    owner: SocketOwner | None,
    port: int = 40000,
    protocol: int = TCP,
    remote_port: int = 443,
) -> SnapshotSocket:
    return SnapshotSocket(cookie, NAMESPACE, protocol, HERE, port, THERE, remote_port, owner)


def accept(
    ledger: Ledger, cookie: int = 9, owner: SocketOwner | None = None, now: float = 0.0
) -> None:
    """Ingest an accepted connection to port 80; without an owner its listener is unknown."""
    event = make_event(
        EventKind.ACCEPTED, cookie, 80, local=HERE, remote=THERE, remote_port=50000, at=now
    )
    ledger.ingest(event, owner, now)


def release(ledger: Ledger, cookie: int, owner: SocketOwner = ALICE, now: float = 0.0) -> None:
    ledger.ingest(make_event(EventKind.RELEASED, cookie), owner, now)


def merged(*sockets: SnapshotSocket, **options: int) -> Ledger:
    ledger = Ledger(**options)
    ledger.ingest_snapshot(sockets, 0.0)
    return ledger


def test_a_connection_of_a_snapshot_is_kept_until_its_release() -> None:
    ledger = merged(connected(1, ALICE))
    assert find_owner(ledger, flow(40000, 443), now=1e6) == (Quality.EXACT, ALICE)
    release(ledger, 1, now=1e6)
    assert find_owner(ledger, flow(40000, 443), now=1e6 + 59) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(40000, 443), now=1e6 + 61) is None


def test_a_datagram_server_of_a_snapshot_owns_its_port() -> None:
    ledger = merged(listening(1, ALICE, 53, UDP, ANY6))
    assert find_owner(ledger, flow(53, 999, UDP), now=1e6) == (Quality.LISTENER, ALICE)


def test_a_connected_datagram_socket_owns_only_the_flow_to_its_peer() -> None:
    ledger = merged(connected(1, ALICE, 5000, UDP))
    assert find_owner(ledger, flow(5000, 443, UDP)) == (Quality.EXACT, ALICE)
    assert find_owner(ledger, flow(5000, 444, UDP)) is None


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("kind", [EventKind.SENT, EventKind.CONNECTED])
def test_a_socket_that_is_bound_to_an_address_does_not_own_its_port_at_others(
    kind: EventKind, is_first: bool
) -> None:
    ledger = Ledger()
    event = make_event(kind, 1, 5000, protocol=UDP, remote=THERE, remote_port=443)
    bound = listening(1, ALICE, 5000, UDP, HERE)
    if is_first:
        ledger.ingest(event, ALICE, 0.0)
    ledger.ingest_snapshot([bound], 0.0)
    if not is_first:
        ledger.ingest(event, ALICE, 0.0)
    assert find_owner(ledger, flow(5000, 443, UDP)) == (Quality.EXACT, ALICE)
    for remote_port in (443, 444):
        assert find_owner(ledger, flow(5000, remote_port, UDP, local=ELSEWHERE)) is None


@pytest.mark.parametrize("is_first", [True, False])
def test_an_accepted_connection_has_the_owner_of_a_listener_of_a_snapshot(is_first: bool) -> None:
    ledger = Ledger()
    if is_first:
        accept(ledger)
        assert find_owner(ledger, flow(80, 50000)) is None
    ledger.ingest_snapshot([listening(1, ALICE)], 0.0)
    if not is_first:
        accept(ledger)
    release(ledger, 1)  # the server exits, and another one binds its port
    ledger.ingest(make_event(EventKind.LISTENING, 2, 80), BOB, 0.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    release(ledger, 9, BOB)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_a_listener_of_a_snapshot_is_not_confused_with_a_new_one_at_its_port() -> None:
    ledger = merged(listening(1, ALICE))
    ledger.ingest(make_event(EventKind.LISTENING, 2, 80), BOB, 0.0)
    accept(ledger, 8)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    accept(ledger, 9, BOB, now=9.0)
    assert find_owner(ledger, flow(80, 50000), 9.0) == (Quality.LISTENER, BOB)
    assert find_owner(ledger, flow(80, 51000)) is None
    assert ledger.counts().contested == 1


def test_a_port_with_two_owners_in_a_snapshot_gives_no_owner() -> None:
    ledger = merged(listening(1, ALICE), listening(2, BOB))
    accept(ledger)
    assert find_owner(ledger, flow(80, 50000)) is None


def test_the_listener_with_the_most_specific_address_accepts() -> None:
    ledger = merged(listening(1, ALICE), listening(2, BOB, local=HERE))
    accept(ledger)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, BOB)


def test_a_listener_that_listens_again_keeps_its_owner() -> None:
    ledger = merged(listening(1, ALICE))
    ledger.ingest(make_event(EventKind.LISTENING, 1, 80), None, 1.0)
    accept(ledger)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    assert find_owner(ledger, flow(80, 50001)) == (Quality.LISTENER, ALICE)


def test_a_listener_without_an_owner_gets_that_of_the_snapshot() -> None:
    ledger = Ledger()
    ledger.ingest(make_event(EventKind.LISTENING, 1, 80), None, 0.0)
    accept(ledger)
    ledger.ingest_snapshot([listening(1, ALICE)], 0.0)
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)


def test_a_socket_released_before_the_snapshot_is_merged_is_not_added() -> None:
    ledger = Ledger()
    release(ledger, 1)
    ledger.ingest_snapshot([listening(1, ALICE)], 0.0)
    assert find_owner(ledger, flow(80, 50000)) is None
    assert ledger.counts().sockets == 0


def test_a_snapshot_does_not_replace_what_events_recorded() -> None:
    ledger = Ledger()
    event = make_event(EventKind.CONNECTED, 5, 40000, local=HERE, remote=THERE, remote_port=443)
    ledger.ingest(event, BOB, 0.0)
    ledger.ingest_snapshot([connected(1, ALICE), connected(5, ALICE)], 0.0)
    assert find_owner(ledger, flow(40000, 443)) == (Quality.EXACT, BOB)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_shared_socket_is_owned_by_the_process_that_bound_it_not_the_first_sender(
    is_first: bool,
) -> None:
    ledger = Ledger()
    sent = make_event(EventKind.SENT, 1, 53, protocol=UDP, remote=THERE, remote_port=999)
    if is_first:
        ledger.ingest(sent, BOB, 0.0)
        assert find_owner(ledger, flow(53, 999, UDP)) == (Quality.EXACT, BOB)
    ledger.ingest_snapshot([listening(1, ALICE, 53, UDP)], 0.0)
    if not is_first:
        ledger.ingest(sent, BOB, 0.0)
    assert find_owner(ledger, flow(53, 999, UDP)) == (Quality.LISTENER, ALICE)
    assert ledger.stale.drain() == ([flow(53, 999, UDP)] if is_first else [])


def test_the_owner_that_sends_is_exact_for_its_peer() -> None:
    ledger = merged(listening(1, ALICE, 53, UDP))
    sent = make_event(EventKind.SENT, 1, 53, protocol=UDP, remote=THERE, remote_port=999)
    ledger.ingest(sent, ALICE, 0.0)
    assert find_owner(ledger, flow(53, 999, UDP)) == (Quality.EXACT, ALICE)


def test_an_event_without_a_namespace_keeps_that_of_its_socket() -> None:
    ledger = merged(listening(1, ALICE, 53, UDP))
    event = make_event(
        EventKind.CONNECTED, 1, 53, protocol=UDP, remote=THERE, remote_port=999, namespace=0
    )
    ledger.ingest(event, BOB, 0.0)
    assert find_owner(ledger, flow(53, 999, UDP)) == (Quality.EXACT, BOB)
    ledger.ingest(make_event(EventKind.BOUND, 2, 54, protocol=UDP, namespace=0), BOB, 0.0)
    assert ledger.counts().sockets == 1


def test_a_socket_without_an_owner_makes_its_port_ambiguous() -> None:
    ledger = merged(listening(1, None, 53, UDP), listening(2, ALICE, 53, UDP))
    assert find_owner(ledger, flow(53, 999, UDP)) is None
    ledger = merged(connected(1, None, 80), listening(2, ALICE))
    assert find_owner(ledger, flow(80, 443)) is None


def test_the_service_manager_does_not_own_what_its_services_accept() -> None:
    ledger = merged(listening(1, SERVICE_MANAGER))
    accept(ledger)
    assert find_owner(ledger, flow(80, 50000)) is None
    assert find_owner(merged(connected(1, SERVICE_MANAGER)), flow(40000, 443)) == (
        Quality.EXACT,
        SERVICE_MANAGER,
    )


def test_a_snapshot_beyond_the_bound_leaves_out_its_last_sockets() -> None:
    sockets = [listening(3, ALICE), connected(1, BOB), connected(2, BOB, 40001)]
    ledger = merged(*sockets, max_sockets=2)
    assert ledger.counts().sockets == 2
    assert ledger.counts().evicted == 1
    assert find_owner(ledger, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    ledger.ingest(
        make_event(EventKind.CONNECTED, 4, 40002, remote=THERE, remote_port=443), BOB, 0.0
    )
    assert find_owner(ledger, flow(40000, 443)) is None


def test_a_release_of_a_socket_that_was_left_out_is_counted() -> None:
    ledger = merged(listening(1, ALICE), connected(2, ALICE), max_sockets=1)
    release(ledger, 2)
    assert ledger.counts().unknown_releases == 1


def test_a_socket_whose_release_is_not_recorded_may_outlive_its_owner() -> None:
    ledger = merged(connected(1, ALICE))

    def may_outlive(port: int, now: float, protocol: int = TCP) -> bool:
        entry = ledger.owner_of(flow(port, 443, protocol), NAMESPACE, span_at(now), now)
        assert isinstance(entry, LedgerEntry)
        return entry.may_outlive_owner

    assert may_outlive(40000, 0.0)
    event = make_event(EventKind.CONNECTED, 5, 40001, local=HERE, remote=THERE, remote_port=443)
    ledger.ingest(event, BOB, 10.0)
    assert not may_outlive(40001, 11.0)
    assert may_outlive(40001, 13.0)
    sent = make_event(EventKind.SENT, 6, 40002, protocol=UDP, remote=THERE, remote_port=443)
    ledger.ingest(sent, BOB, 13.0)
    assert may_outlive(40002, 13.0, UDP)
    release(ledger, 6, now=14.0)
    assert not may_outlive(40002, 14.0, UDP)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_open_socket_is_lasting_some_time_after_its_last_event(protocol: int) -> None:
    ledger = Ledger()
    event = make_event(
        EventKind.CONNECTED, 5, 40001, protocol=protocol, local=HERE, remote=THERE, remote_port=443
    )
    ledger.ingest(event, BOB, 10.0)

    def is_lasting(now: float) -> bool:
        entry = ledger.owner_of(flow(40001, 443, protocol), NAMESPACE, span_at(now), now)
        assert isinstance(entry, LedgerEntry)
        return entry.is_lasting

    assert [is_lasting(now) for now in (10.0, 10.5, 11.0)] == [False, False, True]
    release(ledger, 5, now=11.5)
    assert not is_lasting(12.0)


OWNERS = st.sampled_from([None, ALICE, BOB, SERVICE_MANAGER])
SNAPSHOTS = st.lists(
    st.one_of(
        st.builds(
            listening,
            st.integers(1, 6),
            OWNERS,
            st.sampled_from([80, 5000]),
            st.sampled_from([TCP, UDP]),
            st.sampled_from([ANY4, ANY6, HERE]),
        ),
        st.builds(
            connected,
            st.integers(1, 6),
            OWNERS,
            st.sampled_from([80, 5000]),
            st.sampled_from([TCP, UDP]),
            st.just(53),
        ),
    ),
    unique_by=lambda found: found.cookie,
)
EVENTS = st.lists(
    st.tuples(
        st.builds(
            make_event,
            st.sampled_from(list(EventKind)),
            st.integers(1, 8),
            st.sampled_from([0, 80, 5000]),
            protocol=st.sampled_from([TCP, UDP]),
            local=st.sampled_from([ANY4, HERE]),
            remote=st.just(THERE),
            remote_port=st.sampled_from([0, 53]),
            namespace=st.sampled_from([0, NAMESPACE]),
        ),
        OWNERS,
    )
)


@given(EVENTS, SNAPSHOTS, EVENTS, st.integers(1, 5))
def test_any_events_and_snapshot_keep_the_bounds_and_find_only_recorded_owners(
    before: list[tuple[object, SocketOwner | None]],
    sockets: list[SnapshotSocket],
    after: list[tuple[object, SocketOwner | None]],
    room: int,
) -> None:
    ledger = Ledger(grace=2.0, max_sockets=room)
    for event, owner in before:
        ledger.ingest(event, owner, 0.0)  # type: ignore[arg-type]
    ledger.ingest_snapshot(sockets, 0.0)
    for event, owner in after:
        ledger.ingest(event, owner, 1.0)  # type: ignore[arg-type]
    recorded = {owner for _, owner in [*before, *after]} | {one.owner for one in sockets}
    assert ledger.counts().sockets <= room
    for port in (80, 5000):
        for protocol in (TCP, UDP):
            answer = find_owner(ledger, flow(port, 53, protocol), 1.0)
            assert not isinstance(answer, tuple) or answer[1] in recorded
    for cookie in range(1, 9):
        release(ledger, cookie, now=1.0)
    ledger.ingest(make_event(EventKind.RELEASED, 99), None, 9.0)
    assert ledger.counts().sockets == 0
