"""Which of two readers comes next, told by costs alone."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from hogpipe.attribution.reader_choice import Reader, ReaderChoice

PROCFS, SOCK_DIAG = Reader.PROCFS, Reader.SOCK_DIAG


def read(choice: ReaderChoice, times: int, costs: dict[Reader, float]) -> list[Reader]:
    """Read `times` over at these costs, and return by which reader each time."""
    readers = []
    for _ in range(times):
        readers.append(choice.next)
        choice.record(choice.next, costs[choice.next])
    return readers


def test_the_other_reader_is_tried_after_a_few_reads_and_stays_if_it_is_cheaper() -> None:
    readers = read(ReaderChoice(), 40, {PROCFS: 10, SOCK_DIAG: 1})
    assert readers == [PROCFS] * 4 + [SOCK_DIAG] * 33 + [PROCFS] + [SOCK_DIAG] * 2


def test_a_dearer_reader_gets_one_read_now_and_then() -> None:
    readers = read(ReaderChoice(), 71, {PROCFS: 1, SOCK_DIAG: 10})
    assert [turn for turn, reader in enumerate(readers) if reader is SOCK_DIAG] == [4, 37, 70]


def test_readers_of_about_the_same_cost_do_not_take_turns() -> None:
    readers = read(ReaderChoice(), 1000, {PROCFS: 10, SOCK_DIAG: 8})
    assert readers.count(SOCK_DIAG) == len(range(4, 1000, 33))
    settled = ReaderChoice()
    read(settled, 5, {PROCFS: 10, SOCK_DIAG: 1})
    assert read(settled, 990, {PROCFS: 8, SOCK_DIAG: 10}).count(PROCFS) == 990 // 33


def test_it_changes_over_and_back_as_the_costs_change() -> None:
    choice = ReaderChoice()
    read(choice, 100, {PROCFS: 1, SOCK_DIAG: 2})
    assert choice.next is PROCFS
    read(choice, 34, {PROCFS: 90, SOCK_DIAG: 2})
    assert choice.next is SOCK_DIAG
    read(choice, 34, {PROCFS: 1, SOCK_DIAG: 2})
    assert choice.next is PROCFS


def test_one_dear_read_does_not_change_the_reader() -> None:
    choice = ReaderChoice()
    read(choice, 5, {PROCFS: 1, SOCK_DIAG: 1})
    choice.record(PROCFS, 1000)
    assert set(read(choice, 31, {PROCFS: 1, SOCK_DIAG: 1})) == {PROCFS}
    read(choice, 1, {PROCFS: 1, SOCK_DIAG: 1})
    assert choice.next is PROCFS


def test_a_reader_that_fails_is_left_until_it_has_its_turn() -> None:
    choice = ReaderChoice()
    costs: dict[Reader, float] = {PROCFS: 10, SOCK_DIAG: 1}
    read(choice, 10, costs)
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 34, costs) == [PROCFS] * 32 + [SOCK_DIAG] * 2


def test_a_fixed_reader_is_used_whatever_it_costs() -> None:
    costs: dict[Reader, float] = {PROCFS: 1, SOCK_DIAG: 100}
    assert set(read(ReaderChoice(SOCK_DIAG), 500, costs)) == {SOCK_DIAG}
    assert set(read(ReaderChoice(PROCFS), 500, {PROCFS: 100, SOCK_DIAG: 1})) == {PROCFS}


def test_a_fixed_reader_that_fails_comes_back_as_soon_as_it_works() -> None:
    choice = ReaderChoice(SOCK_DIAG)
    costs: dict[Reader, float] = {PROCFS: 1, SOCK_DIAG: 100}
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 32, costs) == [PROCFS] * 32
    choice.record_failure(SOCK_DIAG)
    assert read(choice, 132, costs) == [PROCFS] * 32 + [SOCK_DIAG] * 100


@settings(deadline=None)
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
    assert first[:4] == [PROCFS] * len(first[:4])
