"""Which programs of the object are attached for what.

The ledger's run when a socket is made, bound, connected or released, and never for a packet. Those
that count are there only for the `ebpf` source.
"""

from hogpipe.bpf import object_path
from hogpipe.bpf.cgroup_tree import find_cgroup_root
from hogpipe.bpf.loader import AttachedPrograms
from hogpipe.bpf.obstacles import BpfUnavailableError, Obstacle

_OF_SOCKETS = (
    "on_create",
    "on_bind4",
    "on_bind6",
    "on_connect4",
    "on_connect6",
    "on_send4",
    "on_send6",
    "on_tcp",
)
_RELEASE_WITH_PORT, _RELEASE = "on_release_with_port", "on_release"
_OF_PACKETS = ("on_receive", "on_transmit")
_TRAFFIC_TABLES = ("traffic_one", "traffic_two")
_ONLY_FOR_PACKETS = (*_TRAFFIC_TABLES, "active", "overflow")


def attach_programs(*, ring_bytes: int = 1 << 22, traffic_entries: int = 0) -> AttachedPrograms:
    """Attach the ledger's programs, and those that count if there are to be `traffic_entries`.

    Where the kernel permits it, with the one that tells the port of a released socket, without
    which a UDP socket that connected without a bind is never told by its port. Raises
    BpfUnavailableError, with nothing left attached.
    """
    path = object_path()
    if path is None:
        raise BpfUnavailableError(
            Obstacle.OBJECT,
            "eBPF: this hogpipe was built without clang and has no BPF object; install clang and "
            "the kernel's headers for programs (Debian: clang, linux-libc-dev), then hogpipe anew",
        )
    root = find_cgroup_root()
    names: tuple[str, ...] = _OF_SOCKETS
    tables = {"events": ring_bytes}
    if traffic_entries:
        names += _OF_PACKETS
        tables |= dict.fromkeys(_TRAFFIC_TABLES, traffic_entries)
    else:
        tables |= dict.fromkeys(_ONLY_FOR_PACKETS, 0)
    try:
        return AttachedPrograms(path, (*names, _RELEASE_WITH_PORT), root, tables=tables)
    except BpfUnavailableError as error:
        if error.obstacle is not Obstacle.KERNEL:
            raise
    return AttachedPrograms(path, (*names, _RELEASE), root, tables=tables)


def sees_ports_late(programs: AttachedPrograms) -> bool:
    """Tell whether the port of a socket is told when it is released."""
    return _RELEASE_WITH_PORT in programs.names
