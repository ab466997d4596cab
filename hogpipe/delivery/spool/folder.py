"""The entries of a spool's folder: which are its own, and how unusable ones are set aside.

A segment is named `FIRST-LAST.spool` by the numbers of its windows. A merged segment covers the
numbers of those it replaces: segments that a kill left behind beside it are removed. While it is
written it is named `*.new`. What is set aside is renamed to `*.damaged`, or `*.damaged-N` if there
is one already.

Only entries with exactly such names are ever changed. Of these, only regular files are removed;
anything else, such as a folder or a FIFO, is set aside.
"""

import itertools
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hogpipe.delivery.spool.segments import Segment, create_private, write_whole

_NAME = re.compile(r"(\d{12})-(\d{12})\.(spool|new|damaged(?:-\d+)?)", re.ASCII)
_LAST_NUMBER = 999_000_000_000
"""Beyond all numbers of windows: after 30,000 years of one a second."""
_DAMAGED_KEPT = 4


class _Entry(NamedTuple):
    """An entry whose name is one of a spool."""

    first: int
    last: int
    suffix: str
    path: Path


def make_segment(folder: Path, first: int, last: int) -> Segment:
    """Return a segment for the windows with these numbers, without a file."""
    return Segment(folder / f"{first:012}-{last:012}.spool", first, last, exists=False)


def write_unfinished(segment: Segment, data: bytes) -> Path:
    """Write the future file of `segment` through to the disk; return its path. Raises OSError."""
    path = segment.path.with_suffix(".new")
    make_way(path)
    try:
        with create_private(path) as file:
            write_whole(file, data)
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def find_next_number(folder: Path) -> int:
    """Return a number beyond those of all entries, those that were set aside included."""
    return max((entry.last for entry in _list_entries(folder)), default=0) + 1


def find_segments(folder: Path) -> Iterator[Segment]:
    """Yield the segments of `folder`, not yet scanned; remove what a kill left unfinished.

    They are in order; segments that cover others come before those.
    """
    found = []
    for entry in _list_entries(folder):
        if entry.suffix == "spool":
            found.append(Segment(entry.path, entry.first, entry.last))
        elif entry.suffix == "new" and _is_regular(entry.path):
            entry.path.unlink()
    yield from sorted(found, key=lambda segment: (segment.first, -segment.last))


def remove_segment(segment: Segment) -> None:
    """Remove the file of a segment, or set aside what is there in its place."""
    if _is_regular(segment.path):
        segment.path.unlink(missing_ok=True)
    else:
        make_way(segment.path)


def set_aside(segment: Segment) -> None:
    """Rename a damaged file so that it can be examined; only the newest few are kept."""
    make_way(segment.path)
    damaged = [
        entry.path
        for entry in sorted(_list_entries(segment.path.parent))
        if entry.suffix.startswith("damaged") and _is_regular(entry.path)
    ]
    for path in damaged[:-_DAMAGED_KEPT]:
        path.unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """Rename what is at `path`, if there is anything, to a free name."""
    free = path.with_suffix(".damaged")
    numbers = itertools.count(2)
    while os.path.lexists(free):
        free = path.with_suffix(f".damaged-{next(numbers)}")
    with suppress(FileNotFoundError):
        path.rename(free)


def _list_entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        first, last = int(match[1]), int(match[2])
        if 0 < first <= last < _LAST_NUMBER:
            yield _Entry(first, last, match[3], path)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
