"""PURE: frames and rows as NumPy columns, without a Python object for each.

- `FrameBatch`: the frames of one read, all in one bytes object, with a record for each.
- `RowType`, `gather_rows`, `gather_values`: headers or numbers at many offsets of that object,
  as structured rows or as one column. An offset beyond the end is clipped, so that nothing raises
  and no byte outside the data is read; the caller checks which rows are its own.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Octets = NDArray[np.uint8]
Rows = NDArray[np.void]

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Captured frames: `data` holds their bytes, `records` where each is.

    `records` is an array of shape (n, 4) of uint32: seconds and microseconds since the epoch,
    offset into `data`, captured length; what pcapy-ng's `next_batch` returns. Each frame lies
    within `data`. `original_lengths` are n uint32, the lengths on the link; None where not known.
    `nanoseconds` are n uint16 below 1000, to be added to the times; None where all are 0.
    """

    data: bytes
    records: NDArray[np.uint32]
    original_lengths: NDArray[np.uint32] | None = None
    nanoseconds: NDArray[np.uint16] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def slice(self, start: int, stop: int) -> "FrameBatch":
        """Return the frames from `start` to before `stop`, without copying their bytes."""
        lengths, nanoseconds = self.original_lengths, self.nanoseconds
        return FrameBatch(
            self.data,
            self.records[start:stop],
            None if lengths is None else lengths[start:stop],
            None if nanoseconds is None else nanoseconds[start:stop],
        )

    def take(self, chosen: NDArray[np.bool_]) -> "FrameBatch":
        """Return the frames that are `chosen`, without copying their bytes."""
        rows = chosen.nonzero()[0]  # faster than by truth values
        lengths, nanoseconds = self.original_lengths, self.nanoseconds
        return FrameBatch(
            self.data,
            self.records.take(rows, axis=0),
            None if lengths is None else lengths.take(rows),
            None if nanoseconds is None else nanoseconds.take(rows),
        )

    def time_ns(self, row: int) -> int:
        """Return when one frame was captured, nanoseconds since the epoch."""
        seconds, microseconds = int(self.records[row, 0]), int(self.records[row, 1])
        rest = 0 if self.nanoseconds is None else int(self.nanoseconds[row])
        return (seconds * 1_000_000 + microseconds) * 1_000 + rest

    def list_times_ns(self) -> list[int]:
        """Return when each of a few frames was captured, nanoseconds since the epoch."""
        times = [
            (seconds * 1_000_000 + microseconds) * 1_000
            for seconds, microseconds, *_ in self.records.tolist()
        ]
        if self.nanoseconds is None:
            return times
        return [one + rest for one, rest in zip(times, self.nanoseconds.tolist(), strict=True)]

    def times_ns(self) -> Indices:
        """Return when each frame was captured, nanoseconds since the epoch."""
        times = self.records[:, 0].astype(np.int64)
        times *= 1_000_000
        times += self.records[:, 1]
        times *= 1_000
        if self.nanoseconds is not None:
            times += self.nanoseconds
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
