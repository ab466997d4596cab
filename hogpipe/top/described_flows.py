"""PURE: what identifies a connection on the screen: its owner, and its path through the network.

In: traffic records (record.md), or live flows with their attributions. Out: frozen values that are
keys of the tables of `top`. Text is as it was recorded, and not yet printable; addresses stay bytes
until they are visible.

`coarsen_path` and `coarsen_owner` drop what only one of many short-lived connections or processes
has. A full table merges idle connections under the result, so that their totals remain.
"""

from ipaddress import IPv6Address, ip_address

import msgspec

from hogpipe.model import Attribution, FlowKey, User, is_sum
from hogpipe.protocols import WITH_PORTS
from hogpipe.records.schema import TrafficBody

_IPV4_LENGTH = 4
_SHORT_ID = 12


class Owner(msgspec.Struct, frozen=True):
    """Who the bytes belong to; all fields are empty if nothing is known."""

    pid: int = 0
    """0 if the process is unknown, or the sum of several."""
    created: str | int | None = None
    """The start of the process, in the unit of the source: it separates processes with one pid."""
    program: str = ""
    command: str = ""
    executable: str = ""
    user: str = ""
    """The name of the user, else the number."""
    cgroup: str = ""
    unit: str = ""
    container: str = ""
    pod: str = ""
    parent: str = ""
    """The command of the parent."""
    container_name: str = ""
    """The name of the container; its id, shortened, if that is unknown."""
    pod_name: str = ""
    """The name of the pod; its uid if that is unknown."""
    kernel: str = ""
    """The part of the kernel that sends, where no process does."""
    is_remainder: bool = False
    """Whether it stands for all that was not recorded separately."""


class Path(msgspec.Struct, frozen=True, gc=False):
    """Where the bytes went; fields are empty if unknown or if they differ between what it sums."""

    transport: str = ""
    network_type: str = ""
    interface: str = ""
    local_address: bytes = b""
    local_port: int = 0
    remote_address: bytes = b""
    remote_port: int = 0
    service_port: int = 0
    """The port of the side that serves."""
    network: str = ""
    """The named network of the remote address."""
    domain: str = ""
    """The name of the peer."""


NO_OWNER = Owner()
REMAINDER = Owner(is_remainder=True)
NO_PATH = Path()


def describe_owner(attribution: Attribution) -> Owner:
    """Return the owner that a live flow is attributed to."""
    process = attribution.process
    if attribution.kernel is not None:
        return Owner(kernel=attribution.kernel)
    if process is None:
        return Owner(user=_name_user(attribution.user)) if attribution.user else NO_OWNER
    names = process.container_names
    user = User(process.user_id, process.user_name) if process.user_id is not None else None
    return Owner(
        process.pid,
        process.start,
        process.name,
        process.command or "",
        process.executable or "",
        _name_user(user),
        process.cgroup or "",
        process.unit or "",
        process.container or "",
        process.pod or "",
        process.parent.command if process.parent else "",
        (names and names.name) or (process.container or "")[:_SHORT_ID],
        (names and names.pod_name) or process.pod or "",
    )


def _name_user(user: User | None) -> str:
    return "" if user is None else user.name or str(user.id)


def describe_path(
    flow: FlowKey, transport: str, service_port: int, network: str, domain: str
) -> Path:
    """Return the path of a live flow; `transport` is the name of its protocol."""
    if is_sum(flow):
        return Path(transport, _name_type(flow.local_address), flow.interface)
    ports = flow.protocol in WITH_PORTS
    local, remote = (flow.local_port, flow.remote_port) if ports else (0, 0)
    return Path(
        transport,
        _name_type(flow.local_address),
        flow.interface,
        flow.local_address,
        local,
        flow.remote_address,
        remote,
        service_port,
        network,
        domain,
    )


def _name_type(address: bytes) -> str:
    if not address:
        return ""
    return "ipv4" if len(address) == _IPV4_LENGTH else "ipv6"


def _guess_service_port(local: int, remote: int) -> int:
    """Return the port of the service where a record does not name it: the lower one."""
    return min(local, remote) if local and remote else local or remote


def parse_owner(body: TrafficBody) -> Owner:
    """Return the owner of a traffic record. Raises TypeError or KeyError if it is none."""
    if "remainder" in body:
        return REMAINDER
    process = body.get("process", {})
    creation, executable = process.get("creation"), process.get("executable")
    user = process["user"]["id"] if "user" in process else ""
    return Owner(
        process.get("pid", 0),
        creation["time"] if creation else None,
        process.get("name", ""),
        process.get("command", ""),
        executable["path"] if executable else "",
        str(process.get("owner", user)),
        process["linux"]["cgroup"] if "linux" in process else "",
        body["systemd"]["unit"] if "systemd" in body else "",
        body["container"]["id"] if "container" in body else "",
        body["k8s"]["pod"]["uid"] if "k8s" in body else "",
        process["parent"]["command"] if "parent" in process else "",
        body["container"].get("name", body["container"]["id"][:_SHORT_ID])
        if "container" in body
        else "",
        body["k8s"]["pod"].get("name", body["k8s"]["pod"]["uid"]) if "k8s" in body else "",
        body["kernel"]["name"] if "kernel" in body else "",
    )


def parse_path(body: TrafficBody) -> Path:
    """Return the path of a traffic record. Raises ValueError if an address is none."""
    network = body["network"]
    local, peer = network.get("local", {}), network.get("peer", {})
    local_port, remote_port = local.get("port", 0), peer.get("port", 0)
    server = body["server"]["port"] if "server" in body else 0
    return Path(
        network.get("transport", ""),
        network.get("type", ""),
        network["interface"]["name"] if "interface" in network else "",
        ip_address(local["address"]).packed if "address" in local else b"",
        local_port,
        ip_address(peer["address"]).packed if "address" in peer else b"",
        remote_port,
        server or _guess_service_port(local_port, remote_port),
        peer.get("network", ""),
        peer.get("domain", ""),
    )


def coarsen_path(path: Path) -> Path:
    """Return `path` without its ends' own ports and its local address."""
    return msgspec.structs.replace(path, local_address=b"", local_port=0, remote_port=0)


def coarsen_owner(owner: Owner) -> Owner:
    """Return `owner` without what only one process of a program has."""
    return msgspec.structs.replace(owner, pid=0, created=None)


def format_address(address: bytes) -> str:
    """Return the text of an address, empty if there is none."""
    if len(address) == _IPV4_LENGTH:
        return ".".join(map(str, address))
    return str(IPv6Address(address)) if address else ""


def format_endpoint(address: bytes, port: int) -> str:
    """Return the text of an address with its port, if it has one."""
    text = format_address(address)
    if not port:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
