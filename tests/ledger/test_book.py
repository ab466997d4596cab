"""The ledger's answers, from events as the kernel tells them."""

from hypothesis import given
from hypothesis import strategies as st
from support.ledger import (
    ALICE,
    ANY4,
    ANY6,
    BOB,
    ELSEWHERE,
    HERE,
    MANAGER,
    NAMESPACE,
    TCP,
    THERE,
    UDP,
    ask,
    flow,
    happened,
)

from hogpipe.ledger.book import Ledger
from hogpipe.ledger.contract import LedgerEntry, Owner
from hogpipe.ledger.events import Kind, SocketEvent
from hogpipe.model import Quality


def connect(book: Ledger, owner: Owner, cookie: int = 1, namespace: int = NAMESPACE) -> None:
    book.note(
        happened(
            Kind.CONNECTED,
            cookie,
            40000,
            local=HERE,
            remote=THERE,
            remote_port=443,
            namespace=namespace,
        ),
        owner,
        0.0,
    )


def accept(book: Ledger, owner: Owner | None, cookie: int = 1) -> None:
    event = happened(Kind.ACCEPTED, cookie, 80, local=HERE, remote=THERE, remote_port=50000)
    book.note(event, owner, 0.0)


def datagrams(book: Ledger, owner: Owner, cookie: int, kind: Kind, local_port: int = 5000) -> None:
    event = happened(kind, cookie, local_port, protocol=UDP, remote=THERE, remote_port=53)
    book.note(event, owner, 0.0)


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
        entry = book.owner_of(flow(40000, 443), namespace, 0.0)
        assert entry is not None
        assert entry.owner == owner
    assert book.owner_of(flow(40000, 443), None, 0.0) is None


def test_a_flow_of_an_unknown_namespace_is_found_where_only_one_has_it() -> None:
    book = Ledger()
    connect(book, ALICE, namespace=5)
    entry = book.owner_of(flow(40000, 443), None, 0.0)
    assert entry is not None
    assert entry.owner == ALICE


def test_a_tuple_that_is_used_again_belongs_to_the_newest_and_is_told() -> None:
    book = Ledger()
    connect(book, ALICE, cookie=1)
    ask(book, flow(40000, 443))
    connect(book, BOB, cookie=2)
    assert book.take_stale() == [flow(40000, 443)]
    assert ask(book, flow(40000, 443)) == (Quality.EXACT, BOB)
    assert book.take_stale() == []


def test_an_accepted_connection_falls_to_the_listener_until_its_server_lets_go() -> None:
    book = Ledger()
    accept(book, ALICE)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    book.note(happened(Kind.RELEASED, 1), BOB, 1.0)
    assert book.take_stale() == [flow(80, 50000)]
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_an_accepted_connection_without_a_known_listener_is_known_in_the_end() -> None:
    book = Ledger()
    accept(book, None)
    assert ask(book, flow(80, 50000)) is None
    book.note(happened(Kind.RELEASED, 1), BOB, 1.0)
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_the_manager_that_binds_for_services_is_not_their_owner() -> None:
    book = Ledger()
    accept(book, MANAGER)
    assert ask(book, flow(80, 50000)) is None
    book.note(happened(Kind.RELEASED, 1), BOB, 1.0)
    assert ask(book, flow(80, 50000)) == (Quality.EXACT, BOB)


def test_a_listening_socket_takes_what_comes_to_its_port() -> None:
    book = Ledger()
    book.note(happened(Kind.LISTENING, 1, 80, local=ANY6), ALICE, 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    book.note(happened(Kind.LISTENING, 2, 80, local=HERE), BOB, 0.0)
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, BOB)
    assert ask(book, flow(80, 50000, local=ELSEWHERE)) == (Quality.LISTENER, ALICE)


def test_two_owners_of_a_port_are_none_and_counted() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.BOUND)
    datagrams(book, BOB, 2, Kind.BOUND)
    assert ask(book, flow(5000, 53, UDP)) is None
    assert book.counts().shared == 1


