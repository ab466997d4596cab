"""PURE: the attributes of a record in OpenTelemetry.

Attributes of the process belong to the resource, attributes of the flow to the data point. Names
are those of the semantic conventions (https://opentelemetry.io/docs/specs/semconv/resource/process/
and /docs/specs/semconv/registry/attributes/network/); `process.name`, `process.parent.name`,
`process.parent.command`, `systemd.unit`, `kernel.name`, `network.peer.network`,
`network.peer.domain`, `network.peer.domain_quality` and `hogpipe.remainder` have none there.
"""

from collections.abc import Iterator, Mapping

from hogpipe import TrafficRecord

Value = str | int | bool | tuple[str, ...]
Attributes = Iterator[tuple[str, Value]]
KeyPath = tuple[str, ...]
"""The keys that lead to a value in a record."""

_RESOURCE: dict[str, KeyPath] = {
    "host.name": ("host", "name"),
    "process.pid": ("process", "pid"),
    "process.name": ("process", "name"),
    "process.parent_pid": ("process", "parent_pid"),
    "process.parent.name": ("process", "parent", "name"),
    "process.parent.command": ("process", "parent", "command"),
    "process.creation.time": ("process", "creation", "time"),
    "process.executable.name": ("process", "executable", "name"),
    "process.executable.path": ("process", "executable", "path"),
    "process.command": ("process", "command"),
    "process.command_args": ("process", "command_args"),
    # By the conventions `process.user.id` is the effective user; records have the real one.
    "process.real_user.id": ("process", "user", "id"),
    "process.owner": ("process", "owner"),
    "process.linux.cgroup": ("process", "linux", "cgroup"),
    "systemd.unit": ("systemd", "unit"),
    "container.id": ("container", "id"),
    "container.name": ("container", "name"),
    "container.image.name": ("container", "image", "name"),
    "container.runtime": ("container", "runtime"),
    "k8s.pod.uid": ("k8s", "pod", "uid"),
    "k8s.pod.name": ("k8s", "pod", "name"),
    "k8s.namespace.name": ("k8s", "namespace", "name"),
    "k8s.container.name": ("k8s", "container", "name"),
    "kernel.name": ("kernel", "name"),
}
_FLOW: dict[str, KeyPath] = {
    "server.port": ("server", "port"),
    "network.transport": ("network", "transport"),
    "network.type": ("network", "type"),
    "network.interface.name": ("network", "interface", "name"),
    "network.local.address": ("network", "local", "address"),
    "network.local.port": ("network", "local", "port"),
    "network.peer.address": ("network", "peer", "address"),
    "network.peer.port": ("network", "peer", "port"),
    "network.peer.network": ("network", "peer", "network"),
    "network.peer.domain": ("network", "peer", "domain"),
    "network.peer.domain_quality": ("network", "peer", "domain_quality"),
    "hogpipe.remainder": ("remainder",),
}


def resource_of(record: TrafficRecord) -> Attributes:
    """Yield the attributes of the resource: the process or what is known of it."""
    return _pick(record, _RESOURCE)


def flow_of(record: TrafficRecord) -> Attributes:
    """Yield the attributes of the flow, without the direction."""
    return _pick(record, _FLOW)


def _pick(record: object, key_paths: Mapping[str, KeyPath]) -> Attributes:
    for name, key_path in key_paths.items():
        found = record
        for key in key_path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, (str, int)):
            yield name, found
        elif isinstance(found, list):
            yield name, tuple(found)
