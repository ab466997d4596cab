"""Many like pieces of one piece of memory, as rows whose fields have names."""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Octets = NDArray[np.uint8]
Rows = NDArray[np.void]

_Value = TypeVar("_Value", bound=np.generic)


class RowType(NamedTuple):
    """Rows of `size` bytes whose fields have names."""

    size: int
    fields: np.dtype[np.void]
    bare: np.dtype[np.void]
    """As many bytes without fields: NumPy takes those ten times faster."""


def row_type(size: int, fields: dict[str, tuple[str, int]]) -> RowType:
    """Return the type of rows of `size` bytes with these fields: of each its type and offset."""
    named = np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [at for _, at in fields.values()],
            "itemsize": size,
        }
    )
    return RowType(size, named, np.dtype(f"V{size}"))


def read_rows(data: bytes, at: Indices, row: RowType) -> Rows:
    """Return the bytes from each `at` on as a row; `at` is clipped to fit in `data`."""
    return read_values(data, at, row.bare).view(row.fields)


def read_values(data: bytes, at: Indices, kind: "np.dtype[_Value]") -> NDArray[_Value]:
    """Return the value at each `at`, which is clipped to fit in `data`."""
    last = len(data) - kind.itemsize
    # Every value of the data without a copy: they overlap, one begins at each byte.
    everywhere = np.ndarray((last + 1,), kind, data, strides=(1,))
    return everywhere[np.minimum(at, last)]
