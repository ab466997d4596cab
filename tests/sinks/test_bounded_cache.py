"""What is remembered is right, and bounded."""

import tracemalloc

import orjson
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.sinks.bounded_cache import BoundedCache


@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_what_is_remembered_is_what_was_kept(most: int, turns: list[int]) -> None:
    memory = BoundedCache[int](most)
    for number in turns:
        assert memory.get(b"%d" % number) in {None, number}
        memory.keep(b"%d" % number, number)
        assert len(memory) <= most


def test_of_more_than_there_is_room_for_most_are_known_in_turn() -> None:
    memory = BoundedCache[int](100)
    known = 0
    for turn in range(50):
        first = 0 if turn < 25 else 1000  # from here on it is others
        for number in range(first, first + 110):
            if memory.get(b"%d" % number) is None:
                memory.keep(b"%d" % number, number)
            elif turn >= 25:
                known += 1
    assert known > 25 * 110 / 2


def test_a_key_takes_no_more_memory_than_it_is_long() -> None:
    memory = BoundedCache[None](1000)
    tracemalloc.start()
    try:
        for number in range(1000):
            memory.keep(orjson.dumps(["x" * 100, number]), None)
        assert tracemalloc.get_traced_memory()[0] < 1000 * 400
    finally:
        tracemalloc.stop()
