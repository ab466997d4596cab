"""PURE: when a file of records is full, and what a closed one is called.

Time is that of the records, so a replay makes the same files each time. A closed file has the time
at which the next one begins: `hogpipe.jsonl-20261122T070000.000Z` ends there. Its names sort by
when the files were closed, also where the clock was set back.
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
# The start of a window, in each shape that a record can have.
_NESTED_STARTS = (("window", "start"), ("event", "start"))
_FLAT_STARTS = ("window.start", "event.start")


@dataclass(frozen=True, slots=True)
class RotationRule:
    """A file is full at `most_bytes`, and spans no multiple of `every` seconds (of UTC)."""

    most_bytes: int | None = None
    every: float | None = None

    def find_period(self, start: datetime | None) -> int | None:
        """Return which period a window belongs to that begins at `start`, if there are any."""
        if start is None or self.every is None:
            return None
        return int(start.timestamp() // self.every)

    def is_over(self, size: int, period: int | None, start: datetime) -> bool:
        """Return whether a file of `size` bytes that is for `period` takes no window of `start`."""
        if not size:
            return False
        if self.most_bytes is not None and size >= self.most_bytes:
            return True
        return period is not None and period != self.find_period(start)


@dataclass(frozen=True, slots=True)
class ClosedName:
    """The name of a closed file, taken apart."""

    closed: datetime
    suffix: str
    """Empty, COMPRESSED or UNFINISHED."""


def format_closed(base: str, closed: datetime) -> str:
    """Return what the file `base` is called once it is closed; `closed` is in UTC."""
    return f"{base}-{closed:%Y%m%dT%H%M%S}.{closed.microsecond // 1000:03d}Z"


def parse_closed(base: str, name: str) -> ClosedName | None:
    """Return what `name` says, None if it is not exactly what we call a closed `base`."""
    found = _CLOSED.fullmatch(name, len(base)) if name.startswith(base) else None
    if found is None:
        return None
    try:
        closed = datetime.strptime(found[1], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:  # such as a thirteenth month
        return None
    return ClosedName(closed, found[2])


def choose_closing(start: datetime, taken: Iterable[datetime]) -> datetime:
    """Return `start`, or where that is not after all that are `taken`, the next that is free."""
    newest = max(taken, default=None)
    return start if newest is None or newest < start else newest + MILLISECOND


def find_start(record: Record) -> datetime:
    """Return when the window of `record` begins."""
    return datetime.fromisoformat(record["window"]["start"])


def decode_start(line: bytes) -> datetime | None:
    """Return when the window of a line of ours begins, whatever its shape; None if it is none."""
    try:
        document = orjson.loads(line)
        texts = [document[outer][inner] for outer, inner in _NESTED_STARTS if outer in document]
        texts += [document[key] for key in _FLAT_STARTS if key in document]
        return datetime.fromisoformat(texts[0])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
