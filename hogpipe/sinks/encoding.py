"""PURE: records as JSON documents, for every sink that sends JSON.

In: records. Out: UTF-8 bytes, in the layout and schema of `JsonSettings`. Nothing fails for records
that hogpipe makes.

Algorithm: records are sent as orjson encodes them, but for another layout or schema. There, what a
document says of the owner is the same in every window, so its JSON is cached and appended to the
part that changes (shaping.py).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import orjson

from hogpipe.bounded_cache import BoundedCache
from hogpipe.records.schema import ProcessInfo, Record, TrafficRecord
from hogpipe.sinks.contract import SinkSettings
from hogpipe.sinks.ecs import EcsShape, FlatEcsShape
from hogpipe.sinks.shaping import OWNER_KEYS, FlatShape, OwnerText, Shape, has_identity

RECORD_STARTS = (b'{"type":"', b'{"@timestamp":"')
"""The first bytes of a document, in any layout and schema."""

_MAX_TAILS = 16_384  # of about 1 KiB each
_MAX_OWNERS = 2048  # likewise
_NO_IDENTITY: ProcessInfo = {"pid": 0, "parent_pid": 0, "creation": {"time": ""}}
_BATCH = 256  # records: about 200 KiB, in 1-2 ms


class JsonSettings(SinkSettings, frozen=True, kw_only=True):
    """The keys of every sink that sends JSON (docs/layouts.md)."""

    layout: Literal["nested", "flat"] = "nested"
    """nested: objects in objects; flat: one level, with dots in the keys."""
    schema: Literal["otel", "ecs"] = "otel"
    """otel: the names of OpenTelemetry; ecs: those of the Elastic Common Schema."""


class JsonEncoder:
    """Encodes records as JSON documents; for one thread at a time."""

    def __init__(self, settings: JsonSettings) -> None:
        self._shape = _make_shape(settings)
        self._braces = 2 if settings.layout == "nested" else 1
        self._tails = BoundedCache[bytes](_MAX_TAILS)
        """The end of a document, by the owner."""
        self._owners = BoundedCache[OwnerText](_MAX_OWNERS)
        """The end of a document around the process identity, by the rest of the owner."""

    def documents(self, records: Sequence[Record]) -> list[bytes]:
        """Return each record as one JSON document in UTF-8, without a line end."""
        if self._shape is None:
            return [orjson.dumps(record) for record in records]
        return [self._encode(record, self._shape) for record in records]

    def lines(self, records: Sequence[Record]) -> bytes:
        """Return the records as JSON lines in UTF-8, each with its line end."""
        documents = self.documents(records)
        documents.append(b"")
        return b"\n".join(documents)

    def batches(self, records: Sequence[Record]) -> Iterator[bytes]:
        """Yield the lines in batches, so that other tasks or threads can run in between."""
        for start in range(0, len(records), _BATCH):
            yield self.lines(records[start : start + _BATCH])

    def _encode(self, record: Record, shape: Shape) -> bytes:
        if record["type"] == "stats":
            return orjson.dumps(shape.shape_stats(record))
        get = record.get
        key = orjson.dumps([get(name) for name in OWNER_KEYS])
        tail = self._tails.get(key)
        if tail is None:
            tail = self._make_tail(key, record, shape)
            self._tails.keep(key, tail)
        return orjson.dumps(shape.shape_rest(record))[: -self._braces] + tail

    def _make_tail(self, key: bytes, record: TrafficRecord, shape: Shape) -> bytes:
        """Return the text that replaces the last braces of a document without its owner."""
        identity = b""
        if has_identity(record):
            process, get = record["process"], record.get
            identity = orjson.dumps(shape.shape_identity(process))[1:-1]
            like = process | _NO_IDENTITY
            key = orjson.dumps([like, *(get(name) for name in OWNER_KEYS[1:])])
        owner = self._owners.get(key)
        if owner is None:
            owner = shape.write_owner(record)
            self._owners.keep(key, owner)
        return owner.before + identity + owner.after


def _make_shape(settings: JsonSettings) -> Shape | None:
    """Return the shape for layout and schema, None for that of the record."""
    match settings.schema, settings.layout:
        case "otel", "nested":
            return None
        case "otel", _:
            return FlatShape()
        case _, "nested":
            return EcsShape()
        case _:
            return FlatEcsShape()
