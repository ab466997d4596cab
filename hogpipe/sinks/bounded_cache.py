"""PURE: what is remembered, up to a bound."""

from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedCache(Generic[T]):
    """Values by the bytes that they were made of, `most` of them.

    What comes again does so in turns: to forget the oldest for a new one would be to forget each
    right before it comes. So what is too much is not kept. But as much of what is kept may never
    come any more, such as processes that have ended, all is forgotten once in a while.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[bytes, T] = {}
        self._refused = 0
        self.get = self._kept.get
        """Return the value of a key, or None."""

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: bytes, value: T) -> None:
        """Remember `value` from now on, where there is room."""
        if len(self._kept) >= self._most:
            self._refused += 1
            if self._refused % (4 * self._most):
                return
            self._kept.clear()
        # What orjson returns keeps the 4 KiB that it was written to.
        self._kept[bytes(memoryview(key))] = value
