"""A cache returns the right values, and is bounded."""

import tracemalloc

import orjson
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.bounded_cache import BoundedCache


@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_a_hit_is_the_value_that_was_kept(limit: int, numbers: list[int]) -> None:
    cache = BoundedCache[int](limit)
    for number in numbers:
        assert cache.get(b"%d" % number) in {None, number}
        cache.keep(b"%d" % number, number)
        assert len(cache) <= limit


def test_most_lookups_hit_though_the_keys_exceed_the_limit() -> None:
    cache = BoundedCache[int](100)
    hits = 0
    for turn in range(50):
        first = 0 if turn < 25 else 1000  # from here on the keys are others
        for number in range(first, first + 110):
            if cache.get(b"%d" % number) is None:
                cache.keep(b"%d" % number, number)
            elif turn >= 25:
                hits += 1
    assert hits > 25 * 110 / 2


def test_a_key_takes_no_more_memory_than_its_length() -> None:
    cache = BoundedCache[None](1000)
    tracemalloc.start()
    try:
        for number in range(1000):
            cache.keep(orjson.dumps(["x" * 100, number]), None)
        assert tracemalloc.get_traced_memory()[0] < 1000 * 400
    finally:
        tracemalloc.stop()
