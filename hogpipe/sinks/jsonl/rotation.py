"""PURE: when a file of records is full, and the names of closed files.

Time is that of the records, so a replay makes the same files each time. A closed file is named for
the time at which the next one begins: `hogpipe.jsonl-20261122T070000.000Z` ends there. The names
sort by the order in which the files were closed, also if the clock was set back.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

from hogpipe.records.schema import Record

COMPRESSED = ".gz"
UNFINISHED = ".gz.tmp"
LONGEST_SUFFIX = len("-20261122T070010.000Z.gz.tmp")

MILLISECOND = timedelta(milliseconds=1)
_CLOSED = re.compile(r"-(\d{8}T\d{6}\.\d{3}Z)((?:\.gz(?:\.tmp)?)?)", re.ASCII)
# The start of a window, in each layout and schema.
_NESTED_STARTS = (("window", "start"), ("event", "start"))
_FLAT_STARTS = ("window.start", "event.start")


@dataclass(frozen=True, slots=True)
class RotationRule:
    """A file is full at `most_bytes`, and ends at each multiple of `every` seconds (UTC)."""

    most_bytes: int | None = None
    every: float | None = None

    def find_period(self, start: datetime | None) -> int | None:
        """Return the period of a window that begins at `start`; None if there are no periods."""
        if start is None or self.every is None:
            return None
        return int(start.timestamp() // self.every)

    def is_full(self, size: int, period: int | None, start: datetime) -> bool:
        """Return whether a file of `size` bytes for `period` is full for a window at `start`."""
        if not size:
            return False
        if self.most_bytes is not None and size >= self.most_bytes:
            return True
        return period is not None and period != self.find_period(start)


@dataclass(frozen=True, slots=True)
class ClosedName:
    """The parts of the name of a closed file."""

    closed: datetime
    suffix: str
    """Empty, COMPRESSED or UNFINISHED."""


def format_closed(base: str, closed: datetime) -> str:
    """Return the name of the file `base` closed at `closed`, which is in UTC."""
    return f"{base}-{closed:%Y%m%dT%H%M%S}.{closed.microsecond // 1000:03d}Z"


def parse_closed(base: str, name: str) -> ClosedName | None:
    """Return the parts of `name`, None if it is not exactly the name of a closed `base`."""
    found = _CLOSED.fullmatch(name, len(base)) if name.startswith(base) else None
    if found is None:
        return None
    try:
        closed = datetime.strptime(found[1], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:  # such as a thirteenth month
        return None
    return ClosedName(closed, found[2])


def choose_closing(start: datetime, taken: Iterable[datetime]) -> datetime:
    """Return `start`, or a millisecond after the newest of `taken` if that is not before it."""
    newest = max(taken, default=None)
    return start if newest is None or newest < start else newest + MILLISECOND


def find_start(record: Record) -> datetime:
    """Return the start of the window of `record`."""
    return datetime.fromisoformat(record["window"]["start"])


def decode_start(line: bytes) -> datetime | None:
    """Return the start of the window in a line of any layout and schema; None if it has none."""
    try:
        document = orjson.loads(line)
        texts = [document[outer][inner] for outer, inner in _NESTED_STARTS if outer in document]
        texts += [document[key] for key in _FLAT_STARTS if key in document]
        return datetime.fromisoformat(texts[0])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
