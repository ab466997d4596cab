"""Attaches the sets of programs in the BPF object, each with the maps that it uses.

- The ledger's programs run when a socket is created, bound, connected or released. Each of these
  becomes an event in a ring buffer.
- The traffic programs, for the `ebpf` source, record socket owners at the same hooks, without an
  event for each socket, and count every packet. Beside them, the payload programs count that of TCP
  connections, for measurements.
- The health programs, beside the ledger's, count the health of TCP connections.

Where the kernel permits it (Linux 6.10), the first two also have a program for interfaces, which
sees what is sent through packet sockets (`PacketHooks` attaches it).

Both report each process that uses a socket for the first time, in a ring buffer of its own.

Maps that only other sets use are not created. Failures raise BpfUnavailableError, with no
program left attached.
"""

from collections.abc import Mapping, Sequence

from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.loader import AttachedPrograms, attach_first
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.cgroups import CgroupTree

_LEDGER_PROGRAMS = (
    "ledger_create",
    "ledger_bind4",
    "ledger_bind6",
    "ledger_connect4",
    "ledger_connect6",
    "ledger_sendmsg4",
    "ledger_sendmsg6",
    "ledger_sockops",
)
# Reading the port at release takes a helper that the kernel's lockdown may forbid.
_RELEASE_CHOICES = ("ledger_release_with_port", "ledger_release")
_TRAFFIC_PROGRAMS = (
    "owner_create",
    "owner_bind4",
    "owner_bind6",
    "owner_connect4",
    "owner_connect6",
    "owner_sendmsg4",
    "owner_sendmsg6",
    "owner_sockops",
    "owner_release",
    "count_ingress",
    "count_egress",
)
_LEDGER_PACKETS, _TRAFFIC_PACKETS = "ledger_packet_socket", "count_packet_socket"
_PAYLOAD_PROGRAMS = ("payload_sockops", "payload_ingress", "payload_egress")
_HEALTH_PROGRAMS = ("health_sockops", "health_release", "health_egress")
_LEDGER_MAPS = ("ledger_sockets", "events", "packet_senders", "senders_recorded")
_FLOW_MAPS = ("connections", "connection_health", "other_flows", "row_index")
_OVERFLOW_MAPS = ("overflow_even", "overflow_odd")
_PAYLOAD_MAPS = ("payload_even", "payload_odd")
_TRAFFIC_MAPS = (
    *_FLOW_MAPS,
    *_OVERFLOW_MAPS,
    "traffic_sockets",
    "rows_used",
    "epoch",
    "barrier_content",
    "barrier",
)
_NOT_CREATED = 0


def attach_ledger_programs(*, ring_bytes: int = 1 << 22) -> AttachedPrograms:
    """Attach the ledger's programs. Raises BpfUnavailableError.

    If the kernel permits it, the program at release also reports the socket's port. Without that,
    a UDP socket that connected without a bind is never reported with its port.
    """
    unused = (*_TRAFFIC_MAPS, *_PAYLOAD_MAPS, "payload_sockets")
    max_entries = {"events": ring_bytes} | dict.fromkeys(unused, _NOT_CREATED)
    choices = [
        (*_LEDGER_PROGRAMS, release, *packets)
        for packets in ((_LEDGER_PACKETS,), ())
        for release in _RELEASE_CHOICES
    ]
    return _attach(choices, max_entries, _LEDGER_PACKETS)


def attach_traffic_programs(
    *, max_flows: int = 1 << 16, max_processes: int = 1 << 12, payload: bool = False
) -> AttachedPrograms:
    """Attach the traffic programs, with rows for `max_flows` connections and as many other flows.

    Traffic beyond that is counted by process, for up to `max_processes` of them. With `payload`,
    that of TCP is counted, too. Raises BpfUnavailableError.
    """
    max_entries = dict.fromkeys(_FLOW_MAPS, 2 * max_flows)  # there are two buffers
    max_entries |= dict.fromkeys(_OVERFLOW_MAPS, max_processes)
    max_entries |= dict.fromkeys(_LEDGER_MAPS, _NOT_CREATED)
    programs: Sequence[str] = _TRAFFIC_PROGRAMS
    if payload:
        programs = (*_PAYLOAD_PROGRAMS, *_TRAFFIC_PROGRAMS)
        max_entries |= dict.fromkeys(_PAYLOAD_MAPS, max_flows)
    else:
        max_entries |= dict.fromkeys((*_PAYLOAD_MAPS, "payload_sockets"), _NOT_CREATED)
    try:
        choices = [(*programs, _TRAFFIC_PACKETS), programs]
        return _attach(choices, max_entries, _TRAFFIC_PACKETS)
    except BpfUnavailableError as error:
        if error.obstacle is not Obstacle.LIMITS:
            raise
        text = f"{error}, or lower capture.max_flows ({max_flows})"
        raise BpfUnavailableError(error.obstacle, text) from error


def attach_health_programs(*, max_connections: int = 1 << 14) -> AttachedPrograms:
    """Attach the health programs, with rows for `max_connections` between two readings.

    Raises BpfUnavailableError.
    """
    unused = (
        *_LEDGER_MAPS,
        *_PAYLOAD_MAPS,
        *_OVERFLOW_MAPS,
        *("other_flows", "row_index", "payload_sockets", "new_processes", "process_events"),
    )
    max_entries = dict.fromkeys(unused, _NOT_CREATED)
    max_entries |= dict.fromkeys(("connections", "connection_health"), 2 * max_connections)
    tree = CgroupTree()
    try:
        return AttachedPrograms(object_path(), _HEALTH_PROGRAMS, tree.root, max_entries=max_entries)
    finally:
        tree.close()


def _attach(
    choices: Sequence[Sequence[str]], max_entries: Mapping[str, int], for_interfaces: str
) -> AttachedPrograms:
    tree = CgroupTree()
    try:
        return attach_first(
            object_path(),
            choices,
            tree.root,
            max_entries=max_entries,
            for_interfaces=for_interfaces,
        )
    finally:
        tree.close()
