"""PURE: frames and rows as NumPy columns, without a Python object for each.

- `FrameBatch`: the frames of one read, all in one bytes object, with a record for each.
- `RowType`, `gather_rows`, `gather_values`: headers or numbers at many offsets of that object,
  as structured rows or as one column. An offset beyond the end is clipped, so that nothing raises
  and no byte outside the data is read; the caller checks which rows are its own.
- `hash_rows`, `order_by_key`: equal rows of 64-bit words brought together, exact whatever the
  rows are, also where an attacker chooses them so that their hashes collide.
"""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Octets = NDArray[np.uint8]
Rows = NDArray[np.void]

_Value = TypeVar("_Value", bound=np.generic)

# Odd numbers without a pattern (fractional parts of square roots of primes, as in SHA-512).
_FACTORS = np.array(
    [0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Captured frames: `data` holds their bytes, `records` where each is.

    `records` is an array of shape (n, 4) of uint32: seconds and microseconds since the epoch,
    offset into `data`, captured length; what pcapy-ng's `next_batch` returns. Each frame lies
    within `data`. `original_lengths` are n uint32, the lengths on the link; None where not known.
    """

    data: bytes
    records: NDArray[np.uint32]
    original_lengths: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def slice(self, start: int, stop: int) -> "FrameBatch":
        """Return the frames from `start` to before `stop`, without copying their bytes."""
        lengths = self.original_lengths
        return FrameBatch(
            self.data,
            self.records[start:stop],
            None if lengths is None else lengths[start:stop],
        )

    def take(self, chosen: NDArray[np.bool_]) -> "FrameBatch":
        """Return the frames that are `chosen`, without copying their bytes."""
        rows, lengths = chosen.nonzero()[0], self.original_lengths  # faster than by truth values
        return FrameBatch(
            self.data,
            self.records.take(rows, axis=0),
            None if lengths is None else lengths.take(rows),
        )

    def times_ns(self) -> Indices:
        """Return when each frame was captured, nanoseconds since the epoch."""
        times = self.records[:, 0].astype(np.int64)
        times *= 1_000_000
        times += self.records[:, 1]
        times *= 1_000
        return times


class RowType(NamedTuple):
    """The type of rows of `size` bytes with named fields."""

    size: int
    fields: np.dtype[np.void]
    bare: np.dtype[np.void]
    """As many bytes without fields, which NumPy gathers ten times faster."""


def row_type(size: int, fields: dict[str, tuple[str, int]]) -> RowType:
    """Return the type of rows of `size` bytes; `fields` gives each field's type and offset."""
    named = np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [at for _, at in fields.values()],
            "itemsize": size,
        }
    )
    return RowType(size, named, np.dtype(f"V{size}"))


def gather_rows(data: bytes, at: Indices, row: RowType) -> Rows:
    """Return a row of the bytes from each offset `at` on; offsets are clipped to fit in `data`."""
    return gather_values(data, at, row.bare).view(row.fields)


def gather_values(data: bytes, at: Indices, kind: "np.dtype[_Value]") -> NDArray[_Value]:
    """Return the value at each offset `at`; offsets are clipped to fit in `data`."""
    last = len(data) - kind.itemsize
    # A view in which a value begins at each byte of `data`: values overlap, and nothing is copied.
    everywhere = np.ndarray((last + 1,), kind, data, strides=(1,))
    return everywhere[np.minimum(at, last)]


def hash_rows(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each row, of eight columns at the most."""
    return (rows ^ rows >> _HALF) @ _FACTORS[: rows.shape[1]]


def order_by_key(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order of the rows in which equal rows are neighbours, and the bounds of their runs.

    Sorts by hash and then compares the rows themselves. Where two different rows have one hash,
    which takes malice rather than chance, sorts by the rows, which is slower.
    """
    hashes = hash_rows(keys)
    order = hashes.argsort()
    bounds = _find_bounds(keys.take(order, axis=0))
    hashes = hashes[order]
    if len(bounds) - 2 > np.count_nonzero(hashes[1:] != hashes[:-1]):
        order = np.lexsort(keys.T)
        bounds = _find_bounds(keys.take(order, axis=0))
    return order, bounds


def _find_bounds(rows: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the first row of each run of equal rows, and then the number of rows."""
    bounds = np.empty(len(rows) + 1, np.bool_)
    bounds[0] = bounds[-1] = True
    # A fold over five columns is several times faster than any(axis=1) over short rows.
    bounds[1:-1] = reduce(np.logical_or, (rows[1:] != rows[:-1]).T)
    return bounds.nonzero()[0]
