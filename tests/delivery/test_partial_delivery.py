"""Each record of a window is delivered, dropped or still to be given, and one spoils no other."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sinks import traffic

from hogpipe.delivery.partial_delivery import MAX_SPLITS, PartialDelivery
from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record


def window(records: int) -> list[Record]:
    return [traffic(sequence) for sequence in range(records)]


def sequences(records: Sequence[Record]) -> list[int]:
    return [record["sequence"] for record in records]


def give(window: PartialDelivery, bad: set[int]) -> tuple[int, int, int]:
    """Give a window to a sink that refuses all with a bad one; return what came of it."""
    delivered = dropped = writes = 0
    while window:
        writes += 1
        hit = bad & set(sequences(window.part))
        outcome = window.settle(RefusedError("one is bad") if hit else None)
        delivered += outcome.delivered
        dropped += outcome.dropped
    return delivered, dropped, writes


def test_what_was_delivered_does_not_come_again() -> None:
    records = window(6)
    flight = PartialDelivery(records)
    error = DeliveryError("later", undelivered=[records[4], records[1]], refused=[records[5]])
    assert flight.settle(error) == (3, 1)
    assert sequences(flight.part) == [1, 4]
    assert flight.settle(OSError("not yet")) == (0, 0)
    assert sequences(flight.part) == [1, 4]
    assert flight.settle(DeliveryError("not yet")) == (0, 0)
    assert flight.settle(None) == (2, 0)
    assert not flight


def test_records_may_be_named_by_copies_of_them() -> None:
    records = window(3)
    flight = PartialDelivery(records)
    assert flight.settle(DeliveryError("later", undelivered=[{**records[1]}])) == (2, 0)
    assert flight.part == [records[1]]


def test_of_a_window_with_named_refusals_the_rest_counts_as_delivered() -> None:
    records = window(5)
    assert PartialDelivery(records).settle(RefusedError("no", refused=records[1:3])) == (3, 2)


def test_a_failure_that_leaves_nothing_is_the_end_of_the_window() -> None:
    flight = PartialDelivery(window(3))
    assert flight.settle(DeliveryError("odd", undelivered=[])) == (3, 0)
    assert not flight


@pytest.mark.parametrize("junk", [None, 7, {}, {"run": []}, {"run": [], "sequence": 1}])
def test_whoever_names_no_records_is_taken_to_mean_all(junk: object) -> None:
    flight = PartialDelivery(window(3))
    assert flight.settle(DeliveryError("later", undelivered=[junk])) == (0, 0)  # type: ignore[list-item]
    assert len(flight) == 3


def test_records_that_were_not_given_are_none_of_ours() -> None:
    flight = PartialDelivery(window(3))
    assert flight.settle(RefusedError("no", refused=[traffic(99)])) == (3, 0)


def test_the_one_record_that_is_refused_takes_no_other_along() -> None:
    delivered, dropped, writes = give(PartialDelivery(window(50_000)), {31_415})
    assert (delivered, dropped) == (49_999, 1)
    assert writes <= 2 * 16 + 1


def test_a_receiver_that_refuses_everything_is_not_asked_for_ever() -> None:
    delivered, dropped, writes = give(PartialDelivery(window(50_000)), set(range(50_000)))
    assert (delivered, dropped) == (0, 50_000)
    assert writes <= 2 * MAX_SPLITS + 1


def test_any_other_error_drops_what_was_given() -> None:
    flight = PartialDelivery(window(4))
    assert flight.settle(ValueError("a bug")) == (0, 4)
    assert not flight


@given(st.data(), st.integers(1, 40))
def test_every_record_ends_in_one_count_and_order_is_kept(data: st.DataObject, size: int) -> None:
    records = window(size)
    flight = PartialDelivery(records)
    delivered = dropped = 0
    while flight:
        part = list(flight.part)
        assert sequences(part) == sorted(sequences(part))
        some = st.none() | st.lists(st.sampled_from(part), unique_by=lambda r: r["sequence"])
        error = data.draw(
            st.none()
            | st.builds(lambda u, r: DeliveryError("x", undelivered=u, refused=r or ()), some, some)
            | st.builds(lambda r: RefusedError("x", refused=r), some)
            | st.just(ValueError("x"))
        )
        if isinstance(error, DeliveryError) and error.undelivered is None:
            error = None  # else this might never end
        outcome = flight.settle(error)
        delivered += outcome.delivered
        dropped += outcome.dropped
        assert delivered + dropped + len(flight) == size