def test_threads_of_one_process_with_other_names_are_one_owner() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.BOUND)
    datagrams(book, Owner(10, 100, 1000, "worker-7", 1), 2, Kind.BOUND)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.LISTENER, ALICE)


def test_a_sender_is_exact_for_its_first_peer_and_takes_other_answers_by_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.SENT)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_port_that_is_known_only_at_the_end_is_answered_then() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.CONNECTED, local_port=0)
    assert ask(book, flow(5000, 53, UDP)) is None
    book.note(happened(Kind.RELEASED, 1, 5000, protocol=UDP, remote_port=53), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)


def test_a_port_seen_with_another_peer_than_the_one_told_is_not_believed() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.CONNECTED, local_port=0)
    book.note(happened(Kind.RELEASED, 1, 5000, protocol=UDP, remote_port=54), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP)) is None


def test_a_released_port_is_told_and_not_answered_while_another_may_have_taken_it() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.SENT)
    ask(book, flow(5000, 53, UDP))
    book.note(happened(Kind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert book.take_stale() == [flow(5000, 53, UDP)]
    datagrams(book, BOB, 2, Kind.CONNECTED, local_port=0)
    assert ask(book, flow(5000, 53, UDP), 1.01) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 2.0) is None
    book.note(happened(Kind.RELEASED, 2, 5000, protocol=UDP, remote_port=53), BOB, 3.0)
    assert book.take_stale() == [flow(5000, 53, UDP)]
    assert ask(book, flow(5000, 53, UDP), 3.0) == (Quality.EXACT, BOB)


def test_an_answer_for_a_port_that_is_free_is_for_once() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.SENT)
    book.note(happened(Kind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP), 1.0) == (Quality.EXACT, ALICE)
    assert book.take_stale() == [flow(5000, 53, UDP)]
    assert book.take_stale() == []


def test_a_living_socket_on_a_port_goes_before_a_released_one() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.BOUND)
    book.note(happened(Kind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert ask(book, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, ALICE)
    datagrams(book, BOB, 2, Kind.BOUND)
    assert ask(book, flow(5000, 99, UDP), 1.0) == (Quality.LISTENER, BOB)


def test_a_peer_of_a_released_sender_is_of_who_took_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.SENT)
    book.note(happened(Kind.RELEASED, 1, protocol=UDP), ALICE, 1.0)
    assert ask(book, flow(5000, 53, UDP), 2.0) == (Quality.EXACT, ALICE)
    datagrams(book, BOB, 2, Kind.BOUND)
    assert ask(book, flow(5000, 53, UDP), 1.05) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 53, UDP), 2.0) == (Quality.LISTENER, BOB)


def test_after_a_loss_of_events_only_what_was_told_just_now_is_believed() -> None:
    book = Ledger()
    connect(book, ALICE, cookie=1)
    datagrams(book, ALICE, 2, Kind.BOUND)
    assert ask(book, flow(40000, 443)) == (Quality.EXACT, ALICE)
    event = happened(Kind.CONNECTED, 3, 40001, local=HERE, remote=THERE, remote_port=443)
    book.note(event, BOB, 9.0)
    book.distrust(10.0)
    assert book.take_stale() == [flow(40000, 443)]
    assert ask(book, flow(40000, 443), 10.0) is None
    assert ask(book, flow(5000, 53, UDP), 10.0) is None
    assert ask(book, flow(40001, 443), 10.0) == (Quality.EXACT, BOB)
    assert book.counts().sockets == 1
    assert book.counts().forgotten == 2


def test_a_port_that_is_used_over_and_over_costs_no_more_each_time() -> None:
    book = Ledger()
    for cookie in range(1, 1000):
        datagrams(book, ALICE, cookie, Kind.BOUND)
        book.note(happened(Kind.RELEASED, cookie, protocol=UDP), ALICE, 1.0)
    at_port = book._places._by_port[NAMESPACE, UDP, 5000]
    assert len(at_port) == 1
    assert ask(book, flow(5000, 53, UDP), 1.0) == (Quality.LISTENER, ALICE)
    assert book.counts().sockets == 999


