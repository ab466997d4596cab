"""Which records of a window are delivered, refused and left, whatever a receiver answers."""

from collections.abc import Callable, Sequence

from hogpipe_http.exchange import DELIVERED, Outcome, Verdict
from hogpipe_http.progress import MAX_SPLITS, Part, Progress
from hypothesis import given
from hypothesis import strategies as st

from hogpipe import Record
from hogpipe.testing import RecordMaker

WINDOW = RecordMaker().window(40)
BUSY = Verdict(Outcome.UNDELIVERED, "busy")
TOO_LARGE = Verdict(Outcome.TOO_LARGE, "large")
REFUSED = Verdict(Outcome.REFUSED, "bad")


def flatten(parts: Sequence[Part]) -> list[Record]:
    return [record for part in parts for record in part]


def sequences(records: Sequence[Record]) -> list[int]:
    return [record["sequence"] for record in records]


def run(progress: Progress, answer: Callable[[Part], Verdict]) -> list[Part]:
    """Return the parts that were delivered."""
    delivered = []
    while progress.part:
        part = progress.part
        verdict = answer(part)
        if verdict.outcome is Outcome.DELIVERED:
            delivered.append(part)
        if progress.apply(verdict):
            break
    return delivered


@given(st.integers(1, 50), st.integers(0, 40))
def test_parts_have_a_bound_and_every_record_in_order(size: int, number: int) -> None:
    progress = Progress(WINDOW[:number], size)
    parts = run(progress, lambda _part: DELIVERED)
    assert flatten(parts) == WINDOW[:number]
    assert all(len(part) <= size for part in parts)


@given(st.integers(1, 50), st.sets(st.integers(0, 39), max_size=3))
def test_halving_finds_the_records_that_are_refused(size: int, bad: set[int]) -> None:
    wrong = {WINDOW[index]["sequence"] for index in bad}
    progress = Progress(WINDOW, size)
    parts = run(progress, lambda part: REFUSED if wrong & {*sequences(part)} else DELIVERED)
    assert sequences(progress.refused) == sorted(wrong)
    assert {*sequences(flatten(parts))} == {*sequences(WINDOW)} - wrong


def test_a_receiver_that_refuses_everything_gets_a_bounded_number_of_requests() -> None:
    asked: list[Part] = []

    def refuse(part: Part) -> Verdict:
        asked.append(part)
        return REFUSED

    progress = Progress(RecordMaker().window(5000), 1000)
    run(progress, refuse)
    assert len(progress.refused) == 5000
    assert progress.reason == "bad"
    assert len(asked) == 5 + 2 * MAX_SPLITS


@given(st.integers(1, 50))
def test_a_part_that_is_too_large_is_halved_to_the_end(most: int) -> None:
    progress = Progress(WINDOW, 40)
    parts = run(progress, lambda part: TOO_LARGE if len(part) > most else DELIVERED)
    assert flatten(parts) == WINDOW
    progress = Progress(WINDOW, 40)
    run(progress, lambda _part: TOO_LARGE)
    assert progress.refused == WINDOW


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_what_is_left_is_sent_again_in_the_same_parts(
    size: int, most: int, data: st.DataObject
) -> None:
    """The first request after a failure is the one that has failed: clickhouse knows its token."""

    def answer(part: Part) -> Verdict:
        if len(part) > most:
            return TOO_LARGE
        return data.draw(st.sampled_from([DELIVERED, DELIVERED, BUSY]))

    left: Sequence[Part] = ()
    records: Sequence[Record] = WINDOW
    delivered: list[Part] = []
    for _write in range(200):
        progress = Progress(records, size, left)
        if left:
            assert progress.part == left[0]
        delivered += run(progress, answer)
        left = progress.left
        records = flatten(left)
        if not records:
            break
    assert flatten([*delivered, *left]) == WINDOW


def test_parts_of_another_window_are_not_used() -> None:
    other = RecordMaker().window(40)
    assert Progress(WINDOW, 50, [other]).part == WINDOW
    assert Progress(WINDOW, 50, [WINDOW[:3]]).part == WINDOW
    assert Progress(WINDOW, 50, [WINDOW[:3], WINDOW[3:]]).part == WINDOW[:3]


def test_what_a_receiver_answers_for_each_record_is_kept_apart() -> None:
    progress = Progress(WINDOW[:6], 3)
    by_record = Verdict(Outcome.BY_RECORD, "some", WINDOW[:1], refused=WINDOW[1:2], busy=True)
    assert progress.apply(by_record) == "some"
    assert progress.left == [WINDOW[:1], WINDOW[3:6]]
    assert progress.refused == WINDOW[1:2]


def test_what_is_not_acknowledged_is_left() -> None:
    progress = Progress(WINDOW[:9], 3)
    for receipt in (0, 1, 1):
        progress.apply(Verdict(Outcome.DELIVERED, receipt=receipt))
    assert progress.left == [WINDOW[:3], WINDOW[3:6], WINDOW[6:9]]
    progress.acknowledge([0, 7])
    assert progress.left == [WINDOW[3:6], WINDOW[6:9]]
    progress.acknowledge([1])
    assert not progress.left
