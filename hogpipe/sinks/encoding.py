"""PURE: records as bytes, the same for every sink that sends JSON lines."""

from collections.abc import Sequence

import orjson

from hogpipe.record import Record


def encode_lines(records: Sequence[Record]) -> bytes:
    """Return `records` as UTF-8, one JSON object a line, each line with its end."""
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
