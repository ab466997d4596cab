"""PURE: the dimensions of `group_by`, in one table, and the groups that traffic falls into.

In: names of dimensions. Out: what keeps groups apart, which is the key of an owner and the fields
of flows that differ (path_keys.py makes keys of their columns); and the parts of a group's record
that describe its owner, its service and its path.

Keys and descriptions
    A key holds identities, not descriptions: a process is its (pid, start), its program, which exec
    changes, and its control group, to which it may be moved. Whatever else becomes known of it
    later, a group is described by what was known first.

The `ebpf` source
    The kernel's rows are summed before they reach the aggregator (capture/ebpf/row_aggregation.py).
    That sum keeps apart what the dimensions keep apart, by the same fields. A row has no interface
    (`_NOT_IN_ROWS`), which the checks of the configuration report.

Adding a dimension
    Its name goes into `DimensionName` and its entry into `DIMENSIONS`. The settings, the checks,
    the aggregator and the `ebpf` source follow. tests/aggregation/test_dimensions.py compares both
    sources and the documentation with the table.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from ipaddress import ip_address
from typing import Literal, TypedDict, cast

import msgspec

from hogpipe.model import Ancestor, Attribution, ContainerNames, FlowKey, Process, is_sum
from hogpipe.model.networks import NO_NETWORK
from hogpipe.model.peer_names import PeerName
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, WITH_PORTS
from hogpipe.records.schema import (
    AncestorInfo,
    ContainerInfo,
    EndpointInfo,
    InterfaceInfo,
    KernelInfo,
    KubernetesInfo,
    PeerInfo,
    PodInfo,
    ProcessInfo,
    ServerInfo,
    SystemdInfo,
)
from hogpipe.records.stamp import format_time

DimensionName = Literal[
    "process", "program", "parent", "user", "cgroup", "unit", "container", "pod", "transport",
    "network_type", "interface", "port", "network", "remote", "domain", "flow",
]  # fmt: skip

EndpointField = Literal[
    "local_address", "remote_address", "local_port", "remote_port", "protocol", "family"
]
"""A field of the endpoints of an `ebpf` row (ENDPOINTS of linux/bpf/shapes.py), and of a flow."""

RowField = EndpointField | Literal["service_port", "network", "domain"]
"""What keeps `ebpf` rows apart: a field, the port of the service, the named network of the remote
address (capture/ebpf/row_properties.py), or the name of the peer (capture/ebpf/row_names.py)."""

FlowField = RowField | Literal["interface"]
"""What keeps flows apart."""

_NOT_IN_ROWS = "the kernel counts at sockets, which have no interface"

# A protocol without a name here is described by its number.
_TRANSPORTS = {
    ICMP: "icmp",
    TCP: "tcp",
    UDP: "udp",
    ICMPV6: "icmpv6",
    SCTP: "sctp",
    UDPLITE: "udplite",
}
_NAMELESS = ContainerNames()
_NETWORK_TYPES = {4: "ipv4", 16: "ipv6"}


class OwnerInfo(TypedDict, total=False):
    """The owner's part of a traffic record; keys are absent if unknown or not grouped by."""

    process: ProcessInfo
    systemd: SystemdInfo
    container: ContainerInfo
    k8s: KubernetesInfo
    kernel: KernelInfo


class PathInfo(TypedDict, total=False):
    """The part of a record's `network` beside the counters, in this order; absent as above."""

    transport: str
    type: str
    interface: InterfaceInfo
    local: EndpointInfo
    peer: PeerInfo


class OwnerDimension(msgspec.Struct, frozen=True, kw_only=True):
    """A property of the process or user. `ebpf` rows of different owners are never summed up."""

    name: DimensionName
    key: Callable[[Attribution], Hashable]
    describe: Callable[[Attribution, OwnerInfo], None]
    """Adds what is known to the owner's part of a record."""


class FlowDimension(msgspec.Struct, frozen=True, kw_only=True):
    """A property of the flow."""

    name: DimensionName
    fields: tuple[FlowField, ...]
    """The fields that differ between flows of different groups."""
    describe: Callable[[FlowKey, PathInfo], None]
    """Adds the property to the `network` of a record."""


