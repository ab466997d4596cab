"""A key index answers as a dict does, whatever keys come and go."""

from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.flows import key_index
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys

WORDS = 2
# Few values, so that keys come again, and values that differ in high or in low bits only.
words = st.sampled_from([0, 1, 2, 1 << 32, 1 << 63, (1 << 64) - 1])
keys = st.tuples(words, words)
steps = st.lists(
    st.tuples(st.sampled_from(["add", "add again and again"]), st.lists(keys, max_size=12))
    | st.tuples(st.just("remove"), st.lists(keys, max_size=12)),
    max_size=12,
)


def pack(found: list[tuple[int, int]]) -> Keys:
    return np.array(found, np.uint64).reshape(-1, WORDS)


@given(steps, st.booleans())
def test_an_index_answers_as_a_dict_does(
    taken: list[tuple[str, list[tuple[int, int]]]], collide: bool
) -> None:
    with patch.object(key_index, "_MIN_PLACE_BITS", 2):
        index, known = KeyIndex(WORDS, 1000), {}
        if collide:
            index._factors[:] = 0
        take_steps(index, known, taken)


def take_steps(
    index: KeyIndex,
    known: dict[tuple[int, int], int],
    taken: list[tuple[str, list[tuple[int, int]]]],
) -> None:
    for action, asked in taken:
        if action == "add":
            new = [key for key in dict.fromkeys(asked) if key not in known]
            known |= dict(zip(new, index.add(pack(new)).tolist(), strict=True))
        elif action == "add again and again":
            new = [key for key in asked if key not in known]
            slots, heads = index.add_new(pack(new))
            assert [new[row] for row in heads.tolist()] == list(dict.fromkeys(new))
            known |= dict(zip(new, slots.tolist(), strict=True))
            assert [known[key] for key in new] == slots.tolist()
        else:
            gone = [key for key in dict.fromkeys(asked) if key in known]
            index.remove(np.array([known.pop(key) for key in gone], np.int32))
        assert index.find(pack(asked)).tolist() == [known.get(key, ABSENT) for key in asked]
        assert index.find(pack(list(known))).tolist() == list(known.values())
        assert len(index) == len(known) == len(set(known.values()))
        assert np.count_nonzero(index.is_used) == len(known)


def count_from(start: int, count: int) -> Keys:
    numbers = np.arange(start, start + count, dtype=np.uint64)
    return np.stack([numbers, numbers << np.uint64(40)], axis=1)


def test_slots_are_given_in_order_and_the_lowest_free_ones_first() -> None:
    index = KeyIndex(WORDS, 1000)
    assert index.add(count_from(0, 300)).tolist() == list(range(300))
    index.remove(np.array([7, 3, 250], np.int32))
    assert index.add(count_from(300, 4)).tolist() == [3, 7, 250, 300]


def test_most_of_the_memory_is_given_back_when_most_keys_are_removed() -> None:
    index = KeyIndex(WORDS, 1 << 16)
    slots = index.add(count_from(0, 1 << 15))
    assert index.capacity >= 1 << 15
    index.remove(slots[10:])
    assert index.capacity <= 64
    assert index.find(count_from(0, 20)).tolist() == [*range(10), *[ABSENT] * 10]


def test_keys_in_high_slots_take_low_ones_where_few_are_left() -> None:
    index = KeyIndex(WORDS, 1 << 16)
    slots = index.add(count_from(0, 1 << 15))
    stay = [3, 5000, 32_000, 32_767]
    index.remove(np.delete(slots, stay))
    assert index.capacity > 1 << 14, "the highest slot is used"
    vacated, taken = index.compact()
    assert (vacated.tolist(), taken.tolist()) == ([5000, 32_000, 32_767], [0, 1, 2])
    assert index.capacity <= 64
    found = index.find(count_from(0, 1 << 15))
    assert {key: found[key] for key in stay} == {3: 3, 5000: 0, 32_000: 1, 32_767: 2}
    assert np.count_nonzero(found >= 0) == len(index) == len(stay)
    assert index.add(count_from(1 << 15, 2)).tolist() == [4, 5]
    assert [len(one) for one in index.compact()] == [0, 0]


def test_the_room_is_what_is_left_of_the_bound() -> None:
    index = KeyIndex(WORDS, 100)
    index.add(count_from(0, 60))
    assert index.room == 40


def test_keys_that_collide_are_found() -> None:
    index = KeyIndex(WORDS, 5000)
    # Factors of 0 put all keys into one place, as keys would that an attacker makes collide.
    index._factors[:] = 0
    slots = index.add(count_from(0, 200))
    assert index.find(count_from(0, 201)).tolist() == [*slots.tolist(), ABSENT]


def test_two_indexes_place_keys_differently() -> None:
    one, other = KeyIndex(WORDS, 100), KeyIndex(WORDS, 100)
    assert one._factors.tolist() != other._factors.tolist()
    assert all(factor % 2 for factor in one._factors.tolist())
    assert key_index.ABSENT == -1
