"""PURE: the labels of a record.

A label without a value is empty, which Prometheus treats as absent. Values are hostile: they are
truncated, and characters that are not printable are replaced.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from hogpipe import TrafficRecord, replace_unprintable

LabelName = Literal[
    "program", "parent", "unit", "container", "container_name", "pod", "pod_name", "namespace",
    "user", "interface", "transport", "port", "network",
]  # fmt: skip
Labels = tuple[str, ...]
"""A value for each configured name, in order."""

OTHER = "other"
"""The value of every label of traffic without series of its own."""
LONGEST = 128
"""The most characters of a value; a file's name has up to 255."""


class Labelling:
    """Returns the labels of records."""

    def __init__(self, names: Sequence[LabelName]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.other: Labels = (OTHER,) * len(self.names)
        self._readers = [_READERS[name] for name in names]

    def of(self, record: TrafficRecord) -> Labels:
        """Return the labels of `record`; `other` for the remainder."""
        if "remainder" in record:
            return self.other
        return tuple(replace_unprintable(read(record), LONGEST) for read in self._readers)


def _program(record: TrafficRecord) -> str:
    """Return the name of the program, of the kernel's own traffic with what it is of."""
    if "kernel" in record:
        return f"kernel:{record['kernel']['name']}"
    return record.get("process", {}).get("name", "")


def _parent(record: TrafficRecord) -> str:
    """Return the command of the parent: of a script, its own name."""
    parent = record.get("process", {}).get("parent")
    return parent["command"] if parent else ""


def _unit(record: TrafficRecord) -> str:
    return record["systemd"]["unit"] if "systemd" in record else ""


def _container(record: TrafficRecord) -> str:
    return record["container"]["id"] if "container" in record else ""


def _pod(record: TrafficRecord) -> str:
    return record["k8s"]["pod"]["uid"] if "k8s" in record else ""


def _container_name(record: TrafficRecord) -> str:
    """Return the name of the container; the id of one whose name is unknown."""
    return record["container"].get("name") or _container(record) if "container" in record else ""


def _pod_name(record: TrafficRecord) -> str:
    """Return the name of the pod; the uid of one whose name is unknown."""
    return record["k8s"]["pod"].get("name") or _pod(record) if "k8s" in record else ""


def _namespace(record: TrafficRecord) -> str:
    k8s = record.get("k8s")
    return k8s["namespace"]["name"] if k8s and "namespace" in k8s else ""


def _user(record: TrafficRecord) -> str:
    """Return the name of the user, or the number of a user without one."""
    process = record.get("process", {})
    if "owner" in process:
        return process["owner"]
    return str(process["user"]["id"]) if "user" in process else ""


def _interface(record: TrafficRecord) -> str:
    network = record["network"]
    return network["interface"]["name"] if "interface" in network else ""


def _transport(record: TrafficRecord) -> str:
    return record["network"].get("transport", "")


def _port(record: TrafficRecord) -> str:
    return str(record["server"]["port"]) if "server" in record else ""


def _network(record: TrafficRecord) -> str:
    return record["network"].get("peer", {}).get("network", "")


_READERS: dict[LabelName, Callable[[TrafficRecord], str]] = {
    "program": _program,
    "parent": _parent,
    "unit": _unit,
    "container": _container,
    "container_name": _container_name,
    "pod": _pod,
    "pod_name": _pod_name,
    "namespace": _namespace,
    "user": _user,
    "interface": _interface,
    "transport": _transport,
    "port": _port,
    "network": _network,
}
