"""The ledger's answers, from events as the kernel tells them."""

from hypothesis import given, settings
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
    ask,
    flow,
    happened,
    passed,
)

from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    CONTESTED,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
)


def connect(
    book: Ledger, owner: SocketOwner, cookie: int = 1, namespace: int = NAMESPACE, at: float = 0.0
) -> None:
    book.note(
        happened(
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


def accept(book: Ledger, owner: SocketOwner | None, cookie: int = 1, at: float = 0.0) -> None:
    event = happened(
        EventKind.ACCEPTED, cookie, 80, local=HERE, remote=THERE, remote_port=50000, at=at
    )
    book.note(event, owner, at)


def datagrams(
    book: Ledger,
    owner: SocketOwner,
    cookie: int,
    kind: EventKind,
    *,
    local_port: int = 5000,
    at: float = 0.0,
) -> None:
    event = happened(kind, cookie, local_port, protocol=UDP, remote=THERE, remote_port=53, at=at)
    book.note(event, owner, at)


def release(
    book: Ledger,
    owner: SocketOwner,
    cookie: int,
    *,
    at: float,
    local_port: int = 0,
    protocol: int = UDP,
) -> None:
    far = 53 if local_port else 0
    book.note(
        happened(EventKind.RELEASED, cookie, local_port, protocol=protocol, remote_port=far, at=at),
        owner,
        at,
    )


def test_a_connection_belongs_to_who_made_it() -> None:
    book = Ledger()
    connect(book, ALICE)
    assert ask(book, flow(40000, 443)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(40000, 444)) is None
    assert ask(book, flow(40000, 443, local=ELSEWHERE)) is None


def test_equal_tuples_in_two_namespaces_are_kept_apart() -> None:
    book = Ledger()
    connect(book, ALICE, cookie=1, namespace=1)
    connect(book, BOB, cookie=2, namespace=2)
    for namespace, owner in ((1, ALICE), (2, BOB)):
        entry = book.owner_of(flow(40000, 443), namespace, passed(0), 0.0)
        assert isinstance(entry, LedgerEntry)
        assert entry.owner == owner
    assert book.owner_of(flow(40000, 443), None, passed(0), 0.0) is None


def test_a_flow_of_an_unknown_namespace_is_found_where_only_one_has_it() -> None:
    book = Ledger()
    connect(book, ALICE, namespace=5)
    entry = book.owner_of(flow(40000, 443), None, passed(0), 0.0)
    assert isinstance(entry, LedgerEntry)
    assert entry.owner == ALICE


def test_a_tuple_that_is_used_again_belongs_to_the_newest_and_is_told() -> None:
    book = Ledger()
    connect(book, ALICE, cookie=1)
    ask(book, flow(40000, 443))
    connect(book, BOB, cookie=2, at=5.0)
    assert book.stale.drain() == [flow(40000, 443)]
    assert ask(book, flow(40000, 443), 6.0) == (Quality.EXACT, BOB)
    assert book.stale.drain() == []
    assert ask(book, flow(40000, 443), 6.0, passed(1.0, 2.0)) == (Quality.EXACT, ALICE)
    assert book.stale.drain() == [flow(40000, 443)]
    assert ask(book, flow(40000, 443), 6.0, passed(4.0, 6.0)) is CONTESTED
    assert book.stale.drain() == [flow(40000, 443)]
    assert book.counts().contested == 1


def test_an_accepted_connection_falls_to_the_listener_until_its_server_lets_go() -> None:
    book = Ledger()
    accept(book, ALICE)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    book.note(happened(EventKind.RELEASED, 1), BOB, 1.0)
    assert book.stale.drain() == [flow(80, 50000)]
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_an_accepted_connection_without_a_known_listener_is_known_in_the_end() -> None:
    book = Ledger()
    accept(book, None)
    assert ask(book, flow(80, 50000)) is None
    book.note(happened(EventKind.RELEASED, 1), BOB, 1.0)
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_the_manager_that_binds_for_services_is_not_their_owner() -> None:
    book = Ledger()
    accept(book, SERVICE_MANAGER)
    assert ask(book, flow(80, 50000)) is None
    book.note(happened(EventKind.RELEASED, 1), BOB, 1.0)
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_a_listening_socket_takes_what_comes_to_its_port() -> None:
    book = Ledger()
    book.note(happened(EventKind.LISTENING, 1, 80, local=ANY6), ALICE, 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    book.note(happened(EventKind.LISTENING, 2, 80, local=HERE), BOB, 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, BOB)
    assert ask(book, flow(80, 50000, local=ELSEWHERE)) == (Quality.LISTENER, ALICE)


def test_two_owners_of_a_port_are_none_and_counted() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND)
    datagrams(book, BOB, 2, EventKind.BOUND)
    assert ask(book, flow(5000, 53, UDP)) is None
    assert book.counts().contested == 1


def test_threads_of_one_process_with_other_names_are_one_owner() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND)
    datagrams(book, SocketOwner(10, 100, 1000, "worker-7", 1), 2, EventKind.BOUND)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.LISTENER, ALICE)


