"""PURE: the entries of the kernel's tables of traffic, as columns and one by one.

Formats: the structs of traffic_tables.bpf.h and owners.bpf.h, in the machine's byte order.
"""

import struct
from collections.abc import Iterable
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.model import TrafficCounts

ENTRY = np.dtype([
    ("cookie", "u8"), ("counts", "u8", (4,)), ("boot_ns", "u8"), ("cgroup", "u8"), ("pid", "u4"),
    ("user_id", "u4"), ("command", "u8", (2,)), ("namespace", "u8"), ("flags", "u4"),
    ("awaited", "u4"), ("ends", "u8", (5,)),
])  # fmt: skip
"""`struct flow`. `counts` are those of `make_counts`; `command` has 16 bytes and `ends` 40, see
`SocketTraffic` for both."""
PLACE_KEY = np.dtype([("cookie", "u8"), ("ends", "u8", (5,)), ("parity", "u8")])
OVERFLOW_KEY = np.dtype("u4")
FILL = np.dtype([("connections", "u8"), ("exchanges", "u8"), ("overflow", "u8")])

BY_LISTENER, RELEASED, TIMESTAMPS, FRESH, AWAITS_FIN, KEYED = 1, 2, 4, 8, 16, 32
"""Flags: the owner is that of the listening socket; nobody holds the socket any more; segments have
the option of timestamps (RFC 7323); it is a connection's first turn; the kernel let go of it before
the peer had closed; it is found by a key."""

Entries = NDArray[np.void]
"""Rows of ENTRY."""

_RAW = np.dtype((np.void, ENTRY.itemsize))

_ENDS_BYTES = struct.Struct("=16s16sHHBB2x")
PROTOCOL_BYTE, FAMILY_BYTE = 36, 37
"""Which bytes of `ends` these are; each is 0 where no flow is known."""

_PROCESS = struct.Struct("=QI4x")
_AF_INET = 2
_COMMANDS_KEPT = 4096


class Holder(msgspec.Struct, frozen=True, gc=False):
    """Whose a socket is, as far as the kernel noted it."""

    boot_ns: int
    """When it was noted, nanoseconds since boot."""
    cgroup: int
    """The id of the process's control group (v2)."""
    pid: int
    """On the host; 0 for a socket that was there before, or that is the kernel's own."""
    user_id: int
    command: str
    """The kernel's short name of the process (comm)."""
    namespace: int
    """The cookie of the network namespace, 0 where it is not known."""
    flags: int
    """BY_LISTENER and those that follow."""

    @property
    def by_listener(self) -> bool:
        """Tell whether this is the listening socket's owner, for want of who served it."""
        return bool(self.flags & BY_LISTENER)


class Ends(msgspec.Struct, frozen=True, gc=False):
    """Where a packet of the socket comes from or goes to.

    Addresses are in network order, 4 or 16 bytes, of IPv4 always 4, and empty where the flow is not
    known. Ports are 0 where the protocol has none; an ICMP echo has its identifier on both sides.
    """

    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    protocol: int


class SocketTraffic(msgspec.Struct, frozen=True, gc=False):
    """What one socket moved to and from one peer since the last turn.

    Bytes are IP packet bytes as the stack handles them.
    """

    cookie: int
    """The socket's; 0 where it is not known."""
    holder: Holder
    ends: Ends
    counts: TrafficCounts


class ProcessSeen(msgspec.Struct, frozen=True, gc=False):
    """A process has used a socket for the first time, or for the first time in a while."""

    boot_ns: int
    pid: int


def join(*tables: Entries) -> Entries:
    """Return all their rows, copied in one piece each, which is ten times faster than by field."""
    return np.concatenate([table.view(_RAW) for table in tables]).view(ENTRY)


def pick(entries: Entries, which: NDArray[np.bool_] | NDArray[np.intp]) -> Entries:
    """Return a copy of some rows, as `entries[which]` does, and as fast as `join`."""
    return entries.view(_RAW)[which].view(ENTRY)


def copy_rows(entries: Entries) -> Entries:
    """Return a copy of rows that need not lie side by side, as fast as `join`."""
    return entries.view(_RAW).copy().view(ENTRY)


def make_counts(counts: Iterable[int]) -> TrafficCounts:
    """Return the `counts` of an entry, in the order of `struct counts`."""
    transmit_bytes, transmit_packets, receive_bytes, receive_packets = counts
    return TrafficCounts(
        transmit_bytes=transmit_bytes,
        transmit_packets=transmit_packets,
        receive_bytes=receive_bytes,
        receive_packets=receive_packets,
    )


def describe(entries: Entries) -> list[SocketTraffic]:
    """Return entries one by one."""
    return [
        SocketTraffic(cookie, holder, ends, make_counts(counts))
        for cookie, counts, holder, ends in zip(
            entries["cookie"].tolist(),
            entries["counts"].tolist(),
            describe_holders(entries),
            describe_ends(entries),
            strict=True,
        )
    ]


def describe_holders(entries: Entries) -> list[Holder]:
    """Return the holder of each entry."""
    names = ("boot_ns", "cgroup", "pid", "user_id")
    commands = np.ascontiguousarray(entries["command"]).view("V16").ravel().tolist()
    return [
        Holder(boot_ns, cgroup, pid, user_id, _decode_command(command), namespace, flags)
        for boot_ns, cgroup, pid, user_id, command, namespace, flags in zip(
            *(entries[name].tolist() for name in names),
            commands,
            entries["namespace"].tolist(),
            entries["flags"].tolist(),
            strict=True,
        )
    ]


def describe_ends(entries: Entries) -> list[Ends]:
    """Return the ends of each entry."""
    found = []
    for local, remote, local_port, remote_port, protocol, family in _ENDS_BYTES.iter_unpack(
        entries["ends"].tobytes()
    ):
        if family == _AF_INET:
            found.append(Ends(local[:4], local_port, remote[:4], remote_port, protocol))
        elif family:
            found.append(Ends(local, local_port, remote, remote_port, protocol))
        else:
            found.append(Ends(b"", 0, b"", 0, 0))
    return found


def pack_ends(
    local_address: bytes, local_port: int, remote_address: bytes, remote_port: int, protocol: int
) -> bytes:
    """Return ends as they lie in an entry; the reverse of `describe_ends`."""
    family = {0: 0, 4: _AF_INET, 16: 10}[len(local_address)]
    return _ENDS_BYTES.pack(
        local_address, remote_address, local_port, remote_port, protocol, family
    )


def decode_processes(events: bytes) -> list[ProcessSeen]:
    """Return the processes that events tell of."""
    whole = len(events) - len(events) % _PROCESS.size
    return [ProcessSeen(*one) for one in _PROCESS.iter_unpack(memoryview(events)[:whole])]


@lru_cache(maxsize=_COMMANDS_KEPT)
def _decode_command(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
