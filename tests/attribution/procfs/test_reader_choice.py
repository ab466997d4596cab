"""The choice between two readers follows from their costs."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.procfs.reader_choice import Reader, ReaderChoice

PROCFS, SOCK_DIAG = Reader.PROCFS, Reader.SOCK_DIAG


def read(choice: ReaderChoice, times: int, costs: dict[Reader, float]) -> list[Reader]:
    """Read `times` times at these costs, and return the reader of each read."""
    readers = []
    for _ in range(times):
        readers.append(choice.next)
        choice.record(choice.next, costs[choice.next])
    return readers


def reads_by(readers: list[Reader], reader: Reader) -> list[int]:
    """Return the numbers of the reads with this reader."""
    return [turn for turn, one in enumerate(readers) if one is reader]


def test_the_other_reader_is_tried_after_the_first_read_and_stays_if_cheaper() -> None:
    readers = read(ReaderChoice(), 40, {PROCFS: 2, SOCK_DIAG: 1})
    assert readers == [PROCFS] + [SOCK_DIAG] * 39


def test_proc_is_tried_after_the_first_read_by_sock_diag_if_the_table_is_not_large() -> None:
    begun = ReaderChoice(first=SOCK_DIAG)
    assert read(begun, 4, {PROCFS: 0.001, SOCK_DIAG: 0.002}) == [SOCK_DIAG] + [PROCFS] * 3
    large = ReaderChoice(first=SOCK_DIAG)
    assert set(read(large, 100, {PROCFS: 0.001, SOCK_DIAG: 0.005})) == {SOCK_DIAG}
    shrunk = read(large, 10, {PROCFS: 0.001, SOCK_DIAG: 0.0001})
    assert shrunk[:2] == [SOCK_DIAG, PROCFS]


def test_proc_is_read_where_sock_diag_is_refused_however_large_the_table_is() -> None:
    choice = ReaderChoice(first=SOCK_DIAG)
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 33, {PROCFS: 1, SOCK_DIAG: 2}) == [PROCFS] * 32 + [SOCK_DIAG]


def test_a_reader_of_similar_cost_is_tried_after_32_reads_or_when_the_share_allows() -> None:
    # A trial at 0.75 fits its share after 37.5 reads at 1; one at 0.1 would after five.
    readers = read(ReaderChoice(), 120, {PROCFS: 1, SOCK_DIAG: 0.75})
    assert reads_by(readers, SOCK_DIAG) == [1, 40, 79, 118]
    fallen = ReaderChoice()
    read(fallen, 2, {PROCFS: 1, SOCK_DIAG: 1})
    fallen.record_failure(SOCK_DIAG)
    assert reads_by(read(fallen, 33, {PROCFS: 1, SOCK_DIAG: 0.1}), SOCK_DIAG) == [32]


def test_trials_of_an_expensive_reader_cost_a_fiftieth_of_all_reads() -> None:
    readers = read(ReaderChoice(), 1100, {PROCFS: 1, SOCK_DIAG: 10})
    assert reads_by(readers, SOCK_DIAG) == [1, 502, 1003]


def test_readers_of_similar_cost_do_not_alternate() -> None:
    readers = read(ReaderChoice(), 1000, {PROCFS: 10, SOCK_DIAG: 8})
    assert reads_by(readers, SOCK_DIAG) == list(range(1, 1000, 41))
    choice = ReaderChoice()
    read(choice, 2, {PROCFS: 10, SOCK_DIAG: 1})
    assert choice.current is SOCK_DIAG
    turns = reads_by(read(choice, 990, {PROCFS: 8, SOCK_DIAG: 10}), PROCFS)
    assert choice.current is SOCK_DIAG
    assert len(turns) >= 10


def test_the_choice_follows_changing_costs() -> None:
    choice = ReaderChoice()
    read(choice, 103, {PROCFS: 1, SOCK_DIAG: 2})
    assert choice.current is PROCFS
    read(choice, 101, {PROCFS: 90, SOCK_DIAG: 2})
    assert choice.current is SOCK_DIAG
    read(choice, 90 * 50 // 2 + 1, {PROCFS: 1, SOCK_DIAG: 2})
    assert choice.current is PROCFS


def test_one_expensive_read_does_not_change_the_choice() -> None:
    choice = ReaderChoice()
    read(choice, 2, {PROCFS: 1, SOCK_DIAG: 1})
    choice.record(PROCFS, 1000)
    assert set(read(choice, 49, {PROCFS: 1, SOCK_DIAG: 1})) == {PROCFS}
    assert read(choice, 1, {PROCFS: 1, SOCK_DIAG: 1}) == [SOCK_DIAG]
    assert choice.current is PROCFS


def test_a_reader_that_fails_is_not_used_until_its_trial() -> None:
    choice = ReaderChoice()
    costs: dict[Reader, float] = {PROCFS: 10, SOCK_DIAG: 1}
    read(choice, 10, costs)
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 34, costs) == [PROCFS] * 32 + [SOCK_DIAG] * 2


def test_a_fixed_reader_is_used_whatever_it_costs() -> None:
    costs: dict[Reader, float] = {PROCFS: 1, SOCK_DIAG: 100}
    assert set(read(ReaderChoice(SOCK_DIAG), 500, costs)) == {SOCK_DIAG}
    assert set(read(ReaderChoice(PROCFS), 500, {PROCFS: 100, SOCK_DIAG: 1})) == {PROCFS}


def test_a_fixed_reader_that_fails_is_used_again_after_a_successful_trial() -> None:
    choice = ReaderChoice(SOCK_DIAG)
    costs: dict[Reader, float] = {PROCFS: 1, SOCK_DIAG: 100}
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 32, costs) == [PROCFS] * 32
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 132, costs) == [PROCFS] * 32 + [SOCK_DIAG] * 100


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.booleans()), max_size=200))
def test_the_same_costs_give_the_same_choice(script: list[tuple[float, float, bool]]) -> None:
    def run(choice: ReaderChoice, note: Callable[[Reader], None]) -> None:
        for procfs, sock_diag, fails in script:
            reader = choice.next
            note(reader)
            if fails and reader is SOCK_DIAG:
                choice.record_failure(reader)
            else:
                choice.record(reader, procfs if reader is PROCFS else sock_diag)

    first: list[Reader] = []
    second: list[Reader] = []
    run(ReaderChoice(), first.append)
    run(ReaderChoice(), second.append)
    assert first == second
    assert first[:2] == [PROCFS, SOCK_DIAG][: len(first)]


costs = st.floats(1e-6, 1e3)


@given(costs, costs, st.integers(1, 3000))
def test_trials_cost_at_most_a_fiftieth_and_are_at_least_32_reads_apart(
    procfs: float, sock_diag: float, times: int
) -> None:
    costs = {PROCFS: procfs, SOCK_DIAG: sock_diag}
    choice = ReaderChoice()
    readers = read(choice, times, costs)
    # All but the first trial, whose cost is unknown in advance.
    current, other = choice.current, next(one for one in Reader if one is not choice.current)
    turns = [turn for turn in reads_by(readers, other) if turn > 1]
    spent = sum(costs[other] for _ in turns)
    assert spent <= 0.0201 * sum(costs[reader] for reader in readers)
    assert all(later - earlier > 32 for earlier, later in zip([1, *turns], turns, strict=False))
    assert times == 1 or costs[current] <= costs[other] / 0.69