def test_a_sender_is_exact_for_its_first_peer_and_takes_other_answers_by_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.SENT)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_port_that_is_known_only_at_the_end_is_answered_then() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.CONNECTED, local_port=0)
    assert ask(book, flow(5000, 53, UDP)) is None
    book.note(happened(EventKind.RELEASED, 1, 5000, protocol=UDP, remote_port=53), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)


def test_a_port_seen_with_another_peer_than_the_one_told_is_not_believed() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.CONNECTED, local_port=0)
    book.note(happened(EventKind.RELEASED, 1, 5000, protocol=UDP, remote_port=54), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP)) is None


def test_a_released_port_is_told_and_not_answered_while_another_may_have_taken_it() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.SENT)
    ask(book, flow(5000, 53, UDP))
    release(book, ALICE, 1, at=1.0)
    assert book.stale.drain() == [flow(5000, 53, UDP)]
    datagrams(book, BOB, 2, EventKind.CONNECTED, local_port=0, at=1.5)
    assert ask(book, flow(5000, 53, UDP), 2.0, passed(1.2)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 2.0) is None
    assert ask(book, flow(5000, 53, UDP), 2.0, passed(0.9, 1.9)) is CONTESTED
    release(book, BOB, 2, at=3.0, local_port=5000)
    assert book.stale.drain() == [flow(5000, 53, UDP)]
    assert ask(book, flow(5000, 53, UDP), 3.0, passed(2.0)) == (Quality.EXACT, BOB)
    assert ask(book, flow(5000, 53, UDP), 3.0, passed(0.9)) == (Quality.EXACT, ALICE)


def test_an_answer_for_a_port_that_is_free_is_for_once() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.SENT)
    book.note(happened(EventKind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP), 1.0) == (Quality.EXACT, ALICE)
    assert book.stale.drain() == [flow(5000, 53, UDP)]
    assert book.stale.drain() == []


def test_a_living_socket_on_a_port_goes_before_a_released_one() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND)
    book.note(happened(EventKind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert ask(book, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, ALICE)
    datagrams(book, BOB, 2, EventKind.BOUND)
    assert ask(book, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, BOB)


def test_a_peer_of_a_released_sender_is_of_who_took_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.SENT)
    release(book, ALICE, 1, at=1.0)
    assert ask(book, flow(5000, 53, UDP), 2.0) == (Quality.EXACT, ALICE)
    datagrams(book, BOB, 2, EventKind.BOUND, at=3.0)
    assert ask(book, flow(5000, 53, UDP), 3.5, passed(2.0)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 3.5) == (Quality.LISTENER, BOB)


def test_packets_of_several_that_had_a_port_in_turn_are_nobodys_and_each_ones_its_own() -> None:
    book = Ledger()
    turns = [(cookie, ALICE if cookie % 2 else BOB) for cookie in range(1, 9)]
    for cookie, owner in turns:
        datagrams(book, owner, cookie, EventKind.BOUND, at=cookie)
        release(book, owner, cookie, at=cookie + 0.9)
    key = flow(5000, 53, UDP)
    for cookie, owner in turns:
        during = passed(cookie + 0.1, cookie + 0.8)
        assert ask(book, key, 9.0, during) == (Quality.LISTENER, owner)
    assert ask(book, key, 9.0, passed(3.5, 4.5)) is CONTESTED
    assert ask(book, key, 9.0, passed(3.5, 8.5)) is CONTESTED
    assert book.counts().contested == 2


def test_who_joins_at_a_port_or_takes_a_flow_of_it_makes_answers_stale() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND)
    mine, others = flow(5000, 53, UDP), flow(5000, 99, UDP)
    for key in (mine, others):
        assert ask(book, key) == (Quality.LISTENER, ALICE)
    datagrams(book, BOB, 2, EventKind.CONNECTED, at=1.0)
    assert book.stale.drain() == [mine]
    assert ask(book, mine, 2.0) == (Quality.EXACT, BOB)
    datagrams(book, BOB, 3, EventKind.BOUND, at=3.0)
    assert book.stale.drain() == [mine, others]
    assert ask(book, others, 4.0) is None


