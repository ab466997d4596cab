"""PURE: records in another shape than their own: here, in one level with dotted keys.

A shape takes a traffic record in parts, as what is said of the owner is the same window after
window and need be shaped only once; and but for which process it is, it is the same for all
processes of a program in a service. The rest is made for every record, so it is written out key by
key: that is several times faster than to walk through it.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import orjson

from hogpipe.records.schema import ProcessInfo, StatsRecord, TrafficRecord

Document = dict[str, object]
"""What becomes one JSON document."""

OWNER_KEYS = ("process", "systemd", "container", "k8s")
"""What a traffic record says of the owner."""

IDENTITY_KEYS = ("pid", "parent_pid", "creation")
"""What tells which process it is, where there is a pid."""


class OwnerText(NamedTuple):
    """JSON in the place of the last braces of a document: what is said of the owner."""

    before: bytes
    after: bytes
    """What comes after the identity, where there is a pid."""


class Shape(Protocol):
    """Makes documents of records, which stay as they are."""

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return the document without what is said of the owner."""

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return what is said of which process it is; never empty, as there is a pid."""

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return what is said of the owner, around the identity."""


class FlatShape:
    """The record in one level."""

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""
        return flatten(record)

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return what `flatten` does, without the owner."""
        window, network = record["window"], record["network"]
        transmit, receive = network["io"]["transmit"], network["io"]["receive"]
        flat: Document = {
            "type": record["type"],
            "timestamp": record["timestamp"],
            "window.start": window["start"],
            "window.end": window["end"],
            "run": record["run"],
            "sequence": record["sequence"],
            "host.name": record["host"]["name"],
            "network.flows": network["flows"],
            "network.io.transmit.bytes": transmit["bytes"],
            "network.io.transmit.packets": transmit["packets"],
            "network.io.receive.bytes": receive["bytes"],
            "network.io.receive.packets": receive["packets"],
        }
        if len(network) > 2:
            flat.update(flatten(describe_path(record), "network."))
        for quality, count in record["attribution"].items():
            flat["attribution." + quality] = count
        if "remainder" in record:
            flat["remainder"] = True
        return flat

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return what `flatten` does."""
        identity: Document = {"process.pid": process["pid"]}
        if "parent_pid" in process:
            identity["process.parent_pid"] = process["parent_pid"]
        if "creation" in process:
            identity["process.creation.time"] = process["creation"]["time"]
        return identity

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return what `flatten` does."""
        owner: Document = {key: record.get(key) for key in OWNER_KEYS if key in record}
        if not has_identity(record):
            return OwnerText(continue_with(flatten(owner)) + b"}", b"")
        owner["process"] = leave_identity(record["process"])
        return OwnerText(b",", continue_with(flatten(owner)) + b"}")


def has_identity(record: TrafficRecord) -> bool:
    """Return whether the record says which process it is."""
    return "process" in record and "pid" in record["process"]


def leave_identity(process: ProcessInfo) -> Document:
    """Return what `process` says beside its identity."""
    return {key: value for key, value in process.items() if key not in IDENTITY_KEYS}


def continue_with(document: Document) -> bytes:
    """Return what stands between the braces, after a comma."""
    return b"," + orjson.dumps(document)[1:-1] if document else b""


def flatten(document: Mapping[str, object], prefix: str = "") -> Document:
    """Return `document` in one level: `{"a": {"b": 1}}` is `{"a.b": 1}`; lists stay as they are."""
    flat: Document = {}
    _flatten_into(flat, document, prefix)
    return flat


def _flatten_into(flat: Document, document: Mapping[str, object], prefix: str) -> None:
    for key, value in document.items():
        if isinstance(value, dict):
            _flatten_into(flat, value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value


def describe_path(record: TrafficRecord) -> Document:
    """Return what `network` says beside its numbers."""
    return {key: part for key, part in record["network"].items() if key not in {"flows", "io"}}
