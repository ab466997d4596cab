"""PURE: records in another shape than their own; here in one level, with dots in the keys.

In: records. Out: documents (dicts), and the JSON of their owner.

A shape handles a traffic record in three parts, which change at different rates:

    rest      the window and its numbers: every record
    identity  pid, parent and creation time: every process
    owner     all else: every program of a service

Only the rest is shaped for every record. It is written out key by key, which is several times
faster than a generic walk.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import orjson

from hogpipe.records.schema import IoInfo, ProcessInfo, StatsRecord, TrafficRecord

Document = dict[str, object]
"""The content of one JSON document."""

OWNER_KEYS = ("process", "systemd", "container", "k8s", "kernel")
"""The keys of a traffic record that describe the owner."""

IDENTITY_KEYS = ("pid", "parent_pid", "creation")
"""The keys of `process` that identify the process, if it has a pid."""


class OwnerText(NamedTuple):
    """The owner as JSON text, in place of the last braces of a document."""

    before: bytes
    after: bytes
    """The text after the identity, if the process has a pid."""


class Shape(Protocol):
    """Makes documents of records, and does not change the records."""

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return the document without the owner."""

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return the identity of a process with a pid; never empty."""

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return the owner as text, around the identity."""


class FlatShape:
    """The record in one level."""

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""
        return flatten(record)

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return what `flatten` returns, without the owner."""
        window, network = record["window"], record["network"]
        transmit, receive = network["io"]["transmit"], network["io"]["receive"]
        flat: Document = {
            "type": record["type"],
            "schema": record["schema"],
            "timestamp": record["timestamp"],
            "window.start": window["start"],
            "window.end": window["end"],
            "window.start_unix": window["start_unix"],
            "window.end_unix": window["end_unix"],
            "run": record["run"],
            "sequence": record["sequence"],
            "host.name": record["host"]["name"],
            "network.flows": network["flows"],
            "network.io.transmit.bytes": transmit["bytes"],
            "network.io.transmit.packets": transmit["packets"],
            "network.io.receive.bytes": receive["bytes"],
            "network.io.receive.packets": receive["packets"],
        }
        if "server" in record:
            flat["server.port"] = record["server"]["port"]
        if len(network) > 2:
            flat.update(flatten_payload(network["io"], "network.io."))
            flat.update(flatten(describe_path(record), "network."))
        for quality, count in record["attribution"].items():
            flat["attribution." + quality] = count
        if "remainder" in record:
            flat["remainder"] = True
        return flat

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return what `flatten` returns."""
        identity: Document = {"process.pid": process["pid"]}
        if "parent_pid" in process:
            identity["process.parent_pid"] = process["parent_pid"]
        if "creation" in process:
            identity["process.creation.time"] = process["creation"]["time"]
        return identity

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return what `flatten` returns."""
        owner: Document = {key: record.get(key) for key in OWNER_KEYS if key in record}
        if not has_identity(record):
            return OwnerText(encode_members(flatten(owner)) + b"}", b"")
        owner["process"] = without_identity(record["process"])
        return OwnerText(b",", encode_members(flatten(owner)) + b"}")


def has_identity(record: TrafficRecord) -> bool:
    """Return whether the record identifies a process."""
    return "process" in record and "pid" in record["process"]


def without_identity(process: ProcessInfo) -> Document:
    """Return `process` without its identity."""
    return {key: value for key, value in process.items() if key not in IDENTITY_KEYS}


def encode_members(document: Document) -> bytes:
    """Return the members of a JSON object without its braces, each after a comma."""
    return b"," + orjson.dumps(document)[1:-1] if document else b""


def flatten(document: Mapping[str, object], prefix: str = "") -> Document:
    """Return `document` in one level: `{"a": {"b": 1}}` is `{"a.b": 1}`; lists stay as they are."""
    flat: Document = {}
    _flatten_into(flat, document, prefix)
    return flat


def flatten_payload(io: IoInfo, prefix: str) -> Document:
    """Return the payload of both directions in one level, where it is known."""
    directions = (("transmit", io["transmit"]), ("receive", io["receive"]))
    return {
        f"{prefix}{name}.payload_bytes": moved["payload_bytes"]
        for name, moved in directions
        if "payload_bytes" in moved
    }


def _flatten_into(flat: Document, document: Mapping[str, object], prefix: str) -> None:
    for key, value in document.items():
        if isinstance(value, dict):
            _flatten_into(flat, value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value


def describe_path(record: TrafficRecord) -> Document:
    """Return `network` without the counters that each record has."""
    return {key: part for key, part in record["network"].items() if key not in {"flows", "io"}}
