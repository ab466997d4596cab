"""PURE: a window as bytes, so that damage is noticed and told from a write that was cut short.

A frame is a head line and its payload, the records as JSON lines. The head is `#` and four numbers
of eight hexadecimal digits: how many records, how many bytes of payload, the CRC-32 of the payload,
and that of the line up to there. No line of a payload begins with `#`, so after damage the next
frame can be found.
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
"""What comes before the second byte of any head but the first."""
_PORTION = 256  # records
_HEAD = re.compile(rb"#([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")


@dataclass(frozen=True, slots=True)
class Head:
    """What a frame says of its payload: `size` in bytes."""

    records: int
    size: int
    checksum: int


def encode_window(records: Sequence[Record]) -> bytes:
    """Return a window as a frame; TypeError if a record is no JSON."""
    payload = b"".join(
        [
            _encode_lines(records[start : start + _PORTION])
            for start in range(0, len(records), _PORTION)
        ]
    )
    line = b"#%08x %08x %08x " % (len(records), len(payload), crc32(payload))
    return b"%b%08x\n%b" % (line, crc32(line), payload)


def _encode_lines(records: Sequence[Record]) -> bytes:
    # What orjson returns keeps the 4 KiB that it was written to: join soon.
    return b"".join([orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records])


def parse_head(data: bytes) -> Head | None:
    """Return the head that `data` is, None if it is none or damaged."""
    match = _HEAD.fullmatch(data)
    if match is None:
        return None
    records, size, checksum, own = (int(digits, 16) for digits in match.groups())
    return Head(records, size, checksum) if own == crc32(data[: match.start(4)]) else None


def decode_payload(head: Head, payload: bytes) -> list[Record] | None:
    """Return the records of a payload, None if it is damaged."""
    if len(payload) != head.size or crc32(payload) != head.checksum:
        return None
    # Line by line: one call for all would keep other threads from running.
    return cast("list[Record]", [orjson.loads(line) for line in payload.splitlines()])
