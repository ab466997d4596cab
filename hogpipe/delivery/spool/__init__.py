"""A spool: the windows of one sink, on disk until they are delivered.

A folder of a spool's own holds segments, files that are named for their place in the order, and
`position`, which says up to where all is delivered. A segment is text: each window is a head line
(`frames.py`) and then its records as JSON lines.

What is promised, after a kill of any kind: every window that was taken in comes out again, in
order, until it is acknowledged, and one at the most comes out again after that. Nothing is synced
but segments that are full, so a power cut may cost up to one segment at the end. Of a damaged file
all windows are read that are whole; once they are delivered the file is kept as `*.damaged`.

    frames.py      windows as bytes
    segments.py    one file of windows
    position.py    up to where all is delivered; the lock
    folder.py      which segments there are
    condensing.py  windows of old segments merged
    store.py       Spool: these put together; a bound
"""

from hogpipe.delivery.spool.store import Spool

__all__ = ["Spool"]
