"""Fragments are matched to their flow in any order, and no byte is lost."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from hogpipe.capture.decode.fragments import FragmentSum, FragmentTable

SECOND = 1_000_000_000
FLOW, BARE = b"flow", b"bare"
A, B, C = b"a", b"b", b"c"


def later(
    table: FragmentTable, ident: bytes, key: bytes, length: int, now_ns: int
) -> list[FragmentSum]:
    """Ingest a later fragment that is captured now."""
    return table.ingest_later(ident, key, length, now_ns, now_ns)


def test_a_later_fragment_counts_in_the_flow_of_the_first() -> None:
    table = FragmentTable()
    assert table.ingest_first(A, FLOW, 0) == []
    assert later(table, A, BARE, 100, 1) == [FragmentSum(FLOW, 1, 100, 1, 1)]
    assert later(table, A, BARE, 50, 2) == [FragmentSum(FLOW, 1, 50, 2, 2)]
    assert table.flush() == []


def test_fragments_before_the_first_are_pending_until_it_comes() -> None:
    table = FragmentTable()
    assert later(table, A, BARE, 100, 0) == []
    assert later(table, A, BARE, 50, 1) == []
    assert table.ingest_first(A, FLOW, 2) == [FragmentSum(FLOW, 2, 150, 0, 1)]
    assert table.flush() == []


def test_fragments_whose_first_does_not_come_count_without_ports() -> None:
    table = FragmentTable(pending_ns=2 * SECOND)
    later(table, A, BARE, 100, 0)
    assert table.expire(2 * SECOND - 1) == []
    assert table.expire(2 * SECOND) == [FragmentSum(BARE, 1, 100, 0, 0)]
    assert table.ingest_first(A, FLOW, 2 * SECOND) == []


def test_a_first_that_comes_too_late_matches_nothing() -> None:
    table = FragmentTable(pending_ns=2 * SECOND)
    later(table, A, BARE, 100, 0)
    assert table.ingest_first(A, FLOW, 3 * SECOND) == [FragmentSum(BARE, 1, 100, 0, 0)]


def test_a_flow_expires() -> None:
    table = FragmentTable(flow_ttl_ns=30 * SECOND)
    table.ingest_first(A, FLOW, 0)
    now = 30 * SECOND - 1
    assert later(table, A, BARE, 1, now) == [FragmentSum(FLOW, 1, 1, now, now)]
    assert later(table, A, BARE, 2, 30 * SECOND) == []
    assert table.flush() == [FragmentSum(BARE, 1, 2, now + 1, now + 1)]


def test_a_newer_first_replaces_the_older_and_restarts_its_time() -> None:
    table = FragmentTable(flow_ttl_ns=30 * SECOND)
    table.ingest_first(A, FLOW, 0)
    table.ingest_first(A, b"newer", 20 * SECOND)
    now = 40 * SECOND
    assert later(table, A, BARE, 1, now) == [FragmentSum(b"newer", 1, 1, now, now)]


def test_when_too_many_are_pending_the_oldest_counts_without_ports() -> None:
    table = FragmentTable(max_entries=2)
    later(table, A, BARE, 1, 0)
    later(table, B, BARE, 2, 0)
    assert later(table, A, BARE, 10, 0) == []
    assert later(table, C, BARE, 3, 0) == [FragmentSum(BARE, 2, 11, 0, 0)]
    assert table.flush() == [FragmentSum(BARE, 1, 2, 0, 0), FragmentSum(BARE, 1, 3, 0, 0)]


def test_when_too_many_flows_are_known_the_oldest_is_evicted() -> None:
    table = FragmentTable(max_entries=2)
    for ident in (A, B, C):
        table.ingest_first(ident, FLOW + ident, 0)
    assert later(table, A, BARE, 1, 0) == []
    assert later(table, B, BARE, 2, 0) == [FragmentSum(FLOW + B, 1, 2, 0, 0)]


def test_replacing_a_flow_in_a_full_table_evicts_no_other() -> None:
    table = FragmentTable(max_entries=2)
    for ident in (A, B, B):
        table.ingest_first(ident, FLOW + ident, 0)
    assert later(table, A, BARE, 1, 0) == [FragmentSum(FLOW + A, 1, 1, 0, 0)]


def test_a_clock_that_steps_back_stands_still_instead() -> None:
    table = FragmentTable(pending_ns=2 * SECOND)
    table.expire(10 * SECOND)
    later(table, A, BARE, 1, 5 * SECOND)
    assert table.expire(11 * SECOND) == []
    assert table.expire(12 * SECOND) == [FragmentSum(BARE, 1, 1, 5 * SECOND, 5 * SECOND)]


def test_flushing_empties_the_flows_too() -> None:
    table = FragmentTable()
    table.ingest_first(A, FLOW, 0)
    table.flush()
    assert later(table, A, BARE, 1, 0) == []


EVENTS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([A, B, C]), st.integers(0, 4 * SECOND)), max_size=30
)


@given(EVENTS, st.integers(1, 3))
@settings(max_examples=200)
def test_every_byte_of_a_later_fragment_counts_once(
    events: list[tuple[bool, bytes, int]], max_entries: int
) -> None:
    table = FragmentTable(max_entries, flow_ttl_ns=3 * SECOND, pending_ns=2 * SECOND)
    countable: list[FragmentSum] = []
    taken = Counter[str]()
    for size, (is_first, ident, time) in enumerate(events, 1):
        if is_first:
            countable += table.ingest_first(ident, FLOW + ident, time)
        else:
            countable += later(table, ident, BARE + ident, size, time)
            taken.update(packets=1, bytes=size)
    countable += table.flush()
    assert sum(one.bytes for one in countable) == taken["bytes"]
    assert sum(one.packets for one in countable) == taken["packets"]


@given(st.permutations([(ident, part) for ident in (A, B, C) for part in range(4)]))
@settings(max_examples=100)
def test_in_any_order_all_fragments_count_in_the_flow_of_their_first(
    order: list[tuple[bytes, int]],
) -> None:
    table = FragmentTable()
    countable: list[FragmentSum] = []
    for ident, part in order:
        if part == 0:
            countable += table.ingest_first(ident, FLOW + ident, 0)
        else:
            countable += later(table, ident, BARE, part, 0)
    totals = Counter[bytes]()
    for one in countable:
        totals[one.key] += one.bytes
    assert totals == {FLOW + ident: 6 for ident in (A, B, C)}
    assert table.flush() == []
