"""Distinct flows of groups, beside a set of pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.aggregation.counted_flows import CountedFlows

rows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=12)


@given(st.lists(st.tuples(rows, st.booleans(), st.booleans()), max_size=8))
def test_each_group_counts_a_flow_once_in_a_window(
    calls: list[tuple[list[tuple[int, int]], bool, bool]],
) -> None:
    counted, expected, generation = CountedFlows(1000), set[tuple[int, int]](), 0
    for moved, evicts, ends in calls:
        slots = np.array([slot for slot, _group in moved], np.int64)
        groups = np.array([group for _slot, group in moved], np.int64)
        is_new = counted.count(slots, slots + generation, groups)
        pairs = [(slot + generation, group) for slot, group in moved]
        new = [pair for pair, flag in zip(pairs, is_new.tolist(), strict=True) if flag]
        assert sorted(new) == sorted({*pairs} - expected)
        expected.update(pairs)
        if evicts:  # all slots are given to other flows
            generation += 100
        if ends:
            counted.start_window()
            expected.clear()
    assert counted.uncounted == 0


def test_memory_of_many_slots_is_returned_after_a_window_with_few() -> None:
    counted = CountedFlows(1000)
    many, few = np.arange(50_000), np.arange(10)
    for slots in (many, few, few):
        counted.start_window()
        assert counted.count(slots, slots, 0 * slots).all()
        assert not counted.count(slots, slots, 0 * slots).any()
    counted.start_window()
    assert counted.size <= 1024
