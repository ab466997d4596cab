"""Sockets from before the ledger, in every order with what events tell of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ledger import (
    ALICE,
    ANY4,
    ANY6,
    BOB,
    HERE,
    NAMESPACE,
    SERVICE_MANAGER,
    TCP,
    THERE,
    UDP,
    ask,
    flow,
    happened,
    passed,
)

from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
)


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
    book: Ledger, cookie: int = 9, owner: SocketOwner | None = None, now: float = 0.0
) -> None:
    """Let a connection to port 80 come in; without an owner its listener was there before."""
    event = happened(
        EventKind.ACCEPTED, cookie, 80, local=HERE, remote=THERE, remote_port=50000, at=now
    )
    book.note(event, owner, now)


def release(book: Ledger, cookie: int, owner: SocketOwner = ALICE, now: float = 0.0) -> None:
    book.note(happened(EventKind.RELEASED, cookie), owner, now)


def seeded(*seeds: SnapshotSocket, **options: int) -> Ledger:
    book = Ledger(**options)
    book.ingest_snapshot(seeds, 0.0)
    return book


def test_a_connection_from_before_belongs_to_who_held_it_until_it_ends() -> None:
    book = seeded(connected(1, ALICE))
    assert ask(book, flow(40000, 443), now=1e6) == (Quality.EXACT, ALICE)
    release(book, 1, now=1e6)
    assert ask(book, flow(40000, 443), now=1e6 + 59) == (Quality.EXACT, ALICE)
    assert ask(book, flow(40000, 443), now=1e6 + 61) is None


def test_datagrams_of_a_server_from_before_are_its_own() -> None:
    book = seeded(listening(1, ALICE, 53, UDP, ANY6))
    assert ask(book, flow(53, 999, UDP), now=1e6) == (Quality.LISTENER, ALICE)


def test_a_connected_socket_of_datagrams_takes_only_those_of_its_peer() -> None:
    book = seeded(connected(1, ALICE, 5000, UDP))
    assert ask(book, flow(5000, 443, UDP)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 444, UDP)) is None


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_listener_from_before_accepts_falls_to_its_owner(is_first: bool) -> None:
    book = Ledger()
    if is_first:
        accept(book)
        assert ask(book, flow(80, 50000)) is None
    book.ingest_snapshot([listening(1, ALICE)], 0.0)
    if not is_first:
        accept(book)
    release(book, 1)  # the server is gone, and another takes its port
    book.note(happened(EventKind.LISTENING, 2, 80), BOB, 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    release(book, 9, BOB)
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_the_listener_from_before_is_told_from_a_new_one_on_the_same_port() -> None:
    book = seeded(listening(1, ALICE))
    book.note(happened(EventKind.LISTENING, 2, 80), BOB, 0.0)
    accept(book, 8)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    accept(book, 9, BOB, now=9.0)
    assert ask(book, flow(80, 50000), 9.0) == (Quality.LISTENER, BOB)
    assert ask(book, flow(80, 51000)) is None
    assert book.counts().contested == 1


def test_two_owners_of_a_port_from_before_accept_for_nobody() -> None:
    book = seeded(listening(1, ALICE), listening(2, BOB))
    accept(book)
    assert ask(book, flow(80, 50000)) is None


def test_the_most_closely_bound_listener_from_before_accepts() -> None:
    book = seeded(listening(1, ALICE), listening(2, BOB, local=HERE))
    accept(book)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, BOB)


def test_a_listener_that_listens_again_keeps_its_owner() -> None:
    book = seeded(listening(1, ALICE))
    book.note(happened(EventKind.LISTENING, 1, 80), None, 1.0)
    accept(book)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(80, 50001)) == (Quality.LISTENER, ALICE)


def test_one_that_listens_again_before_the_seeds_are_in_gets_its_owner_then() -> None:
    book = Ledger()
    book.note(happened(EventKind.LISTENING, 1, 80), None, 0.0)
    accept(book)
    book.ingest_snapshot([listening(1, ALICE)], 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)


def test_what_was_released_before_the_seeds_are_in_stays_so() -> None:
    book = Ledger()
    release(book, 1)
    book.ingest_snapshot([listening(1, ALICE)], 0.0)
    assert ask(book, flow(80, 50000)) is None
    assert book.counts().sockets == 0


def test_what_events_told_is_not_displaced_by_a_seed() -> None:
    book = Ledger()
    told = happened(EventKind.CONNECTED, 5, 40000, local=HERE, remote=THERE, remote_port=443)
    book.note(told, BOB, 0.0)
    book.ingest_snapshot([connected(1, ALICE), connected(5, ALICE)], 0.0)
    assert ask(book, flow(40000, 443)) == (Quality.EXACT, BOB)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_those_that_share_a_socket_who_bound_it_owns_it_and_not_who_sent_first(
    is_first: bool,
) -> None:
    book = Ledger()
    sent = happened(EventKind.SENT, 1, 53, protocol=UDP, remote=THERE, remote_port=999)
    if is_first:
        book.note(sent, BOB, 0.0)
        assert ask(book, flow(53, 999, UDP)) == (Quality.EXACT, BOB)
    book.ingest_snapshot([listening(1, ALICE, 53, UDP)], 0.0)
    if not is_first:
        book.note(sent, BOB, 0.0)
    assert ask(book, flow(53, 999, UDP)) == (Quality.LISTENER, ALICE)
    assert book.stale.drain() == ([flow(53, 999, UDP)] if is_first else [])


def test_its_owner_that_sends_is_exact_for_its_peer() -> None:
    book = seeded(listening(1, ALICE, 53, UDP))
    sent = happened(EventKind.SENT, 1, 53, protocol=UDP, remote=THERE, remote_port=999)
    book.note(sent, ALICE, 0.0)
    assert ask(book, flow(53, 999, UDP)) == (Quality.EXACT, ALICE)


def test_an_event_without_a_namespace_is_of_the_one_that_its_socket_is_in() -> None:
    book = seeded(listening(1, ALICE, 53, UDP))
    event = happened(
        EventKind.CONNECTED, 1, 53, protocol=UDP, remote=THERE, remote_port=999, namespace=0
    )
    book.note(event, BOB, 0.0)
    assert ask(book, flow(53, 999, UDP)) == (Quality.EXACT, BOB)
    book.note(happened(EventKind.BOUND, 2, 54, protocol=UDP, namespace=0), BOB, 0.0)
    assert book.counts().sockets == 1


def test_a_socket_whose_holders_are_strangers_has_no_owner_and_hides_no_other() -> None:
    book = seeded(listening(1, None, 53, UDP), listening(2, ALICE, 53, UDP))
    assert ask(book, flow(53, 999, UDP)) is None
    book = seeded(connected(1, None, 80), listening(2, ALICE))
    assert ask(book, flow(80, 443)) is None


def test_the_manager_that_binds_for_services_is_not_their_owner() -> None:
    book = seeded(listening(1, SERVICE_MANAGER))
    accept(book)
    assert ask(book, flow(80, 50000)) is None
    assert ask(seeded(connected(1, SERVICE_MANAGER)), flow(40000, 443)) == (
        Quality.EXACT,
        SERVICE_MANAGER,
    )


def test_of_too_many_the_last_ones_are_left_out() -> None:
    seeds = [listening(3, ALICE), connected(1, BOB), connected(2, BOB, 40001)]
    book = seeded(*seeds, max_sockets=2)
    assert book.counts().sockets == 2
    assert book.counts().evicted == 1
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    book.note(happened(EventKind.CONNECTED, 4, 40002, remote=THERE, remote_port=443), BOB, 0.0)
    assert ask(book, flow(40000, 443)) is None


def test_a_release_of_one_that_had_no_room_is_counted() -> None:
    book = seeded(listening(1, ALICE), connected(2, ALICE), max_sockets=1)
    release(book, 2)
    assert book.counts().unknown_releases == 1


def test_what_is_not_known_to_have_ended_may_be_in_other_hands() -> None:
    book = seeded(connected(1, ALICE))

    def is_lasting(port: int, now: float, protocol: int = TCP) -> bool:
        entry = book.owner_of(flow(port, 443, protocol), NAMESPACE, passed(now), now)
        assert isinstance(entry, LedgerEntry)
        return entry.may_outlive_owner

    assert is_lasting(40000, 0.0)
    told = happened(EventKind.CONNECTED, 5, 40001, local=HERE, remote=THERE, remote_port=443)
    book.note(told, BOB, 10.0)
    assert not is_lasting(40001, 11.0)
    assert is_lasting(40001, 13.0)
    sent = happened(EventKind.SENT, 6, 40002, protocol=UDP, remote=THERE, remote_port=443)
    book.note(sent, BOB, 13.0)
    assert is_lasting(40002, 13.0, UDP)
    release(book, 6, now=14.0)
    assert not is_lasting(40002, 14.0, UDP)


PEOPLE = st.sampled_from([None, ALICE, BOB, SERVICE_MANAGER])
SEEDS = st.lists(
    st.one_of(
        st.builds(
            listening,
            st.integers(1, 6),
            PEOPLE,
            st.sampled_from([80, 5000]),
            st.sampled_from([TCP, UDP]),
            st.sampled_from([ANY4, ANY6, HERE]),
        ),
        st.builds(
            connected,
            st.integers(1, 6),
            PEOPLE,
            st.sampled_from([80, 5000]),
            st.sampled_from([TCP, UDP]),
            st.just(53),
        ),
    ),
    unique_by=lambda seed: seed.cookie,
)
EVENTS = st.lists(
    st.tuples(
        st.builds(
            happened,
            st.sampled_from(list(EventKind)),
            st.integers(1, 8),
            st.sampled_from([0, 80, 5000]),
            protocol=st.sampled_from([TCP, UDP]),
            local=st.sampled_from([ANY4, HERE]),
            remote=st.just(THERE),
            remote_port=st.sampled_from([0, 53]),
            namespace=st.sampled_from([0, NAMESPACE]),
        ),
        PEOPLE,
    )
)


@given(EVENTS, SEEDS, EVENTS, st.integers(1, 5))
@settings(deadline=None)
def test_whatever_came_before_and_after_only_who_was_told_is_named_and_bounds_hold(
    before: list[tuple[object, SocketOwner | None]],
    seeds: list[SnapshotSocket],
    after: list[tuple[object, SocketOwner | None]],
    room: int,
) -> None:
    book = Ledger(grace=2.0, max_sockets=room)
    for event, owner in before:
        book.note(event, owner, 0.0)  # type: ignore[arg-type]
    book.ingest_snapshot(seeds, 0.0)
    for event, owner in after:
        book.note(event, owner, 1.0)  # type: ignore[arg-type]
    told = {owner for _, owner in [*before, *after]} | {seed.owner for seed in seeds}
    assert book.counts().sockets <= room
    for port in (80, 5000):
        for protocol in (TCP, UDP):
            answer = ask(book, flow(port, 53, protocol), 1.0)
            assert not isinstance(answer, tuple) or answer[1] in told
    for cookie in range(1, 9):
        release(book, cookie, now=1.0)
    book.note(happened(EventKind.RELEASED, 99), None, 9.0)
    assert book.counts().sockets == 0