def test_a_bound_socket_that_connects_keeps_its_port() -> None:
    book = Ledger()
    datagrams(book, ALICE, 1, Kind.BOUND)
    datagrams(book, ALICE, 1, Kind.CONNECTED)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.EXACT, ALICE)
    assert ask(book, flow(5000, 99, UDP)) == (Quality.LISTENER, ALICE)


def test_a_released_socket_answers_for_the_grace_time_and_is_forgotten() -> None:
    book = Ledger(grace=10.0)
    accept(book, ALICE)
    book.note(happened(Kind.RELEASED, 1), BOB, 5.0)
    assert ask(book, flow(80, 50000), 14.9) == (Quality.EXACT, BOB)
    assert ask(book, flow(80, 50000), 15.1) is None
    assert book.counts().sockets == 0
    assert book.counts().forgotten == 0


def test_too_many_sockets_are_forgotten_not_those_that_hold_a_port_and_counted() -> None:
    book = Ledger(max_sockets=2)
    datagrams(book, BOB, 1, Kind.BOUND)
    connect(book, ALICE, cookie=2)
    accept(book, ALICE, cookie=3)
    assert book.counts().sockets == 2
    assert book.counts().forgotten == 1
    assert ask(book, flow(40000, 443)) is None
    assert ask(book, flow(80, 50000)) == (Quality.LISTENER, ALICE)
    assert ask(book, flow(5000, 53, UDP)) == (Quality.LISTENER, BOB)


def test_more_ports_than_there_is_room_for_are_forgotten_too() -> None:
    book = Ledger(max_sockets=3)
    for cookie in range(1, 40):
        datagrams(book, BOB, cookie, Kind.BOUND, local_port=cookie)
    assert book.counts().sockets == 3
    assert book.counts().forgotten == 36


def test_a_connection_is_forgotten_a_grace_time_after_it_was_last_told_of() -> None:
    book = Ledger(grace=10.0)
    connect(book, ALICE, cookie=1)
    accept(book, ALICE, cookie=2)
    book.note(happened(Kind.RELEASED, 2), BOB, 5.0)
    assert ask(book, flow(40000, 443), 10.1) is None
    assert ask(book, flow(80, 50000), 10.1) == (Quality.EXACT, BOB)
    assert ask(book, flow(80, 50000), 15.1) is None


def test_a_release_of_an_unknown_socket_is_counted() -> None:
    book = Ledger()
    book.note(happened(Kind.RELEASED, 9), ALICE, 0.0)
    assert book.counts().unknown == 1


owners = st.sampled_from([None, ALICE, BOB, MANAGER])
events = st.builds(
    happened,
    st.sampled_from(list(Kind)),
    st.integers(1, 4),
    st.sampled_from([0, 80, 5000]),
    protocol=st.sampled_from([TCP, UDP]),
    local=st.sampled_from([ANY4, HERE, ANY6]),
    remote=st.sampled_from([ANY4, THERE]),
    remote_port=st.sampled_from([0, 53]),
    namespace=st.sampled_from([0, 1, 2]),
)


@given(st.lists(st.tuples(events, owners, st.floats(0, 3))), st.integers(1, 5))
def test_whatever_happens_the_ledger_keeps_its_bounds_and_names_only_who_was_told(
    history: list[tuple[SocketEvent, Owner | None, float]], room: int
) -> None:
    book, now, told = Ledger(grace=2.0, max_sockets=room), 0.0, set()
    keys = [flow(port, 53, protocol) for port in (80, 5000) for protocol in (TCP, UDP)]
    for event, owner, pause in history:
        now += pause
        book.note(event, owner, now)
        told.add(owner)
        assert book.counts().sockets <= room
        for key in keys:
            for namespace in (None, 1, 2):
                entry = book.owner_of(key, namespace, now)
                assert entry is None or isinstance(entry, LedgerEntry)
                assert entry is None or entry.owner in told
    for cookie in {event.cookie for event, _, _ in history}:
        book.note(happened(Kind.RELEASED, cookie), None, now)
    book.note(happened(Kind.RELEASED, 99), None, now + 10)
    assert book.counts().sockets == 0
