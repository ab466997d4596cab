"""Each record of a window is delivered, dropped or remains, whatever happens to the others."""

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


def write_all(window: PartialDelivery, bad: set[int]) -> tuple[int, int, int]:
    """Refuse each part with a bad record; return how many delivered, dropped, and writes."""
    delivered = dropped = writes = 0
    while window:
        writes += 1
        refused = bad & set(sequences(window.part))
        outcome = window.conclude(RefusedError("one is bad") if refused else None)
        delivered += outcome.delivered
        dropped += outcome.dropped
    return delivered, dropped, writes


def test_delivered_records_do_not_remain() -> None:
    records = window(6)
    delivery = PartialDelivery(records)
    error = DeliveryError("later", undelivered=[records[4], records[1]], refused=[records[5]])
    assert delivery.conclude(error) == (3, 1)
    assert sequences(delivery.part) == [1, 4]
    assert delivery.conclude(OSError("not yet")) == (0, 0)
    assert sequences(delivery.part) == [1, 4]
    assert delivery.conclude(DeliveryError("not yet")) == (0, 0)
    assert delivery.conclude(None) == (2, 0)
    assert not delivery


def test_an_error_may_name_records_by_copies() -> None:
    records = window(3)
    delivery = PartialDelivery(records)
    assert delivery.conclude(DeliveryError("later", undelivered=[{**records[1]}])) == (2, 0)
    assert delivery.part == [records[1]]


def test_records_not_named_as_refused_count_as_delivered() -> None:
    records = window(5)
    assert PartialDelivery(records).conclude(RefusedError("no", refused=records[1:3])) == (3, 2)


def test_an_error_with_no_undelivered_records_ends_the_window() -> None:
    delivery = PartialDelivery(window(3))
    assert delivery.conclude(DeliveryError("odd", undelivered=[])) == (3, 0)
    assert not delivery


@pytest.mark.parametrize("junk", [None, 7, {}, {"run": []}, {"run": [], "sequence": 1}])
def test_an_error_that_names_no_valid_record_means_all(junk: object) -> None:
    delivery = PartialDelivery(window(3))
    assert delivery.conclude(DeliveryError("later", undelivered=[junk])) == (0, 0)  # type: ignore[list-item]
    assert len(delivery) == 3


def test_named_records_that_were_not_written_are_ignored() -> None:
    delivery = PartialDelivery(window(3))
    assert delivery.conclude(RefusedError("no", refused=[traffic(99)])) == (3, 0)


def test_bisection_drops_only_the_refused_record() -> None:
    delivered, dropped, writes = write_all(PartialDelivery(window(50_000)), {31_415})
    assert (delivered, dropped) == (49_999, 1)
    assert writes <= 2 * 16 + 1


def test_splits_are_bounded_where_everything_is_refused() -> None:
    delivered, dropped, writes = write_all(PartialDelivery(window(50_000)), set(range(50_000)))
    assert (delivered, dropped) == (0, 50_000)
    assert writes <= 2 * MAX_SPLITS + 1


def test_any_other_error_drops_the_part() -> None:
    delivery = PartialDelivery(window(4))
    assert delivery.conclude(ValueError("a bug")) == (0, 4)
    assert not delivery


@given(st.data(), st.integers(1, 40))
def test_every_record_ends_in_one_count_and_order_is_kept(data: st.DataObject, size: int) -> None:
    records = window(size)
    delivery = PartialDelivery(records)
    delivered = dropped = 0
    while delivery:
        part = list(delivery.part)
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
        outcome = delivery.conclude(error)
        delivered += outcome.delivered
        dropped += outcome.dropped
        assert delivered + dropped + len(delivery) == size
