"""The spool: windows are appended at one end, and read from the other until acknowledged.

In: windows. Out: the oldest window, and counts. All methods block on the disk; one thread at a time
may call them. `open` raises ConfigurationError for a folder that can never be used, the others
OSError.

Recent windows stay in memory (`_cached`), so that a sink that keeps up with the run costs no reads.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from hogpipe.delivery.coalescing import OverflowPolicy
from hogpipe.delivery.spool.chain import Chain
from hogpipe.delivery.spool.framing import encode_window
from hogpipe.delivery.spool.position import Position, PositionFile
from hogpipe.delivery.spool.segments import StoredWindow
from hogpipe.errors import ConfigurationError, InUseError
from hogpipe.ownership import resolve_output
from hogpipe.records.schema import Record
from hogpipe.text import printable

log = logging.getLogger(__name__)

_CACHED_RECORDS = 10_000  # some 40 MB; a single window may exceed it
_TRANSIENT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class SpoolCounts(NamedTuple):
    """In records, but for `bytes` and `damaged`."""

    records: int
    """Not acknowledged."""
    bytes: int
    """On disk."""
    found: int
    """On disk when the spool was opened."""
    dropped: int
    """Dropped by the overflow policy, or lost to damage."""
    coalesced: int
    """Merged into others."""
    damaged: int
    """Damaged files."""


class Spool:
    """Windows on disk in `folder`, of at most `bound` bytes."""

    def __init__(self, folder: Path, bound: int, policy: OverflowPolicy) -> None:
        self._folder = folder
        self._make_chain = partial(Chain, folder, bound, policy)
        self._chain = self._make_chain()
        self._position: PositionFile | None = None
        self._in_flight: StoredWindow | None = None
        self._cached: deque[StoredWindow] = deque()
        """The next windows, if all up to the newest are in memory; empty otherwise."""
        self._damaged_positions = 0
        self._found = 0

    @property
    def counts(self) -> SpoolCounts:
        """The counts at the moment."""
        chain = self._chain
        return SpoolCounts(
            chain.records,
            chain.bytes,
            self._found,
            chain.dropped,
            chain.coalesced,
            chain.damaged + self._damaged_positions,
        )

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return self._position is not None

    @property
    def has_room(self) -> bool:
        """Whether another window may be appended within the bound."""
        return self._chain.has_room

    def open(self) -> None:
        """Lock the folder, made where absent, and load the windows of earlier runs.

        Raises ConfigurationError if the folder can never be used, InUseError among these if another
        sink uses it, OSError if the disk is full.
        """
        shown = printable(str(self._folder))
        try:
            resolve_output(self._folder)  # before it is made where a link of another user leads
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load(PositionFile(self._folder))
        except BlockingIOError as error:
            problem = "another run or sink uses it; each needs a folder of its own"
            raise InUseError(f"spool {shown}: {problem}") from error
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise
            inside = Path(error.filename).name if _is_inside(error, self._folder) else ""
            problem = f"{error.strerror or error}; name a folder that hogpipe may write to"
            shown = f"{shown}: {printable(inside)}" if inside else shown
            raise ConfigurationError(f"spool {shown}: {problem}") from error

    def append(self, records: Sequence[Record]) -> None:
        """Append a window; after an OSError it is not in the spool. TypeError: it is no JSON."""
        reading = self._in_flight.segment if self._in_flight else None
        segment = self._chain.append(encode_window(records), len(records), reading)
        # The overflow policy may have removed segments whose windows are cached.
        kept = takewhile(lambda window: window.segment in self._chain, self._cached)
        self._cached = deque(kept)
        before = sum(len(window.records) for window in self._cached)
        unread = self._chain.records - (len(self._in_flight.records) if self._in_flight else 0)
        is_small = not before or before + len(records) <= _CACHED_RECORDS
        if is_small and unread == before + len(records):
            self._cached.append(StoredWindow(records, segment, segment.size))

    def read(self) -> Sequence[Record]:
        """Return the oldest window, the same one until it is acknowledged; empty if none."""
        if self._in_flight is None:
            self._in_flight = self._cached.popleft() if self._cached else self._chain.read()
        return self._in_flight.records if self._in_flight else ()

    def acknowledge(self) -> None:
        """Count the window that was read as delivered.

        After an OSError a later run may read it again.
        """
        window, self._in_flight = self._in_flight, None
        if window is not None and self._position is not None:
            self._position.write(self._chain.acknowledge(window))
            self._chain.remove_delivered()

    def close(self) -> None:
        """Release the folder; windows that are not acknowledged stay in it."""
        position, self._position = self._position, None
        if position is not None:
            try:
                if not self._chain.records:
                    self._chain.remove_all()
            finally:
                position.close()

    def _load(self, file: PositionFile) -> None:
        try:
            position = file.read()
            if position is None:
                self._damaged_positions = 1
                path = printable(str(self._folder / "position"))
                state = "was no regular file, and is set aside" if file.replaced else "is damaged"
                log.error("spool: %s %s; all windows of the spool are sent again", path, state)
            self._chain = self._make_chain()
            self._chain.load(position or Position())
        except BaseException:
            file.close()
            raise
        self._position = file
        self._found = self._chain.records


def _is_inside(error: OSError, folder: Path) -> bool:
    """Return whether an error concerns an entry of `folder`, and not the folder itself."""
    return isinstance(error.filename, str | os.PathLike) and Path(error.filename).parent == folder
