"""The spool itself: windows go in at one end, and come out at the other until acknowledged.

Everything here blocks on the disk and is for one thread at a time.
"""

import errno
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from hogpipe.delivery.coalescing import WhenFull
from hogpipe.delivery.spool.chain import Chain
from hogpipe.delivery.spool.framing import encode_window
from hogpipe.delivery.spool.position import Position, PositionFile
from hogpipe.delivery.spool.segments import StoredWindow
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record
from hogpipe.text import printable

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # records, some 40 MB; or one window
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class SpoolCounts(NamedTuple):
    """All in records, but for `bytes` and `damaged`."""

    records: int
    """Those that are not acknowledged."""
    bytes: int
    """How much of the disk is used."""
    found: int
    """Those that were there when it was opened."""
    dropped: int
    """Those that had to give way, or could not be read."""
    coalesced: int
    """Those that went up in another one."""
    damaged: int
    """Files in which something was damaged."""


class Spool:
    """Windows on disk in `folder`, with at most `bound` bytes."""

    def __init__(self, folder: Path, bound: int, when_full: WhenFull) -> None:
        self._folder = folder
        self._make_chain = partial(Chain, folder, bound, when_full)
        self._chain = self._make_chain()
        self._position: PositionFile | None = None
        self._out: StoredWindow | None = None
        self._remembered: deque[StoredWindow] = deque()
        """What comes next, if that is in memory all the way to the newest."""
        self._positions_damaged = 0
        self._found = 0

    @property
    def counts(self) -> SpoolCounts:
        """How it stands."""
        chain = self._chain
        return SpoolCounts(
            chain.records,
            chain.bytes,
            self._found,
            chain.dropped,
            chain.coalesced,
            chain.damaged + self._positions_damaged,
        )

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return self._position is not None

    @property
    def has_room(self) -> bool:
        """Whether another window may be appended where none is to give way."""
        return self._chain.has_room

    def open(self) -> None:
        """Take the folder, with what is left there from earlier runs.

        Raises ConfigurationError where that cannot be, OSError where the disk is full.
        """
        shown = printable(str(self._folder))
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load(PositionFile(self._folder))
        except BlockingIOError as error:
            problem = "another run or sink uses it; each needs a folder of its own"
            raise ConfigurationError(f"spool {shown}: {problem}") from error
        except OSError as error:
            if error.errno in _PASSING:
                raise
            problem = f"{error.strerror or error}; name a folder that hogpipe may write to"
            raise ConfigurationError(f"spool {shown}: {problem}") from error

    def append(self, records: Sequence[Record]) -> None:
        """Add a window; OSError, and then it is not in."""
        reading = self._out.segment if self._out else None
        segment = self._chain.append(encode_window(records), len(records), reading)
        # What has given way may be among those that are remembered.
        held = takewhile(lambda window: window.segment in self._chain, self._remembered)
        self._remembered = deque(held)
        before = sum(len(window.records) for window in self._remembered)
        unread = self._chain.records - (len(self._out.records) if self._out else 0)
        is_small = not before or before + len(records) <= _REMEMBERED
        if is_small and unread == before + len(records):
            self._remembered.append(StoredWindow(records, segment, segment.size))

    def next(self) -> Sequence[Record]:
        """Hand out the oldest window, the same one until it is acknowledged; empty if none."""
        if self._out is None:
            self._out = self._remembered.popleft() if self._remembered else self._chain.read()
        return self._out.records if self._out else ()

    def acknowledge(self) -> None:
        """Forget what is handed out; after an OSError it may come again in a later run."""
        window, self._out = self._out, None
        if window is not None and self._position is not None:
            self._position.write(self._chain.settle(window))
            self._chain.tidy()

    def close(self) -> None:
        """Let go of the folder; what is not acknowledged stays there."""
        position, self._position = self._position, None
        if position is not None:
            try:
                if not self._chain.records:
                    self._chain.retire_all()
            finally:
                position.close()

    def _load(self, file: PositionFile) -> None:
        try:
            position = file.read()
            if position is None:
                self._positions_damaged = 1
                path = printable(str(self._folder / "position"))
                log.error("spool: %s is damaged; what the spool holds comes again", path)
            self._chain = self._make_chain()
            self._chain.load(position or Position())
        except BaseException:
            file.close()
            raise
        self._position = file
        self._found = self._chain.records