class DerivedDimension(msgspec.Struct, frozen=True, kw_only=True):
    """A property that follows from the flow and from what is known beside it.

    The port of the service follows from this host's ports, the named network from `[networks]`, and
    the name of the peer from answers of DNS before the flow began (enrichment/flow_names.py).
    """

    name: DimensionName
    fields: tuple[FlowField, ...]


Dimension = OwnerDimension | FlowDimension | DerivedDimension


class Grouping:
    """The groups that the dimensions of `group_by` make."""

    def __init__(self, group_by: Collection[str]) -> None:
        chosen = {name: DIMENSIONS[name] for name in group_by}
        asked = [dimension for dimension in _ALL if dimension.name in chosen]
        owner = [dimension for dimension in asked if isinstance(dimension, OwnerDimension)]
        # A process has one user, cgroup and container, and its description includes them.
        self._owner = [_PROCESS] if _PROCESS in owner else owner
        self._flow = [dimension for dimension in asked if isinstance(dimension, FlowDimension)]
        self.has_owner = bool(owner)
        """Whether groups differ by process or user."""
        self.has_service_port = _PORT in asked
        """Whether groups differ by the port of the service."""
        self.has_network = _NETWORK in asked
        """Whether groups differ by the named network of the remote address."""
        self.has_domain = _DOMAIN in asked
        """Whether groups differ by the name of the peer, and by how it is known."""
        self.fields = frozenset(
            field
            for dimension in asked
            if not isinstance(dimension, OwnerDimension)
            for field in dimension.fields
        )
        """The fields by which groups differ."""

    def make_owner_key(self, attribution: Attribution) -> Hashable:
        """Return what the groups of this owner have in common."""
        return tuple([dimension.key(attribution) for dimension in self._owner])

    def describe_owner(self, attribution: Attribution) -> OwnerInfo:
        """Return the owner's part of the group's record."""
        info: OwnerInfo = {}
        for dimension in self._owner:
            dimension.describe(attribution, info)
        return info

    def describe_server(self, port: int) -> ServerInfo | None:
        """Return the group's `server`; None if no port is known, or it is not grouped by."""
        return {"port": port} if port and self.has_service_port else None

    def describe_path(
        self, flow: FlowKey, network: str = NO_NETWORK, peer: PeerName | None = None
    ) -> PathInfo:
        """Return the group's part of `network`, counters aside.

        `network` is the named network of the remote address, `peer` the name of the peer.
        """
        info: PathInfo = {}
        for dimension in self._flow:
            dimension.describe(flow, info)
        if network and self.has_network:
            info["peer"] = {**info.get("peer", {}), "network": network}
        if peer is not None and self.has_domain:
            info["peer"] = {
                **info.get("peer", {}),
                "domain": peer.domain,
                "domain_quality": peer.quality.value,
            }
        if len(info) < 2:
            return info
        return cast("PathInfo", {key: info[key] for key in _PATH_KEYS if key in info})


def list_row_fields(group_by: Iterable[str]) -> list[RowField]:
    """Return that by which `ebpf` rows have to be kept apart.

    Raises ValueError with the reason if the `ebpf` source has no data for one of the dimensions.
    """
    fields: list[RowField] = []
    for name in group_by:
        dimension = DIMENSIONS[name]
        for field in () if isinstance(dimension, OwnerDimension) else dimension.fields:
            if field == "interface":
                raise ValueError(
                    f'"{name}" cannot be grouped by with source "ebpf": {_NOT_IN_ROWS}'
                )
            fields.append(field)
    return fields


def _identify_process(attribution: Attribution) -> Hashable:
    process = attribution.process
    if process is None:
        return attribution.kernel or _identify_user(attribution)
    return process.pid, process.start, process.name, process.executable, process.cgroup


