"""Packets as columns: gathered from several reads and interfaces, and summed up."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wired import make_key, packets_of, rows_of, wire_keys

from hogpipe.capture.decode.wire_key import pack_key
from hogpipe.capture.decode.wire_packets import (
    CapturedPackets,
    DecodedFrames,
    make_packets,
    sum_by_key,
    sum_runs,
)
from hogpipe.flows.row_order import _FACTORS
from hogpipe.model import Tally

ONE, OTHER = make_key(b"\x0a\0\0\1", b"\x0a\0\0\2"), make_key(bytes(15) + b"\1", bytes(16))


def test_packets_have_the_number_of_their_interface() -> None:
    captured = CapturedPackets()
    captured.add(DecodedFrames(packets_of(ONE, OTHER)), 7)
    captured.add(DecodedFrames(packets_of(ONE)), 65_535)
    captured.add(DecodedFrames(packets_of()), 3)
    keys = wire_keys(captured.join())
    assert [key.interface for key in keys] == [7, 7, 65_535]
    assert [(key.version, key.source) for key in keys] == [
        (key.version, key.source) for key in (ONE, OTHER, ONE)
    ]


def test_what_is_in_no_row_is_counted() -> None:
    captured = CapturedPackets()
    for _ in range(2):
        captured.add(
            DecodedFrames(packets_of(ONE), Tally(2, 20), Tally(1, 7), Tally(1, 100)), interface=0
        )
    assert captured.counts.captured == Tally(8, 2 * 127)
    assert captured.counts.not_ip == Tally(4, 40)
    assert captured.counts.undecoded == Tally(2, 14)
    assert captured.counts.length_floored == Tally(2, 200)


def test_nothing_captured_has_no_rows() -> None:
    assert rows_of(CapturedPackets().join()) == []


def test_packets_of_a_long_time_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hogpipe.capture.decode.wire_packets._MAX_ROWS", 100)
    captured = CapturedPackets()
    for start in range(0, 1000, 10):
        keys = [
            make_key(bytes([10, 0, 0, one % 30]), ONE.source) for one in range(start, start + 10)
        ]
        captured.add(DecodedFrames(packets_of(*keys)), start % 2)
    rows = rows_of(captured.join())
    assert len(rows) <= 110
    assert captured.counts.captured == Tally(1000, 100_000)
    sums: Counter[bytes] = Counter()
    for key, size, *_ in rows:
        sums[key] += size
    assert set(sums.values()) == {34 * 100, 33 * 100}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
@settings(max_examples=60)
def test_keys_with_the_same_hash_stay_apart(rows: list[tuple[int, int]]) -> None:
    # With these two words the hash is the same for all a: the inverse of one factor undoes it.
    first, second = (int(factor) for factor in _FACTORS[:2])
    undo = (-first * pow(second, -1, 1 << 64)) % (1 << 64)
    colliding = [(unfold(a), unfold(a * undo % (1 << 64)), 0, 0, b) for a, b in rows]
    keys = [row.tobytes() for row in np.array(colliding, np.uint64)]
    packets = make_packets([(key, 5, 1, at == 3, at, at) for at, key in enumerate(keys)])
    expected = []
    for key in set(keys):
        there = [at for at, one in enumerate(keys) if one == key]
        sums = (key, 5 * len(there), len(there), 3 in there, there[0], there[-1])
        expected.append(sums)
    assert sorted(rows_of(sum_by_key(packets))) == sorted(expected)


runs = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), max_size=12)


@given(runs, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_runs_of_a_key_have_the_sums_of_their_packets(
    lengths: list[tuple[int, int]], random: Random
) -> None:
    ends = [bytes([one] * 4) for one, count in lengths for _ in range(count)]
    keys = [pack_key(make_key(ONE.source, end)) for end in ends]
    packets = make_packets(
        [
            (key, at + 40, 1 + at % 3, random.random() < 0.1, random.getrandbits(40), at)
            for at, key in enumerate(keys)
        ]
    )
    summed = sum_runs(packets)
    assert sorted(rows_of(sum_by_key(summed))) == sorted(rows_of(sum_by_key(packets)))
    if len(keys) >= 64 and len(lengths) <= 3:
        assert len(summed) <= len(lengths) + packets.opened.sum()


def test_a_syn_begins_a_run() -> None:
    key = pack_key(ONE)
    packets = make_packets([(key, 40, 1, at == 150, at, at) for at in range(200)])
    summed = sum_runs(packets)
    assert summed.packets.tolist() == [150, 50]
    assert summed.opened.tolist() == [False, True]


@pytest.mark.parametrize("count", [0, 1, 200])
def test_packets_in_no_runs_stay_as_they_are(count: int) -> None:
    packets = packets_of(*(ONE if at % 2 else OTHER for at in range(count)))
    assert sum_runs(packets) is packets


def unfold(mixed: int) -> int:
    """The word x for which x ^ x >> 32 is `mixed`."""
    return mixed ^ mixed >> 32


def test_rows_come_back_as_they_were() -> None:
    rows = [(pack_key(ONE), 1500, 1, True, 7, 7), (pack_key(OTHER), 2**40, 9, False, 0, 2**62)]
    assert rows_of(make_packets(rows)) == rows
