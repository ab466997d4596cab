"""PURE: where the records of a chunk begin, each of which follows the one before.

In: the bytes of a chunk, the offset of its first record, where a record has its length, and a guess
at the beginnings of some records. Out: the offsets of all records whose header is whole, in
ascending order. A length that leads beyond the chunk ends them. Offsets that follow a record of an
invalid length are meaningless.

Algorithm
    The length of a record leads to the next one, which is a loop of 0.1 us a record. So many loops
    run side by side, as columns. Guessed beginnings divide the chunk into lanes, and each step
    takes all lanes one record further, until a lane reaches where the next one begins. A lane that
    arrives exactly there proves that guess; the first lane begins at a known record. Where a lane
    arrives elsewhere, the next guess was wrong, and the loop goes on from record to record until
    it meets a lane. So guesses decide about the cost and never about the result.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from hogpipe.capture.decode.columns import Indices

Guess = Callable[[range], Indices]
"""Returns offsets, ascending and at most one from each of the given ones on, of likely records."""

_LANE_RECORDS = 64
"""About how many records a lane has: more make more steps, fewer make more guesses."""
_MIN_LANES = 64
"""With fewer lanes than this, a step costs as much as the loop does for each of them."""
_MAX_STEPS = 16 * _LANE_RECORDS
"""A lane that is longer is left to the loop, as it may be of no records and without an end."""
_UNBOUNDED = 1 << 62


ByteOrder = Literal["<", ">"]


class RecordForm(NamedTuple):
    """Where a record has its length.

    `length_at` is the offset of its four bytes, which do not count `added` bytes more. A length is
    valid if the record has at least `least` bytes, and a multiple of `unit`, 1 or 4; then it begins
    at such a multiple, too. The first `header` bytes of a record must be in the chunk.
    """

    order: ByteOrder
    header: int
    length_at: int
    added: int
    least: int
    unit: int = 1


class _Lanes(NamedTuple):
    """Lanes that have been followed to their ends: a row for each, in the order of the chunk."""

    begins: Indices
    reached: Indices
    """The first record that is not in the lane, and where the next one should begin."""
    records: Indices
    """The records of all lanes, one lane after the other."""
    bounds: Indices
    """Where each lane begins in `records`, and the number of records."""


def find_records(
    data: bytes, first: int, form: RecordForm, guess: Guess, about: int = _UNBOUNDED
) -> Indices:
    """Return the offsets of the records of `data` from the one at `first` on, or `about` so many.

    There is one at least, if its header is whole.
    """
    last = len(data) - form.header
    walked, at = _walk(data, first, last + 1, form, most=_LANE_RECORDS)
    stride = at - first
    last = min(last, first + about // _LANE_RECORDS * stride)
    if at + _MIN_LANES * stride <= last:
        guessed = guess(range(at + stride, last + 1, stride))
        guessed = guessed[guessed <= last]
        if len(guessed) >= _MIN_LANES:
            lanes = _follow(data, np.concatenate([[at], guessed]), last, form)
            return np.concatenate([np.array(walked), *_join(data, lanes, last, form)])
    rest, _at = _walk(data, at, last + 1, form)
    return np.array(walked + rest, np.int64)


def _walk(
    data: bytes, at: int, limit: int, form: RecordForm, most: int = _UNBOUNDED
) -> tuple[list[int], int]:
    """Return the records from `at` to before `limit`, at most `most`, and where the next begins."""
    unpack, length_at = struct.Struct(form.order + "I").unpack_from, form.length_at
    added, least, end = form.added, form.least, len(data)
    starts: list[int] = []
    append = starts.append
    while at < limit and most:
        append(at)
        step = unpack(data, at + length_at)[0] + added
        at += step if step >= least else end
        most -= 1
    return starts, at


def _follow(data: bytes, begins: Indices, last: int, form: RecordForm) -> _Lanes:
    """Follow the lanes that begin at `begins` to where the next one begins, or to the end."""
    # A view in which a length begins at each unit of the chunk: see `gather_values`.
    word, count = np.dtype(form.order + "u4"), last // form.unit + 1
    lengths = np.ndarray((count,), word, data, offset=form.length_at, strides=(form.unit,))
    counts, reached = np.empty(len(begins), np.int64), np.empty(len(begins), np.int64)
    lanes, at, limit = np.arange(len(begins)), begins, np.append(begins[1:], last + 1)
    steps: list[tuple[Indices, Indices]] = []
    while len(lanes) >= _MIN_LANES and len(steps) < _MAX_STEPS:
        steps.append((lanes, at))
        step = lengths[at if form.unit == 1 else at >> 2].astype(np.int64)
        if form.added:
            step += form.added
        step += at
        at = step
        going = at < limit
        if np.count_nonzero(going) < len(going):
            counts[lanes], reached[lanes] = len(steps), at
            lanes, at, limit = lanes[going], at[going], limit[going]
    tails = []
    for lane, begin, end in zip(lanes.tolist(), at.tolist(), limit.tolist(), strict=True):
        tail, reached[lane] = _walk(data, begin, end, form)
        counts[lane] = len(steps) + len(tail)
        tails.append((lane, tail))
    bounds = np.concatenate([[0], counts.cumsum()])
    records = np.empty(bounds[-1], np.int64)
    for index, (lanes, at) in enumerate(steps):
        records[bounds[lanes] + index] = at
    for lane, tail in tails:
        records[bounds[lane + 1] - len(tail) : bounds[lane + 1]] = tail
    return _Lanes(begins, reached, records, bounds)


def _join(data: bytes, lanes: _Lanes, last: int, form: RecordForm) -> list[Indices]:
    """Return the records of the lanes that a record leads to, and the records between them."""
    begins, reached = lanes.begins, lanes.reached
    ends = [*np.flatnonzero(reached[:-1] != begins[1:]).tolist(), len(begins) - 1]
    parts: list[Indices] = []
    at = int(begins[0])
    while at <= last:
        lane = int(begins.searchsorted(at))
        limit = int(begins[lane]) if lane < len(begins) else last + 1
        if at == limit:
            end = ends[bisect_left(ends, lane)]
            parts.append(lanes.records[lanes.bounds[lane] : lanes.bounds[end + 1]])
            at = int(reached[end])
        else:
            walked, at = _walk(data, at, limit, form)
            parts.append(np.array(walked, np.int64))
    return parts
