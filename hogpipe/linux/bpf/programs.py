"""Which programs of the object are attached for what.

The ledger's run when a socket is made, bound, connected or released, and never for a packet. Those
of the `ebpf` source note owners at the same places, tell nothing of single sockets, and count each
packet. Each set has its own tables, and those of the other are not made.
"""

from collections.abc import Mapping, Sequence

from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.loader import AttachedPrograms, attach_first
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.cgroups import CgroupTree

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
_COUNTING = (
    "note_create",
    "note_bind4",
    "note_bind6",
    "note_connect4",
    "note_connect6",
    "note_send4",
    "note_send6",
    "note_tcp",
    "note_release",
    "on_receive",
    "on_transmit",
)
_ONLY_FOR_LEDGER = ("sockets",)
_FLOW_TABLES = ("connections", "exchanges", "places")
_OVERFLOW_TABLES = ("overflow_even", "overflow_odd")
_ONLY_FOR_COUNTING = (
    *_FLOW_TABLES,
    *_OVERFLOW_TABLES,
    "holders",
    "processes",
    "fills",
    "turn",
    "barrier_content",
    "barrier",
)


def attach_programs(*, ring_bytes: int = 1 << 22) -> AttachedPrograms:
    """Attach the ledger's programs.

    Where the kernel permits it, with the one that tells the port of a released socket, without
    which a UDP socket that connected without a bind is never told by its port. Raises
    BpfUnavailableError, with nothing left attached.
    """
    tables = {"events": ring_bytes} | dict.fromkeys(_ONLY_FOR_COUNTING, 0)
    releases = (_RELEASE_WITH_PORT, _RELEASE)
    return _attach([(*_OF_SOCKETS, release) for release in releases], tables)


def attach_counting_programs(
    *, max_flows: int = 1 << 16, max_processes: int = 1 << 12, ring_bytes: int = 1 << 18
) -> AttachedPrograms:
    """Attach the programs that count, with room for `max_flows` connections and as many others.

    What finds no place in them is counted for `max_processes` processes. Raises
    BpfUnavailableError, with nothing left attached.
    """
    tables = dict.fromkeys(_FLOW_TABLES, 2 * max_flows)  # of this turn and of the one before
    tables |= dict.fromkeys(_OVERFLOW_TABLES, max_processes)
    tables |= {"events": ring_bytes} | dict.fromkeys(_ONLY_FOR_LEDGER, 0)
    try:
        return _attach([_COUNTING], tables)
    except BpfUnavailableError as error:
        if error.obstacle is not Obstacle.LIMITS:
            raise
        text = f"{error}, or lower capture.max_flows ({max_flows})"
        raise BpfUnavailableError(error.obstacle, text) from error


def _attach(choices: Sequence[Sequence[str]], tables: Mapping[str, int]) -> AttachedPrograms:
    path = object_path()
    if path is None:
        raise BpfUnavailableError(
            Obstacle.OBJECT,
            "eBPF: this hogpipe was built without clang and has no BPF object; install clang and "
            "the kernel's headers for programs (Debian: clang, linux-libc-dev), then hogpipe anew",
        )
    tree = CgroupTree()
    try:
        return attach_first(path, choices, tree.root, tables=tables)
    finally:
        tree.close()


def sees_ports_late(programs: AttachedPrograms) -> bool:
    """Tell whether the port of a socket is told when it is released."""
    return _RELEASE_WITH_PORT in programs.names
