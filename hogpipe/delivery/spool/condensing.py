"""Old segments merged into one of at most half their size, so that a full spool loses no byte.

Windows of one run become one window (merging.py); where that is not small enough, the groups that
moved least are summed up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hogpipe.delivery.merging import Merger
from hogpipe.delivery.spool.framing import encode_window
from hogpipe.delivery.spool.segments import Segment

_TRIES = 8


@dataclass(frozen=True, slots=True)
class Condensed:
    """Frames for a new segment; counts of records: read from the old ones, in the new one."""

    data: bytes
    read: int
    records: int


def condense(segments: Sequence[Segment]) -> Condensed:
    """Return all that can be read of `segments`, one window for each run, in order.

    It may be larger than half where runs are many.
    """
    mergers: dict[str, Merger] = {}
    read = 0
    for segment in segments:
        for window in segment.windows():
            # A run's records are together: the next run began when this one had ended.
            mergers.setdefault(window[0]["run"], Merger()).add(window)
            read += len(window)
    limit = sum(segment.size for segment in segments) // 2
    data = _encode(mergers)
    for _ in range(_TRIES):
        if len(data) <= limit:
            break
        for merger in mergers.values():
            merger.fold(max(1, len(merger) * limit // (len(data) + 1)))
        data = _encode(mergers)
    return Condensed(data, read, sum(map(len, mergers.values())))


def _encode(mergers: dict[str, Merger]) -> bytes:
    return b"".join(encode_window(merger.records()) for merger in mergers.values())
