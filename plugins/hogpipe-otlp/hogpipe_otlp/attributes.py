"""PURE: what a record tells, as OpenTelemetry's attributes.

What tells processes apart belongs to the resource, what tells flows apart to the data point. Names
are those of the semantic conventions (https://opentelemetry.io/docs/specs/semconv/resource/process/
and /docs/specs/semconv/registry/attributes/network/); `systemd.unit` and `hogpipe.remainder` have
none there.
"""

from collections.abc import Iterator, Mapping

from hogpipe import TrafficRecord

Value = str | int | bool | tuple[str, ...]
Attributes = Iterator[tuple[str, Value]]
Place = tuple[str, ...]
"""The keys that lead to a value in a record."""

_RESOURCE: dict[str, Place] = {
    "host.name": ("host", "name"),
    "process.pid": ("process", "pid"),
    "process.parent_pid": ("process", "parent_pid"),
    "process.creation.time": ("process", "creation", "time"),
    "process.executable.name": ("process", "executable", "name"),
    "process.executable.path": ("process", "executable", "path"),
    "process.command": ("process", "command"),
    "process.command_args": ("process", "command_args"),
    # By the conventions `process.user.id` is the effective user; records tell the real one.
    "process.real_user.id": ("process", "user", "id"),
    "process.owner": ("process", "owner"),
    "process.linux.cgroup": ("process", "linux", "cgroup"),
    "systemd.unit": ("systemd", "unit"),
    "container.id": ("container", "id"),
    "k8s.pod.uid": ("k8s", "pod", "uid"),
}
_FLOW: dict[str, Place] = {
    "network.transport": ("network", "transport"),
    "network.type": ("network", "type"),
    "network.interface.name": ("network", "interface", "name"),
    "network.local.address": ("network", "local", "address"),
    "network.local.port": ("network", "local", "port"),
    "network.peer.address": ("network", "peer", "address"),
    "network.peer.port": ("network", "peer", "port"),
    "hogpipe.remainder": ("remainder",),
}


def resource_of(record: TrafficRecord) -> Attributes:
    """Tell whose traffic it is."""
    return _pick(record, _RESOURCE)


def flow_of(record: TrafficRecord) -> Attributes:
    """Tell what else its group is known by, but for the direction."""
    return _pick(record, _FLOW)


def _pick(record: object, places: Mapping[str, Place]) -> Attributes:
    for name, place in places.items():
        found = record
        for key in place:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, (str, int)):
            yield name, found
        elif isinstance(found, list):
            yield name, tuple(found)