def test_a_connection_that_both_ends_opened_at_once_is_of_who_connected() -> None:
    book = Ledger()
    connect(book, ALICE)
    event = happened(
        EventKind.ACCEPTED, 1, 40000, local=HERE, remote=THERE, remote_port=443, at=1.0
    )
    book.note(event, ALICE, 1.0)
    assert ask(book, flow(40000, 443), 2.0) == (Quality.EXACT, ALICE)


def test_a_socket_that_connects_anew_has_another_port_from_then_on() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.CONNECTED, local_port=0, at=1.0)
    datagrams(book, ALICE, 1, EventKind.CONNECTED, local_port=0, at=5.0)
    release(book, ALICE, 1, at=6.0, local_port=5000)
    assert ask(book, flow(5000, 53, UDP), 7.0, passed(5.5)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 7.0, passed(2.0)) is CONTESTED


def test_one_owner_that_takes_a_port_again_and_again_is_one_owner() -> None:
    book = Ledger()
    for cookie in range(1, 9):
        datagrams(book, ALICE, cookie, EventKind.BOUND, at=cookie)
        release(book, ALICE, cookie, at=cookie + 0.9)
    answer = ask(book, flow(5000, 53, UDP), 9.0, passed(1.5, 8.5))
    assert answer == (Quality.LISTENER, ALICE)


def test_packets_from_before_a_socket_was_are_not_its_own() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND, at=5.0)
    assert ask(book, flow(5000, 53, UDP), 6.0, passed(5.0, 6.0)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(5000, 53, UDP), 6.0, passed(4.0, 6.0)) is CONTESTED
    assert ask(book, flow(5000, 53, UDP), 6.0, passed(3.0, 4.0)) is CONTESTED


def test_what_was_sent_right_before_the_end_may_pass_right_after_it() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND, at=1.0)
    release(book, ALICE, 1, at=2.0)
    datagrams(book, BOB, 2, EventKind.BOUND, at=2.00005)
    assert ask(book, flow(5000, 53, UDP), 3.0, passed(2.0001, 2.0002)) is CONTESTED
    assert ask(book, flow(5000, 53, UDP), 3.0, passed(2.001)) == (Quality.LISTENER, BOB)


def test_a_handshake_is_of_the_connection_that_it_begins_not_of_the_one_before() -> None:
    book = Ledger()
    accept(book, ALICE, cookie=1, at=10.0)
    assert ask(book, flow(80, 50000), 10.0, passed(9.9, 10.0)) == (Quality.LISTENER, ALICE)
    release(book, ALICE, 1, at=11.0, protocol=TCP)
    accept(book, BOB, cookie=2, at=20.0)
    assert ask(book, flow(80, 50000), 20.0, passed(19.5, 20.0)) == (Quality.LISTENER, BOB)
    assert ask(book, flow(80, 50000), 20.0, passed(10.5, 11.5)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(80, 50000), 20.0, passed(10.5, 20.0)) is CONTESTED


def test_two_sockets_of_one_port_at_the_same_time_are_for_others_to_tell() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND, at=1.0)
    datagrams(book, BOB, 2, EventKind.BOUND, at=2.0)
    assert ask(book, flow(5000, 53, UDP), 4.0, passed(3.0, 4.0)) is None
    assert ask(book, flow(5000, 53, UDP), 4.0, passed(1.5, 4.0)) is CONTESTED
    assert ask(book, flow(5000, 53, UDP), 4.0, passed(1.5, 1.8)) == (Quality.LISTENER, ALICE)


def lossy() -> Ledger:
    """A book of two sockets of before a loss of events, and one of after it."""
    book = Ledger()
    connect(book, ALICE, cookie=1, at=1.0)
    datagrams(book, ALICE, 2, EventKind.BOUND, at=1.0)
    assert ask(book, flow(40000, 443), 2.0) == (Quality.EXACT, ALICE)
    book.doubt(5_000_000_000, 6_000_000_000)
    event = happened(EventKind.BOUND, 3, 6000, protocol=UDP, at=7.0)
    book.note(event, BOB, 7.0)
    return book


