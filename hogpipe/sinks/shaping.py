"""PURE: records in another shape than their own: here, in one level with dotted keys.

A shape takes a traffic record in two parts, as what is said of the owner is the same window after
window and need be shaped only once. The rest is made for every record, so it is written out key by
key: that is several times faster than to walk through it.
"""

from collections.abc import Mapping
from typing import Protocol

from hogpipe.record import StatsRecord, TrafficRecord

Document = dict[str, object]
"""What becomes one JSON document."""

OWNER_KEYS = ("process", "systemd", "container", "k8s")
"""What a traffic record says of the owner."""


class Shape(Protocol):
    """Makes documents of records, which stay as they are."""

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return the document without what is said of the owner."""

    def shape_owner(self, record: TrafficRecord) -> tuple[Document, Document]:
        """Return what is said of the owner: beside the rest, and inside its last object."""


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

    def shape_owner(self, record: TrafficRecord) -> tuple[Document, Document]:
        """Return what is said of the owner, beside the rest."""
        return flatten({key: record.get(key) for key in OWNER_KEYS if key in record}), {}


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
