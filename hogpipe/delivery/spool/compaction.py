"""Old segments merged into one of at most half their size, so that a full spool loses no byte.

In: segments. Out: the entries of the segment that replaces them. The windows of one run become one
window (merging.py). While that is more than half the size of the old segments, the groups that
moved least are added to the remainder.

Known limit: the result may be larger than half where the segments hold windows of many runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hogpipe.delivery.merging import MergedWindow
from hogpipe.delivery.spool.framing import encode_window
from hogpipe.delivery.spool.segments import Segment

_TRIES = 8


@dataclass(frozen=True, slots=True)
class Compacted:
    """Entries for a new segment; counts of records: read from the old ones, in the new one."""

    data: bytes
    read: int
    records: int


def compact(segments: Sequence[Segment]) -> Compacted:
    """Merge all readable windows of `segments` into one for each run, in order; raises OSError."""
    merged_by_run: dict[str, MergedWindow] = {}
    read = 0
    for segment in segments:
        for window in segment.windows():
            # The windows of a run are contiguous: the next run began when this one had ended.
            merged_by_run.setdefault(window[0]["run"], MergedWindow()).add(window)
            read += len(window)
    limit = sum(segment.size for segment in segments) // 2
    data = _encode(merged_by_run)
    for _ in range(_TRIES):
        if len(data) <= limit:
            break
        for merged in merged_by_run.values():
            merged.fold(max(1, len(merged) * limit // (len(data) + 1)))
        data = _encode(merged_by_run)
    return Compacted(data, read, sum(map(len, merged_by_run.values())))


def _encode(merged_by_run: dict[str, MergedWindow]) -> bytes:
    return b"".join(encode_window(merged.records()) for merged in merged_by_run.values())