def test_after_a_loss_of_events_only_what_was_before_and_what_came_since_is_believed() -> None:
    book = lossy()
    assert book.stale.drain() == [flow(40000, 443)]
    assert book.needs_snapshot
    for now in (5.5, 6.5, 8.0):
        assert ask(book, flow(40000, 443), now) is None
        assert ask(book, flow(5000, 53, UDP), now) is None
    assert ask(book, flow(40000, 443), 8.0, passed(2.0, 4.9)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 8.0, passed(2.0, 4.9)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(6000, 53, UDP), 8.0) == (Quality.LISTENER, BOB)


def test_what_was_told_while_events_were_lost_holds_no_longer_than_told() -> None:
    book = Ledger()
    book.doubt(5_000_000_000, 6_000_000_000)  # what follows was read with the loss
    datagrams(book, ALICE, 1, EventKind.BOUND, at=5.2)
    datagrams(book, BOB, 2, EventKind.BOUND, local_port=5001, at=5.3)
    release(book, BOB, 2, at=5.5)
    assert ask(book, flow(5000, 53, UDP), 7.0, passed(5.4)) is None
    assert ask(book, flow(5001, 53, UDP), 7.0, passed(5.4)) == (Quality.LISTENER, BOB)
    assert ask(book, flow(5001, 53, UDP), 7.0, passed(5.6)) is None


def test_sockets_that_are_still_there_after_a_loss_are_believed_again() -> None:
    book = lossy()
    book.begin_snapshot()
    book.ingest_snapshot([SnapshotSocket(2, NAMESPACE, UDP, ANY4, 5000, ANY4, 0, ALICE)], 8.0)
    assert not book.needs_snapshot
    assert ask(book, flow(5000, 53, UDP), 8.0, passed(5.0, 8.0)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(6000, 53, UDP), 8.0) == (Quality.LISTENER, BOB)
    assert ask(book, flow(40000, 443), 8.0, passed(2.0)) is None
    assert (book.counts().sockets, book.counts().evicted, book.counts().snapshots) == (2, 1, 1)


def test_sockets_that_were_made_during_a_loss_are_known_from_its_end_on() -> None:
    book = lossy()
    book.begin_snapshot()
    release(book, BOB, 5, at=7.8)
    seeds = [
        SnapshotSocket(cookie, NAMESPACE, UDP, ANY4, port, ANY4, 0, BOB)
        for cookie, port in ((4, 7000), (5, 7001))
    ]
    book.ingest_snapshot(seeds, 8.0)
    assert ask(book, flow(7000, 53, UDP), 8.0, passed(6.0, 8.0)) == (Quality.LISTENER, BOB)
    assert ask(book, flow(7000, 53, UDP), 8.0, passed(5.0, 8.0)) is CONTESTED
    assert ask(book, flow(7001, 53, UDP), 8.0) is None


def test_sockets_that_could_not_be_read_after_a_loss_are_to_be_read_again() -> None:
    book = lossy()
    book.begin_snapshot()
    assert book.needs_snapshot


def test_a_loss_while_sockets_are_read_leaves_the_doubt() -> None:
    book = lossy()
    book.begin_snapshot()
    book.doubt(7_600_000_000, 7_700_000_000)
    seeds = [
        SnapshotSocket(cookie, NAMESPACE, UDP, ANY4, port, ANY4, 0, ALICE)
        for cookie, port in ((2, 5000), (4, 7000))
    ]
    book.ingest_snapshot(seeds, 8.0)
    assert book.needs_snapshot
    for port in (5000, 7000):
        assert ask(book, flow(port, 53, UDP), 8.0) is None
    book.begin_snapshot()
    book.ingest_snapshot(seeds, 9.0)
    for port in (5000, 7000):
        assert ask(book, flow(port, 53, UDP), 9.0) == (Quality.LISTENER, ALICE)


def test_a_listening_socket_that_another_follows_has_what_came_before() -> None:
    book = Ledger()
    book.note(happened(EventKind.LISTENING, 1, 80, local=HERE, at=1.0), ALICE, 1.0)
    book.note(happened(EventKind.LISTENING, 2, 80, at=2.0), BOB, 2.0)
    release(book, ALICE, 1, at=3.0, protocol=TCP)
    for span, owner in ((passed(2.5), ALICE), (passed(4.0), BOB)):
        assert ask(book, flow(80, 50000), 4.0, span) == (Quality.LISTENER, owner)
    assert book.counts().contested == 0
    release(book, BOB, 2, at=5.0, protocol=TCP)
    assert ask(book, flow(80, 50000), 6.0) == (Quality.LISTENER, BOB)
    assert book.stale.drain() == [flow(80, 50000)]
    assert ask(book, flow(80, 50000), 6.0) == (Quality.LISTENER, BOB)
    assert book.stale.drain() == []  # an open connection is not asked for over and over


