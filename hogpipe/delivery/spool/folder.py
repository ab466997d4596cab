"""The files of a spool: their names, and how many damaged ones are kept.

A segment is named `FIRST-LAST.spool` by the numbers of its windows. A merged segment covers the
numbers of those it replaces: segments that a kill left behind beside it are removed.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hogpipe.delivery.spool.segments import Segment, open_private, write_whole

_NAME = re.compile(r"(\d{12})-(\d{12})\.(spool|damaged)")
_SEGMENT = ".spool"
_UNFINISHED = ".new"
_DAMAGED = ".damaged"
_DAMAGED_KEPT = 4


def make_segment(folder: Path, first: int, last: int) -> Segment:
    """Return a segment for the windows with these numbers, without a file."""
    return Segment(folder / f"{first:012}-{last:012}.spool", first, last)


def write_unfinished(segment: Segment, data: bytes) -> Path:
    """Write the future file of `segment` through to the disk; return its path. Raises OSError."""
    path = segment.path.with_suffix(_UNFINISHED)
    try:
        with open_private(path, "wb") as file:
            write_whole(file, data)
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def find_next_number(folder: Path) -> int:
    """Return a number beyond those of all files, damaged ones included."""
    matches = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
    return max((int(match[2]) for match in matches if match), default=0) + 1


def find_segments(folder: Path) -> Iterator[Segment]:
    """Yield the segments of `folder` in order, not yet scanned; remove what a kill left behind."""
    found: list[Segment] = []
    for path in folder.iterdir():
        if path.suffix == _SEGMENT and (match := _NAME.fullmatch(path.name)):
            found.append(Segment(path, int(match[1]), int(match[2])))
        elif path.suffix == _UNFINISHED:
            path.unlink()
    last = 0
    for segment in sorted(found, key=lambda segment: (segment.first, -segment.last)):
        if segment.last <= last:
            segment.path.unlink()
        else:
            last = segment.last
            yield segment


def set_aside(segment: Segment) -> None:
    """Rename a damaged file so that it can be examined; only the newest few are kept."""
    folder = segment.path.parent
    with suppress(FileNotFoundError):  # the file itself was deleted: that was the damage
        segment.path.rename(segment.path.with_suffix(_DAMAGED))
    for path in sorted(folder.glob(f"*{_DAMAGED}"))[:-_DAMAGED_KEPT]:
        path.unlink()
