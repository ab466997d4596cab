"""No traffic counter is forgotten on its way from a flow to a record and back."""

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.model import FlowDelta, TrafficCounts
from hogpipe.records.schema import describe_io, parse_io

FIELDS = TrafficCounts.__struct_fields__
traffic = st.builds(TrafficCounts, **{name: st.integers(0, 1 << 50) for name in FIELDS})


@given(traffic)
def test_every_counter_is_in_the_record(counts: TrafficCounts) -> None:
    assert parse_io(describe_io(counts)) == counts


@given(traffic, traffic)
def test_every_counter_is_added_up(one: TrafficCounts, other: TrafficCounts) -> None:
    total, delta = TrafficCounts(), FlowDelta()
    for counts in (one, other):
        total.add_counts(counts)
        delta.add(FlowDelta(**{name: getattr(counts, name) for name in FIELDS}))
    for name in FIELDS:
        expected = getattr(one, name) + getattr(other, name)
        assert getattr(total, name) == getattr(delta, name) == expected


def test_transmit_and_receive_are_under_their_own_names() -> None:
    counts = TrafficCounts(transmit_bytes=1, transmit_packets=2, receive_bytes=3, receive_packets=4)
    assert describe_io(counts) == {
        "transmit": {"bytes": 1, "packets": 2},
        "receive": {"bytes": 3, "packets": 4},
    }
