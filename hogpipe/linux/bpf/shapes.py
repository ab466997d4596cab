"""PURE: the structs, enums and maps that the BPF programs and Python both read or write.

Each shape has one name, in C and here, and so has each member. A shape is written twice, because
neither language can include the other's, and compared twice:

- `_Static_assert`s in the C sources state the sizes and offsets that a test compares with these.
- The loader compares these with the BTF of the object that it is about to load, and refuses an
  object that was compiled from other sources. `find_mismatch` says in which shape they differ.

A struct is a NumPy dtype. Members of a struct inside a struct may stand in its place, as those of
`row_owner` and `process` do in `TRAFFIC_ROW`; or the inner struct is one field of as many bytes.
Fields that are compared as a whole are arrays of 64 bits, which NumPy compares fastest.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from itertools import chain

import numpy as np

from hogpipe.linux.bpf.btf import Btf, Member

_Struct = np.dtype[np.void]
_Extent = tuple[int, int]
"""Offset and size."""

TRAFFIC_COUNTS = np.dtype([
    ("transmit_bytes", "u8"), ("transmit_packets", "u8"),
    ("receive_bytes", "u8"), ("receive_packets", "u8"),
])  # fmt: skip
ENDPOINTS = np.dtype([
    ("local_address", "V16"), ("remote_address", "V16"), ("local_port", "u2"),
    ("remote_port", "u2"), ("protocol", "u1"), ("family", "u1"), ("padding", "V2"),
])  # fmt: skip
TRAFFIC_ROW = np.dtype([
    ("cookie", "u8"), ("counts", "u8", (TRAFFIC_COUNTS.itemsize // 8,)), ("boot_ns", "u8"),
    ("cgroup", "u8"), ("pid", "u4"), ("user_id", "u4"), ("command", "u8", (2,)),
    ("namespace", "u8"), ("flags", "u4"), ("awaited_sequence", "u4"),
    ("endpoints", "u8", (ENDPOINTS.itemsize // 8,)),
])  # fmt: skip
PAYLOAD = np.dtype([("transmit", "u8"), ("receive", "u8")])
TCP_HEALTH = np.dtype([
    ("transmit_payload", "u8"), ("receive_payload", "u8"), ("rtt_sum_us", "u8"),
    ("opening_us", "u8"), ("lifetime_us", "u8"), ("retransmits", "u4"), ("rtt_samples", "u4"),
    ("rtt_min_us", "u4"), ("opened", "u2"), ("accepted", "u2"), ("refused", "u2"),
    ("timed_out", "u2"), ("unreachable", "u2"), ("abandoned", "u2"), ("reset", "u2"),
    ("closed", "u2"), ("padding", "V4"),
])  # fmt: skip
ROW_KEY = np.dtype([
    ("cookie", "u8"), ("endpoints", "u8", (ENDPOINTS.itemsize // 8,)), ("parity", "u8"),
])  # fmt: skip
ROWS_USED = np.dtype([("connections", "u8"), ("other_flows", "u8"), ("overflow", "u8")])
PROCESS_EVENT = np.dtype([("boot_ns", "u8"), ("pid", "u4"), ("padding", "V4")])
SOCKET_EVENT = np.dtype([
    ("boot_ns", "u8"), ("cookie", "u8"), ("namespace", "u8"), ("cgroup", "u8"), ("pid", "u4"),
    ("user_id", "u4"), ("kind", "u1"), ("family", "u1"), ("protocol", "u1"), ("padding", "V1"),
    ("local_port", "u2"), ("remote_port", "u2"), ("local_address", "V16"),
    ("remote_address", "V16"), ("command", "V16"),
])  # fmt: skip
PACKET_SENDER = np.dtype([
    ("boot_ns", "u8"), ("last_ns", "u8"), ("cookie", "u8"), ("cgroup", "u8"), ("pid", "u4"),
    ("user_id", "u4"), ("interface", "u4"), ("is_shared", "u4"), ("command", "V16"),
])  # fmt: skip
COUNTER = np.dtype("u8")
LOSSES = np.dtype([("events", "u8"), ("sockets", "u8"), ("packets", "u8")])
NUMBER = np.dtype("u4")
COOKIE = np.dtype("u8")
_NOTHING = np.dtype("V0")  # a ring buffer has neither keys nor values

ROW_FLAGS = {
    "BY_LISTENER": 1,
    "RELEASED": 2,
    "TIMESTAMPS": 4,
    "FRESH": 8,
    "AWAITS_FIN": 16,
    "INDEXED": 32,
    "PACKET_SOCKET": 64,
}
BY_LISTENER, RELEASED, TIMESTAMPS, FRESH, AWAITS_FIN, INDEXED, PACKET_SOCKET = ROW_FLAGS.values()
"""Flags of a row: the owner is that of the listening socket; no process has the socket any more;
segments carry the timestamps option (RFC 7323); this is the first epoch of a connection; the kernel
freed the socket before the peer closed; the row is in the map `row_index`; its owner sent it
through a packet socket, whose packets pass no other hook."""


class EventKind(IntEnum):
    """What happened to a socket."""

    BOUND = 1
    """It was given a local port, without a remote end."""
    LISTENING = 2
    """It accepts TCP connections from now on."""
    CONNECTED = 3
    """It was given a remote end; the local port is 0 if the kernel chooses it later."""
    ACCEPTED = 4
    """It is a TCP connection that the kernel accepted; `pid` is that of the listening socket's
    owner, 0 if not known."""
    SENT = 5
    """It sent its first datagram without being connected."""
    RELEASED = 6
    """Process `pid` closed its last descriptor. The ports are 0 if they could not be read."""


STRUCTS: Mapping[str, _Struct] = {
    "endpoints": ENDPOINTS,
    "losses": LOSSES,
    "packet_sender": PACKET_SENDER,
    "payload": PAYLOAD,
    "process_event": PROCESS_EVENT,
    "row_key": ROW_KEY,
    "rows_used": ROWS_USED,
    "socket_event": SOCKET_EVENT,
    "tcp_health": TCP_HEALTH,
    "traffic_counts": TRAFFIC_COUNTS,
    "traffic_row": TRAFFIC_ROW,
}
ENUMS: Mapping[str, Mapping[str, int]] = {
    "event_kind": {f"SOCKET_{kind.name}": kind.value for kind in EventKind},
    "row_flag": {f"ROW_{name}": value for name, value in ROW_FLAGS.items()},
}
_Shape = _Struct | np.dtype[np.uint32] | np.dtype[np.uint64]

MAPS: Mapping[str, tuple[_Shape, _Shape]] = {
    "barrier": (NUMBER, NUMBER),
    "connection_health": (NUMBER, TCP_HEALTH),
    "connections": (NUMBER, TRAFFIC_ROW),
    "epoch": (NUMBER, NUMBER),
    "losses": (NUMBER, LOSSES),
    "new_processes": (_NOTHING, _NOTHING),
    "other_flows": (NUMBER, TRAFFIC_ROW),
    "overflow_even": (NUMBER, TRAFFIC_ROW),
    "overflow_odd": (NUMBER, TRAFFIC_ROW),
    "packet_senders": (ENDPOINTS, PACKET_SENDER),
    "senders_recorded": (NUMBER, COUNTER),
    "payload_even": (COOKIE, PAYLOAD),
    "payload_odd": (COOKIE, PAYLOAD),
    "row_index": (ROW_KEY, NUMBER),
    "rows_used": (NUMBER, ROWS_USED),
}
"""The keys and values of each map."""

_FORMATS = {("u", 1): "B", ("u", 2): "H", ("u", 4): "I", ("u", 8): "Q"}


def format_of(shape: _Struct, *only: str) -> str:
    """Return the format by which the module struct unpacks a shape, or some members of it."""
    parts = ["="]
    for name in shape.names or ():
        field = shape[name]
        if name == "padding" or (only and name not in only):
            parts.append(f"{field.itemsize}x")
        else:
            parts.append(_FORMATS.get((field.kind, field.itemsize), f"{field.itemsize}s"))
    return "".join(parts)


def offset_of(shape: _Struct, name: str) -> int:
    """Return at which byte of a shape a member begins."""
    return _expected_extents(shape)[name][0]


def find_mismatch(btf: Btf, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    """Return the first difference between the shapes of an object and these, None if none.

    `sizes` are the bytes of keys and values by the name of the map.
    """
    return next(chain(_compare_maps(sizes), _compare_structs(btf), _compare_enums(btf)), None)


def _compare_maps(sizes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for name, shape in MAPS.items():
        if name not in sizes:
            yield f"there is no map {name}"
            continue
        for part, size, expected in zip(("keys", "values"), sizes[name], shape, strict=True):
            if size != expected.itemsize:
                yield f"{part} of map {name} have {size} bytes, expected {expected.itemsize}"


def _compare_structs(btf: Btf) -> Iterator[str]:
    for name, shape in STRUCTS.items():
        layout = btf.structs.get(name)
        if layout is None:
            yield f"there is no struct {name}"
            continue
        if layout.size != shape.itemsize:
            yield f"struct {name} has {layout.size} bytes, expected {shape.itemsize}"
        found, expected = _extents(layout.members, shape), _expected_extents(shape)
        for member in found | expected:
            if found.get(member) != expected.get(member):
                yield (
                    f"{member} of struct {name} is {_describe(found.get(member))}, "
                    f"expected {_describe(expected.get(member))}"
                )


def _compare_enums(btf: Btf) -> Iterator[str]:
    for name, values in ENUMS.items():
        found = dict(btf.enums.get(name, {}))
        if found != values:
            yield f"enum {name} is {found}, expected {dict(values)}"


def _extents(members: Mapping[str, Member], shape: _Struct, start: int = 0) -> dict[str, _Extent]:
    """Return where members are; those of an inner struct unless `shape` has that as one field."""
    extents: dict[str, _Extent] = {}
    for name, member in members.items():
        if member.members and name not in (shape.names or ()):
            extents |= _extents(member.members, shape, start + member.offset)
        else:
            extents[name] = start + member.offset, member.size
    return extents


def _expected_extents(shape: _Struct) -> dict[str, _Extent]:
    return {name: (field[1], field[0].itemsize) for name, field in (shape.fields or {}).items()}


def _describe(extent: _Extent | None) -> str:
    return "absent" if extent is None else "{1} bytes at {0}".format(*extent)
