"""PURE: a cache of a bounded number of values, for keys that recur in cycles."""

from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """At most `limit` values by their keys.

    Algorithm: the keys of each window are mostly those of the window before, in the same order.
    Least recently used eviction would evict each key right before its next use. So a full cache
    keeps its values and refuses new ones. Values that are never used again, such as those of exited
    processes, are evicted all at once after `4 * limit` refusals.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[bytes, T] = {}
        self._refused = 0
        self.get = self._values.get
        """Return the value of a key, or None."""

    def __len__(self) -> int:
        return len(self._values)

    def keep(self, key: bytes, value: T) -> None:
        """Cache a value, if there is room."""
        if len(self._values) >= self._limit:
            self._refused += 1
            if self._refused % (4 * self._limit):
                return
            self._values.clear()
        # A copy: a result of orjson occupies 4 KiB.
        self._values[bytes(memoryview(key))] = value
