"""A spool: the windows of one sink, on disk until they are delivered.

# Guarantees, after a kill of any kind

- Every window that `append` accepted comes out again, in order, until it is acknowledged.
- At most one window comes out again after it was acknowledged.
- Of a damaged file every whole window comes out; the file is then kept as `*.damaged`.
- Whatever else is in the folder: entries with other names stay as they are, and what has the name
  of a segment and is none is renamed to `*.damaged`.

# On-disk layout

A folder of the spool's own holds segments, files named for their place in the order, and
`position`, the end of what is delivered. A segment is text: entries, each a head line and the
records of one window as JSON lines.

# Writing, reading, deleting

Entries are appended to the newest segment, of at most 8 MiB and an eighth of the bound. Reading
begins at the position. A segment is removed once all of it is delivered. Beyond the bound the
overflow policy applies to the oldest segments behind the one that is being read: `coalesce` merges
two into one, `drop_oldest` removes one, `block` leaves all and the publisher waits.

# Modules

    store.py       Spool: the operations, and a small cache of recent windows
    chain.py       the segments in order, and the bound
    compaction.py  two old segments merged into one
    folder.py      the names of the files
    segments.py    one file of windows
    framing.py     PURE: a window as bytes, with checksums
    position.py    the end of what is delivered; the lock of the folder

# Known limits

Only full segments are synced to the disk: a power cut may cost up to one segment at the end.
"""

from hogpipe.delivery.spool.store import Spool

__all__ = ["Spool"]