def _describe_process(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None:
        info["process"] = _describe_identity(process)
    _describe_kernel(attribution, info)
    _describe_user(attribution, info)
    _describe_cgroup(attribution, info)
    _describe_container(attribution, info)


def _identify_program(attribution: Attribution) -> Hashable:
    process = attribution.process
    return (None, attribution.kernel) if process is None else process.name


def _describe_program(attribution: Attribution, info: OwnerInfo) -> None:
    if attribution.process is not None:
        info.setdefault("process", {})["name"] = attribution.process.name
    _describe_kernel(attribution, info)


def _describe_kernel(attribution: Attribution, info: OwnerInfo) -> None:
    if attribution.kernel is not None:
        info["kernel"] = {"name": attribution.kernel}


def _identify_parent(attribution: Attribution) -> Hashable:
    process = attribution.process
    return None if process is None else process.parent


def _describe_parent(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None and process.parent is not None:
        info.setdefault("process", {})["parent"] = _describe_ancestor(process.parent)


def _describe_ancestor(ancestor: Ancestor) -> AncestorInfo:
    info: AncestorInfo = {
        "pid": ancestor.pid,
        "name": ancestor.name,
        "command": ancestor.command,
    }
    if ancestor.executable is not None:
        name = ancestor.executable.rpartition("/")[2]
        info["executable"] = {"name": name, "path": ancestor.executable}
    return info


def _describe_identity(process: Process) -> ProcessInfo:
    """Return what only the dimension `process` describes, in the order of the record."""
    info: ProcessInfo = {"pid": process.pid, "name": process.name}
    if process.parent_pid is not None:
        info["parent_pid"] = process.parent_pid
    if process.parent is not None:
        info["parent"] = _describe_ancestor(process.parent)
    if len(process.ancestors) > 1:
        info["ancestors"] = [_describe_ancestor(one) for one in process.ancestors[1:]]
    if process.created_ns is not None:
        info["creation"] = {"time": format_time(process.created_ns)}
    if process.executable is not None:
        name = process.executable.rpartition("/")[2]
        info["executable"] = {"name": name, "path": process.executable}
    if process.command is not None:
        info["command"] = process.command
    if process.command_line is not None:
        info["command_args"] = list(process.command_line)
    return info


def _get_user(attribution: Attribution) -> tuple[int | None, str | None]:
    """Return the id and the name of the user."""
    if (process := attribution.process) is not None:
        return process.user_id, process.user_name
    if (user := attribution.user) is not None:
        return user.id, user.name
    return None, None


def _identify_user(attribution: Attribution) -> Hashable:
    user_id, _ = _get_user(attribution)
    return user_id


def _describe_user(attribution: Attribution, info: OwnerInfo) -> None:
    user_id, name = _get_user(attribution)
    if user_id is not None:
        info.setdefault("process", {})["user"] = {"id": user_id}
    if name is not None:
        info.setdefault("process", {})["owner"] = name


def _identify_cgroup(attribution: Attribution) -> Hashable:
    process = attribution.process
    return (None, None) if process is None else (process.cgroup, process.unit)


def _describe_cgroup(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None and process.cgroup is not None:
        info.setdefault("process", {})["linux"] = {"cgroup": process.cgroup}
    _describe_unit(attribution, info)


def _identify_unit(attribution: Attribution) -> Hashable:
    process = attribution.process
    return None if process is None else process.unit


def _describe_unit(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None and process.unit is not None:
        info["systemd"] = {"unit": process.unit}


def _identify_container(attribution: Attribution) -> Hashable:
    process = attribution.process
    return (None, None) if process is None else (process.container, process.pod)


def _describe_container(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None and process.container is not None:
        container: ContainerInfo = {"id": process.container}
        names = process.container_names or _NAMELESS
        if names.name is not None:
            container["name"] = names.name
        if names.image is not None:
            container["image"] = {"name": names.image}
        if names.runtime is not None:
            container["runtime"] = names.runtime
        info["container"] = container
    _describe_pod(attribution, info)
    if process is not None and "k8s" in info and process.container_names is not None:
        inner = process.container_names.pod_container
        if inner is not None:
            info["k8s"]["container"] = {"name": inner}


def _identify_pod(attribution: Attribution) -> Hashable:
    process = attribution.process
    return None if process is None else process.pod


def _describe_pod(attribution: Attribution, info: OwnerInfo) -> None:
    process = attribution.process
    if process is not None and process.pod is not None:
        names = process.container_names or _NAMELESS
        pod: PodInfo = {"uid": process.pod}
        if names.pod_name is not None:
            pod["name"] = names.pod_name
        info["k8s"] = {"pod": pod}
        if names.pod_namespace is not None:
            info["k8s"]["namespace"] = {"name": names.pod_namespace}


def name_transport(protocol: int) -> str:
    """Return the name of a protocol in records, its number where it has none."""
    return _TRANSPORTS.get(protocol) or str(protocol)


def parse_transport(name: str) -> int:
    """Return the number of a protocol by its name in records, 0 if it has none."""
    numbers = {known: number for number, known in _TRANSPORTS.items()}
    return numbers.get(name) or (int(name) if name.isdecimal() else 0)


def _describe_transport(flow: FlowKey, info: PathInfo) -> None:
    if flow.local_address:
        info["transport"] = name_transport(flow.protocol)


def _describe_network_type(flow: FlowKey, info: PathInfo) -> None:
    if flow.local_address:
        info["type"] = _NETWORK_TYPES[len(flow.local_address)]


def _describe_interface(flow: FlowKey, info: PathInfo) -> None:
    if flow.interface:
        info["interface"] = {"name": flow.interface}


def _describe_remote(flow: FlowKey, info: PathInfo) -> None:
    if not is_sum(flow):
        info["peer"] = _describe_endpoint(flow.remote_address, 0)


def _get_ports(flow: FlowKey) -> tuple[int, int]:
    """Return local and remote port, 0 where there is none (an ICMP identifier is no port)."""
    if flow.protocol in WITH_PORTS:
        return flow.local_port, flow.remote_port
    return 0, 0


def _describe_flow(flow: FlowKey, info: PathInfo) -> None:
    _describe_transport(flow, info)
    _describe_network_type(flow, info)
    if not is_sum(flow):
        local_port, remote_port = _get_ports(flow)
        info["local"] = _describe_endpoint(flow.local_address, local_port)
        info["peer"] = _describe_endpoint(flow.remote_address, remote_port)


def _describe_endpoint(address: bytes, port: int) -> PeerInfo:
    text = str(ip_address(address))
    return {"address": text, "port": port} if port else {"address": text}


_PROCESS = OwnerDimension(name="process", key=_identify_process, describe=_describe_process)
_PORT = DerivedDimension(name="port", fields=("service_port",))
_NETWORK = DerivedDimension(name="network", fields=("network",))
_DOMAIN = DerivedDimension(name="domain", fields=("domain",))
_PATH_KEYS: tuple[Literal["transport", "type", "interface", "local", "peer"], ...] = (
    "transport", "type", "interface", "local", "peer",
)  # fmt: skip
_ALL: tuple[Dimension, ...] = (
    _PROCESS,
    OwnerDimension(name="program", key=_identify_program, describe=_describe_program),
    OwnerDimension(name="parent", key=_identify_parent, describe=_describe_parent),
    OwnerDimension(name="user", key=_identify_user, describe=_describe_user),
    OwnerDimension(name="cgroup", key=_identify_cgroup, describe=_describe_cgroup),
    OwnerDimension(name="unit", key=_identify_unit, describe=_describe_unit),
    OwnerDimension(name="container", key=_identify_container, describe=_describe_container),
    OwnerDimension(name="pod", key=_identify_pod, describe=_describe_pod),
    FlowDimension(name="transport", fields=("protocol",), describe=_describe_transport),
    FlowDimension(name="network_type", fields=("family",), describe=_describe_network_type),
    FlowDimension(name="interface", fields=("interface",), describe=_describe_interface),
    _PORT,
    _NETWORK,
    FlowDimension(name="remote", fields=("remote_address",), describe=_describe_remote),
    _DOMAIN,
    FlowDimension(  # after "remote", whose peer has no port
        name="flow",
        fields=("protocol", "local_address", "remote_address", "local_port", "remote_port"),
        describe=_describe_flow,
    ),
)
DIMENSIONS: dict[str, Dimension] = {one.name: one for one in _ALL}
"""All dimensions by name. Their order is that of the documentation."""
