"""PURE: rows of the traffic maps, as columns and one by one.

In: arrays of `TRAFFIC_ROW` (shapes.py). Out: the same in Python's types.
There is one row for each flow and epoch, so there may be hundreds of thousands: whatever can be
done by column is, and only what is left is decoded row by row.

Rows are copied, joined and picked as opaque bytes, which is ten times faster than field by field.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import (
    BY_LISTENER,
    ENDPOINTS,
    TRAFFIC_ROW,
    format_of,
    offset_of,
)
from hogpipe.model import Tally, TrafficCounts

Rows = NDArray[np.void]
"""An array of TRAFFIC_ROW."""

PROTOCOL_BYTE = offset_of(ENDPOINTS, "protocol")
"""Which byte of a row's `endpoints` this is; 0 where no flow is known."""

_RAW = np.dtype((np.void, TRAFFIC_ROW.itemsize))
_ENDPOINTS = struct.Struct(format_of(ENDPOINTS))
AF_INET, _AF_INET6 = 2, 10
_FAMILIES = {0: 0, 4: AF_INET, 16: _AF_INET6}
_COMMANDS_KEPT = 4096
_COMMAND_BYTES = 16
_OWNER_NUMBERS = ("boot_ns", "cgroup", "pid", "user_id", "namespace")
"""The fields of a row's owner that are numbers, but for the flags."""


class RowOwner(msgspec.Struct, frozen=True, gc=False):
    """The owner of a row's socket, as the kernel recorded it."""

    boot_ns: int
    """When the process used the socket, nanoseconds since boot."""
    cgroup: int
    """The id of the process's control group (v2)."""
    pid: int
    """On the host; 0 for a socket that existed before the programs, or that is the kernel's own."""
    user_id: int
    command: str
    """The kernel's short name of the process (comm)."""
    namespace: int
    """The cookie of the network namespace, 0 where it is not known."""
    flags: int
    """Of `ROW_FLAGS`."""

    @property
    def by_listener(self) -> bool:
        """Whether this is the owner of the listening socket, and not of the connection itself."""
        return bool(self.flags & BY_LISTENER)


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """Both ends of a flow, as seen from this host.

    Addresses are in network order, 4 bytes (also those of v4-mapped ones) or 16, and empty where
    the flow is not known. Ports are 0 where the protocol has none; an ICMP echo has its identifier
    on both sides.
    """

    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    protocol: int


class TrafficRow(msgspec.Struct, frozen=True, gc=False):
    """What one socket moved to and from one peer in one epoch.

    Bytes and packets are those of the cable: each segment of a packet with its headers.
    """

    cookie: int
    """The socket's; 0 where it is not known."""
    owner: RowOwner
    endpoints: Endpoints
    counts: TrafficCounts


def join_rows(*parts: Rows) -> Rows:
    """Return all rows of all parts; if only one part has any, that part itself."""
    filled = [part for part in parts if len(part)] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    return np.concatenate([part.view(_RAW) for part in filled]).view(TRAFFIC_ROW)


def pick_rows(rows: Rows, which: NDArray[np.bool_] | NDArray[np.intp]) -> Rows:
    """Return a copy of some rows, as `rows[which]` does."""
    return rows.view(_RAW)[which].view(TRAFFIC_ROW)


def copy_rows(rows: Rows) -> Rows:
    """Return a contiguous copy of rows that need not be contiguous."""
    return rows.view(_RAW).copy().view(TRAFFIC_ROW)


def make_counts(counts: Iterable[int]) -> TrafficCounts:
    """Return the `counts` of a row, in the order of `TRAFFIC_COUNTS`."""
    transmit_bytes, transmit_packets, receive_bytes, receive_packets = counts
    return TrafficCounts(
        transmit_bytes=transmit_bytes,
        transmit_packets=transmit_packets,
        receive_bytes=receive_bytes,
        receive_packets=receive_packets,
    )


def tally_rows(rows: Rows) -> Tally:
    """Return how many packets and bytes rows have, in both directions."""
    return make_counts(rows["counts"].sum(axis=0).tolist()).total


def decode_rows(rows: Rows) -> list[TrafficRow]:
    """Return rows one by one."""
    return [
        TrafficRow(cookie, owner, endpoints, make_counts(counts))
        for cookie, counts, owner, endpoints in zip(
            rows["cookie"].tolist(),
            rows["counts"].tolist(),
            decode_owners(rows),
            decode_endpoints(rows),
            strict=True,
        )
    ]


def decode_owners(rows: Rows) -> list[RowOwner]:
    """Return the owner of each row."""
    names = ("boot_ns", "cgroup", "pid", "user_id")
    commands = np.ascontiguousarray(rows["command"]).view("V16").ravel().tolist()
    return [
        RowOwner(boot_ns, cgroup, pid, user_id, _decode_command(command), namespace, flags)
        for boot_ns, cgroup, pid, user_id, command, namespace, flags in zip(
            *(rows[name].tolist() for name in names),
            commands,
            rows["namespace"].tolist(),
            rows["flags"].tolist(),
            strict=True,
        )
    ]


def decode_endpoints(rows: Rows) -> list[Endpoints]:
    """Return the endpoints of each row."""
    found = []
    for local, remote, local_port, remote_port, protocol, family in _ENDPOINTS.iter_unpack(
        rows["endpoints"].tobytes()
    ):
        if family == AF_INET:
            found.append(Endpoints(local[:4], local_port, remote[:4], remote_port, protocol))
        elif family:
            found.append(Endpoints(local, local_port, remote, remote_port, protocol))
        else:
            found.append(Endpoints(b"", 0, b"", 0, 0))
    return found


def encode_endpoints(
    local_address: bytes, local_port: int, remote_address: bytes, remote_port: int, protocol: int
) -> bytes:
    """Return the bytes of a row's `endpoints`; the reverse of `decode_endpoints`."""
    family = _FAMILIES[len(local_address)]
    return _ENDPOINTS.pack(local_address, remote_address, local_port, remote_port, protocol, family)


def set_owners(
    rows: Rows,
    places: NDArray[np.intp],
    numbers: NDArray[np.intp],
    owners: Sequence[RowOwner | None],
) -> None:
    """Give the rows at `places` the owners with these numbers; the flags of the rows stay."""
    encoded = np.zeros(len(owners), TRAFFIC_ROW)
    for at, owner in enumerate(owners):
        if owner is not None:
            for name in _OWNER_NUMBERS:
                encoded[name][at] = getattr(owner, name)
            encoded["command"][at] = _encode_command(owner.command)
    for name in (*_OWNER_NUMBERS, "command"):
        rows[name][places] = encoded[name][numbers]


def _encode_command(command: str) -> NDArray[np.uint64]:
    raw = command.encode("utf-8", "backslashreplace")[:_COMMAND_BYTES]
    return np.frombuffer(raw.ljust(_COMMAND_BYTES, b"\0"), np.uint64)


@lru_cache(maxsize=_COMMANDS_KEPT)
def _decode_command(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
