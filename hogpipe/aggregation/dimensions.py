"""PURE: dimensions, by which traffic falls into groups, and how a record words each of them.

A group's key holds identities, not descriptions: a process is its (pid, start), whatever else
becomes known of it; a group is described by what was known first.
"""

from collections.abc import Callable, Collection, Hashable
from ipaddress import ip_address
from typing import TypedDict

from hogpipe.model import Attribution, FlowKey, Process
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, WITH_PORTS
from hogpipe.records.schema import (
    EndpointInfo,
    Identified,
    KubernetesInfo,
    Named,
    ProcessInfo,
    SystemdInfo,
)
from hogpipe.records.stamp import format_time

# IANA protocol numbers; others are told by their number.
_TRANSPORTS = {
    ICMP: "icmp",
    TCP: "tcp",
    UDP: "udp",
    ICMPV6: "icmpv6",
    SCTP: "sctp",
    UDPLITE: "udplite",
}
_NETWORK_TYPES = {4: "ipv4", 16: "ipv6"}


class OwnerInfo(TypedDict, total=False):
    """What a traffic record says of the owner, as far as it was asked for and is known."""

    process: ProcessInfo
    systemd: SystemdInfo
    container: Identified
    k8s: KubernetesInfo


class PathInfo(TypedDict, total=False):
    """What a traffic record's `network` says beside numbers, as far as it was asked for."""

    transport: str
    type: str
    interface: Named
    local: EndpointInfo
    peer: EndpointInfo


class Grouping:
    """The dimensions that were asked for; see `Dimension` in config/settings.py for the names."""

    def __init__(self, dimensions: Collection[str]) -> None:
        asked = frozenset(dimensions)
        # A process has one user, cgroup and container, and is described with all of them.
        self._owner = frozenset({"process"}) if "process" in asked else asked & _OWNER_KEYS.keys()
        self._path = asked - _OWNER_KEYS.keys()
        self._owner_keys = [_OWNER_KEYS[name] for name in self._owner]
        self._path_keys = [_PATH_KEYS[name] for name in self._path]

    def make_key(self, flow: FlowKey, attribution: Attribution) -> Hashable:
        """Return what the group of such a flow is known by."""
        owner = [key(attribution) for key in self._owner_keys]
        return (*owner, *[key(flow) for key in self._path_keys])

    def describe_owner(self, attribution: Attribution) -> OwnerInfo:
        """Return the owner's part of the record."""
        process, user = attribution.process, attribution.user
        info: OwnerInfo = {}
        if process is None:
            if user is not None and self._owner & {"process", "user"}:
                info["process"] = _describe_user(user.id, user.name)
            return info
        if described := self._describe_process(process):
            info["process"] = described
        if process.unit is not None and self._owner & {"process", "cgroup"}:
            info["systemd"] = {"unit": process.unit}
        if process.container is not None and self._owner & {"process", "container"}:
            info["container"] = {"id": process.container}
        if process.pod is not None and self._owner & {"process", "container"}:
            info["k8s"] = {"pod": {"uid": process.pod}}
        return info

    def describe_path(self, flow: FlowKey) -> PathInfo:
        """Return the network part of the record, numbers aside."""
        info: PathInfo = {}
        by_flow = "flow" in self._path
        if (by_flow or "transport" in self._path) and flow.local_address:
            info["transport"] = _name_transport(flow)
        if (by_flow or "network_type" in self._path) and flow.local_address:
            info["type"] = _NETWORK_TYPES[len(flow.local_address)]
        if "interface" in self._path and flow.interface:
            info["interface"] = {"name": flow.interface}
        if by_flow and flow.local_address:
            local_port, peer_port = _get_ports(flow)
            info["local"] = _describe_endpoint(flow.local_address, local_port)
            info["peer"] = _describe_endpoint(flow.remote_address, peer_port)
        elif "remote" in self._path and flow.remote_address:
            info["peer"] = _describe_endpoint(flow.remote_address, 0)
        return info

    def _describe_process(self, process: Process) -> ProcessInfo:
        if "process" in self._owner:
            return _describe_whole(process)
        info: ProcessInfo = {}
        if "user" in self._owner:
            info = _describe_user(process.user_id, process.owner)
        if "cgroup" in self._owner and process.cgroup is not None:
            info["linux"] = {"cgroup": process.cgroup}
        return info


def _describe_whole(process: Process) -> ProcessInfo:
    """Return all that is known of `process`, in the record's order."""
    info: ProcessInfo = {"pid": process.pid}
    if process.parent_pid is not None:
        info["parent_pid"] = process.parent_pid
    if process.created_ns is not None:
        info["creation"] = {"time": format_time(process.created_ns)}
    if process.executable is not None:
        name = process.executable.rpartition("/")[2]
        info["executable"] = {"name": name, "path": process.executable}
    if process.command is not None:
        info["command"] = process.command
    if process.command_line is not None:
        info["command_args"] = list(process.command_line)
    info.update(_describe_user(process.user_id, process.owner))
    if process.cgroup is not None:
        info["linux"] = {"cgroup": process.cgroup}
    return info


def _describe_user(number: int | None, name: str | None) -> ProcessInfo:
    info: ProcessInfo = {}
    if number is not None:
        info["user"] = {"id": number}
    if name is not None:
        info["owner"] = name
    return info


def _describe_endpoint(address: bytes, port: int) -> EndpointInfo:
    text = str(ip_address(address))
    return {"address": text, "port": port} if port else {"address": text}


def _name_transport(flow: FlowKey) -> str:
    return _TRANSPORTS.get(flow.protocol) or str(flow.protocol)


def _get_ports(flow: FlowKey) -> tuple[int, int]:
    """Return local and remote port, 0 where there is none (an ICMP identifier is no port)."""
    if flow.protocol in WITH_PORTS:
        return flow.local_port, flow.remote_port
    return 0, 0


def _identify_process(attribution: Attribution) -> Hashable:
    process = attribution.process
    if process is None:
        return _identify_user(attribution)
    return process.pid, process.start


def _identify_user(attribution: Attribution) -> Hashable:
    process = attribution.process
    if process is not None:
        return process.user_id
    return attribution.user and attribution.user.id


def _identify_cgroup(attribution: Attribution) -> Hashable:
    process = attribution.process
    return (None, None) if process is None else (process.cgroup, process.unit)


def _identify_container(attribution: Attribution) -> Hashable:
    process = attribution.process
    return (None, None) if process is None else (process.container, process.pod)


def _identify_flow(flow: FlowKey) -> Hashable:
    return flow.protocol, flow.local_address, flow.remote_address, *_get_ports(flow)


_OWNER_KEYS: dict[str, Callable[[Attribution], Hashable]] = {
    "process": _identify_process,
    "user": _identify_user,
    "cgroup": _identify_cgroup,
    "container": _identify_container,
}
_PATH_KEYS: dict[str, Callable[[FlowKey], Hashable]] = {
    "transport": lambda flow: flow.protocol,
    "network_type": lambda flow: len(flow.local_address),
    "interface": lambda flow: flow.interface,
    "remote": lambda flow: flow.remote_address,
    "flow": _identify_flow,
}