def test_a_port_that_is_used_over_and_over_costs_no_more_each_time() -> None:
    book = Ledger()
    for cookie in range(1, 1000):
        datagrams(book, ALICE, cookie, EventKind.BOUND)
        book.note(happened(EventKind.RELEASED, cookie, protocol=UDP), ALICE, 1.0)
    at_port = book._places._by_port[NAMESPACE, UDP, 5000]
    assert len(at_port) <= 33
    assert ask(book, flow(5000, 53, UDP), 1.0) == (Quality.LISTENER, ALICE)
    assert book.counts().sockets == 999


def test_a_bound_socket_that_connects_keeps_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, EventKind.BOUND)
    datagrams(book, ALICE, 1, EventKind.CONNECTED)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_released_socket_answers_for_the_grace_time_and_is_forgotten() -> None:
    book = Ledger(grace=10.0)
    accept(book, ALICE)
    book.note(happened(EventKind.RELEASED, 1), BOB, 5.0)
    assert ask(book, flow(80, 50000), 14.9) == (Quality.EXACT, BOB)
    assert ask(book, flow(80, 50000), 15.1) is None
    assert book.counts().sockets == 0
    assert book.counts().evicted == 0


def test_too_many_sockets_are_forgotten_not_those_that_hold_a_port_and_counted() -> None:
    book = Ledger(max_sockets=2)
    datagrams(book, BOB, 1, EventKind.BOUND)
    connect(book, ALICE, cookie=2)
    accept(book, ALICE, cookie=3)
    assert book.counts().sockets == 2
    assert book.counts().evicted == 1
    assert ask(book, flow(40000, 443)) is None
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.LISTENER, BOB)


def test_more_ports_than_there_is_room_for_are_forgotten_too() -> None:
    book = Ledger(max_sockets=3)
    for cookie in range(1, 40):
        datagrams(book, BOB, cookie, EventKind.BOUND, local_port=cookie)
    assert book.counts().sockets == 3
    assert book.counts().evicted == 36


def test_a_connection_is_forgotten_a_grace_time_after_it_was_last_told_of() -> None:
    book = Ledger(grace=10.0)
    connect(book, ALICE, cookie=1)
    accept(book, ALICE, cookie=2)
    book.note(happened(EventKind.RELEASED, 2), BOB, 5.0)
    assert ask(book, flow(40000, 443), 10.1) is None
    assert ask(book, flow(80, 50000), 10.1) == (Quality.EXACT, BOB)
    assert ask(book, flow(80, 50000), 15.1) is None


def test_a_release_of_an_unknown_socket_is_counted() -> None:
    book = Ledger()
    book.note(happened(EventKind.RELEASED, 9), ALICE, 0.0)
    assert book.counts().unknown_releases == 1


owners = st.sampled_from([None, ALICE, BOB, SERVICE_MANAGER])
events = st.builds(
    happened,
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
@settings(deadline=None)
def test_whatever_happens_the_ledger_keeps_its_bounds_and_names_only_who_was_told(
    history: list[tuple[SocketEvent, SocketOwner | None, float]], room: int, age: float
) -> None:
    book, now, told = Ledger(grace=2.0, max_sockets=room), 0.0, set()
    keys = [flow(port, 53, protocol) for port in (80, 5000) for protocol in (TCP, UDP)]
    for event, owner, pause in history:
        now += pause
        book.note(replace(event, boot_ns=round(now * 1e9)), owner, now)
        told.add(owner)
        assert book.counts().sockets <= room
        for key in keys:
            for namespace in (None, 1, 2):
                entry = book.owner_of(key, namespace, passed(max(now - age, 0.0), now), now)
                assert not isinstance(entry, LedgerEntry) or entry.owner in told
    for cookie in {event.cookie for event, _, _ in history}:
        book.note(happened(EventKind.RELEASED, cookie), None, now)
    book.note(happened(EventKind.RELEASED, 99), None, now + 10)
    assert book.counts().sockets == 0
