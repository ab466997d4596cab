"""PURE: which of the lines that were sent the peer's TCP has acknowledged."""

from collections import deque


class SentLines:
    """The lines of one connection, in the order in which they were sent.

    Offsets count the bytes of the connection as TCP does. `exact` says that a byte of the lines is
    a byte of the connection. With TLS it is not: a slice is acknowledged as a whole there.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._done = 0
        self._slices: deque[tuple[bytes, int]] = deque()
        """Slices that are not wholly acknowledged, each with the offset of its end."""

    def add(self, data: bytes, end: int) -> None:
        """Note that the lines `data` were sent, and end at the offset `end`."""
        self._slices.append((data, end))

    def acknowledged(self, offset: int) -> int:
        """Return how many lines are wholly among the first `offset` bytes; it never goes back."""
        while self._slices and self._slices[0][1] <= offset:
            data, _end = self._slices.popleft()
            self._done += data.count(b"\n")
        if not (self._exact and self._slices):
            return self._done
        data, end = self._slices[0]
        return self._done + data.count(b"\n", 0, max(0, len(data) - (end - offset)))
