"""PURE: a window as bytes, framed so that damage and a torn write are recognised.

In: a window. Out: an entry, and back. An entry is a head line and a payload, the records as JSON
lines. The head is `#` and four numbers of eight hexadecimal digits: the number of records, the
bytes of the payload, the CRC-32 of the payload, and the CRC-32 of the head up to there. No line of
a payload begins with `#`, so the next entry can be found after damage.

Known limit: an entry with a damaged payload is skipped whole if the next entry begins where it says
that it ends, whatever the payload contains.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from zlib import crc32

import orjson

from hogpipe.records.schema import Record

HEAD_SIZE = 37
NEXT_HEAD = b"\n#"
"""What comes before the second byte of every head but the first."""
_BATCH = 256  # records
_HEAD = re.compile(rb"#([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an entry; `size` is that of the payload, in bytes."""

    records: int
    size: int
    checksum: int


def encode_window(records: Sequence[Record]) -> bytes:
    """Return a window as an entry; TypeError if a record is no JSON."""
    batches = (records[start : start + _BATCH] for start in range(0, len(records), _BATCH))
    payload = b"".join([_encode_lines(batch) for batch in batches])
    line = b"#%08x %08x %08x " % (len(records), len(payload), crc32(payload))
    return b"%b%08x\n%b" % (line, crc32(line), payload)


def _encode_lines(records: Sequence[Record]) -> bytes:
    # Each result of orjson occupies 4 KiB until it is joined.
    return b"".join([orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records])


def parse_head(data: bytes) -> Head | None:
    """Return the head that `data` is, None if it is none, damaged, or not that of a window."""
    match = _HEAD.fullmatch(data)
    if match is None:
        return None
    records, size, checksum, own = (int(digits, 16) for digits in match.groups())
    if own != crc32(data[: match.start(4)]) or not 0 < records <= size:
        return None
    return Head(records, size, checksum)


def decode_payload(head: Head, payload: bytes) -> list[Record] | None:
    """Return the records of a payload, None if it is damaged or not that of a window."""
    if len(payload) != head.size or crc32(payload) != head.checksum:
        return None
    lines = payload.removesuffix(b"\n").split(b"\n")
    try:
        # Line by line: a single call would hold the GIL for the whole window.
        records = [orjson.loads(line) for line in lines]
    except ValueError:
        return None
    if len(records) != head.records or not all(map(_is_record, records)):
        return None
    return cast("list[Record]", records)


def _is_record(document: object) -> bool:
    """Return whether a document has what the delivery reads of each record."""
    return (
        isinstance(document, dict)
        and document.get("type") in ("traffic", "stats")  # any JSON value, hashable or not
        and isinstance(document.get("schema"), int)
        and isinstance(document.get("run"), str)
        and isinstance(document.get("sequence"), int)
    )
