"""Decodes the socket events that the BPF programs record: bytes in, values out.

PURE. The format is SOCKET_EVENT of hogpipe/linux/bpf/shapes.py, in the byte order of the machine.
Events that cannot be decoded are counted and skipped.

A block of many TCP events is decoded in columns as far as its events are alike: the processes that
they name, and the openings of connections. Other events are decoded one by one, as columns have a
fixed cost.
"""

import struct
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import compress, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import SOCKET_EVENT, EventKind, format_of, offset_of
from hogpipe.model import unmap
from hogpipe.protocols import TCP

_EVENT = struct.Struct(format_of(SOCKET_EVENT))
EVENT_BYTES = _EVENT.size

_AF_INET, _AF_INET6 = 2, 10
_MAX_COMMANDS = 4096
_KINDS = {int(kind): kind for kind in EventKind}
# NumPy compares an array with an int sooner than with an enum.
_CONNECTED, _ACCEPTED = int(EventKind.CONNECTED), int(EventKind.ACCEPTED)
_RELEASED = int(EventKind.RELEASED)
_OPENINGS = 10  # that are ingested together are as much work as another event

_PROCESS = np.dtype([("cgroup", "u8"), ("pid", "u4"), ("user_id", "u4"), ("command", "V16")])
_UNPACK_PROCESS = struct.Struct(format_of(_PROCESS)).unpack
# The bytes of an event, and its words of 8 and of 4 bytes.
_KIND, _FAMILY = offset_of(SOCKET_EVENT, "kind"), offset_of(SOCKET_EVENT, "family")
_PROTOCOL = offset_of(SOCKET_EVENT, "protocol")
_KINDS_KNOWN, _FAMILIES_KNOWN = bytes(_KINDS), bytes([_AF_INET, _AF_INET6])
_IDS = slice(offset_of(SOCKET_EVENT, "cgroup"), _KIND)
_COMMAND = slice(offset_of(SOCKET_EVENT, "command"), EVENT_BYTES)
_LOCAL_WORD, _LOCAL_HALF = (offset_of(SOCKET_EVENT, "local_address") // size for size in (8, 4))
_MAPPED_HALF = int.from_bytes(b"\0\0\xff\xff", sys.byteorder)

FiveTuple = tuple[int, int, bytes, int, bytes, int]
"""Namespace cookie, protocol, local address and port, remote address and port."""


class SocketEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a socket.

    Addresses are in network byte order, 4 bytes (also for v4-mapped ones) or 16, all zero if unset.
    The kernel reuses neither the cookie of a socket nor that of a network namespace. `pid` is the
    host's.
    """

    boot_ns: int
    """Nanoseconds since boot, suspension included."""
    cookie: int
    namespace_cookie: int
    """The cookie of the socket's network namespace, 0 if unknown."""
    cgroup: int
    """The id of the process's control group (v2)."""
    pid: int
    user_id: int
    kind: EventKind
    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    command: str
    """The kernel's short name of the process (comm)."""


class EventProcess(msgspec.Struct, frozen=True, gc=False):
    """The process that an event names, as the kernel recorded it; the pid is 0 if it names none."""

    cgroup: int
    pid: int
    user_id: int
    command: str


class Openings(NamedTuple):
    """Events that open TCP connections, as columns."""

    positions: Sequence[int]
    """In the block, in ascending order."""
    cookies: Sequence[int]
    five_tuples: Sequence[FiveTuple]
    boot_ns: Sequence[int]
    accepted: Sequence[bool]
    """Whether the kernel accepted the connection; else a process connected it."""
    is_whole: Sequence[bool]
    """Whether the event has all of an address, and the block none of its socket but its release."""

    def select(self, chosen: Collection[bool]) -> "Openings":
        """Return those for which `chosen` is true."""
        return Openings(
            list(compress(self.positions, chosen)),
            list(compress(self.cookies, chosen)),
            list(compress(self.five_tuples, chosen)),
            list(compress(self.boot_ns, chosen)),
            list(compress(self.accepted, chosen)),
            list(compress(self.is_whole, chosen)),
        )


Release = tuple[int, int, int, int]
"""What the event of a release says of its socket: cookie, time (nanoseconds since boot), local and
remote port; the ports are 0 if they are not known."""


class EventBlock:
    """The consecutive events in `data`; the position of an event counts those before it."""

    def __init__(self, data: bytes | memoryview) -> None:
        whole = len(data) - len(data) % EVENT_BYTES
        self._data = memoryview(data)[:whole]
        if self._has_unknown(_KIND, _KINDS_KNOWN) or self._has_unknown(_FAMILY, _FAMILIES_KNOWN):
            self._data = memoryview(b"".join(one for one in _split(self._data) if _is_known(one)))
        self.malformed = (whole - len(self._data)) // EVENT_BYTES + int(whole < len(data))
        """Events that could not be decoded, an incomplete one at the end included."""

    def __len__(self) -> int:
        return len(self._data) // EVENT_BYTES

    @property
    def tcp_events(self) -> int:
        """Return how many events there are of TCP sockets."""
        return self._column(_PROTOCOL).count(TCP)

    @property
    def boot_ns(self) -> Sequence[int]:
        """Return the times of the events, nanoseconds since boot."""
        return _numbers(self._rows, "boot_ns")

    @property
    def processes(self) -> Sequence[bytes]:
        """Return the processes that the events name, each in a form for `decode_process`."""
        columns = _bytes_of(self._rows)
        return _as_bytes(np.concatenate([columns[:, _IDS], columns[:, _COMMAND]], axis=1))

    def find_openings(self) -> Openings:
        """Return the events that open TCP connections."""
        is_opening = _opens_connection(self._rows)
        rows = _choose(self._rows, is_opening)
        is_whole = _has_endpoints(rows)
        others = self._rows["cookie"][~is_opening & (self._rows["kind"] != _RELEASED)]
        if len(others):
            is_whole &= ~np.isin(rows["cookie"], others)
        local, remote = (_addresses(rows, f"{end}_address") for end in ("local", "remote"))
        five_tuples = zip(
            _numbers(rows, "namespace"),
            repeat(TCP, len(rows)),
            local,
            _numbers(rows, "local_port"),
            remote,
            _numbers(rows, "remote_port"),
            strict=True,
        )
        return Openings(
            np.flatnonzero(is_opening).tolist(),
            _numbers(rows, "cookie"),
            list(five_tuples),
            _numbers(rows, "boot_ns"),
            (rows["kind"] == _ACCEPTED).tolist(),
            is_whole.tolist(),
        )

    def find_releases(self) -> Mapping[int, Release]:
        """Return the releases by their positions."""
        is_release = self._rows["kind"] == _RELEASED
        rows = _choose(self._rows, is_release)
        names = "cookie", "boot_ns", "local_port", "remote_port"
        releases = zip(*(_numbers(rows, name) for name in names), strict=True)
        return dict(zip(np.flatnonzero(is_release).tolist(), releases, strict=True))

    def decode(self, position: int) -> SocketEvent:
        """Decode the event at a position."""
        return _decode(_EVENT.unpack_from(self._data, position * EVENT_BYTES))

    def __iter__(self) -> Iterator[SocketEvent]:
        return map(_decode, _EVENT.iter_unpack(self._data))

    @cached_property
    def _rows(self) -> NDArray[np.void]:
        return np.frombuffer(self._data, SOCKET_EVENT)

    def _has_unknown(self, offset: int, known: bytes) -> bool:
        return bool(self._column(offset).translate(None, known))

    def _column(self, offset: int) -> bytes:
        """Return the byte at an offset of each event."""
        return bytes(self._data[offset::EVENT_BYTES])


def decode_process(process: bytes) -> EventProcess:
    """Decode one of `EventBlock.processes`."""
    cgroup, pid, user_id, command = _UNPACK_PROCESS(process)
    return EventProcess(cgroup, pid, user_id, _decode_command(command))


def measure_part(data: bytes | memoryview, work: int) -> int:
    """Return how many bytes of `data` are as much work as `work` events that are no openings."""
    if len(data) <= work * EVENT_BYTES:
        return len(data)
    kinds = np.frombuffer(data, "u1")[_KIND::EVENT_BYTES][: work * _OPENINGS]
    is_opening = (kinds == _CONNECTED) | (kinds == _ACCEPTED)
    done = np.cumsum(np.where(is_opening, 1, _OPENINGS))
    events = int(np.searchsorted(done, work * _OPENINGS, side="right"))
    return len(data) if events >= len(data) // EVENT_BYTES else events * EVENT_BYTES


def find_released(data: bytes | memoryview) -> list[int]:
    """Return the cookies of released sockets in `data`, without decoding the whole events."""
    whole = len(data) - len(data) % EVENT_BYTES
    if not whole:
        return []
    rows = np.frombuffer(memoryview(data)[:whole], SOCKET_EVENT)
    cookies: list[int] = rows["cookie"][rows["kind"] == _RELEASED].tolist()
    return cookies


def _split(data: memoryview) -> Iterator[memoryview]:
    """Yield each event."""
    return (data[start : start + EVENT_BYTES] for start in range(0, len(data), EVENT_BYTES))


def _is_known(event: memoryview) -> bool:
    return event[_KIND] in _KINDS_KNOWN and event[_FAMILY] in _FAMILIES_KNOWN


def _opens_connection(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    kind = rows["kind"]
    is_opening: NDArray[np.bool_] = (kind == _CONNECTED) | (kind == _ACCEPTED)
    is_opening &= rows["protocol"] == TCP
    return is_opening


def _has_endpoints(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which events name a namespace, two ports and a local address."""
    is_known: NDArray[np.bool_] = rows["namespace"] != 0
    is_known &= (rows["local_port"] != 0) & (rows["remote_port"] != 0)
    words, halves = _bytes_of(rows).view("u8"), _bytes_of(rows).view("u4")
    begins_with_0 = words[:, _LOCAL_WORD] == 0
    is_unspecified = begins_with_0 & (words[:, _LOCAL_WORD + 1] == 0)
    is_mapped = begins_with_0 & (halves[:, _LOCAL_HALF + 2] == _MAPPED_HALF)
    is_unspecified |= is_mapped & (halves[:, _LOCAL_HALF + 3] == 0)
    is_unspecified |= (rows["family"] == _AF_INET) & (halves[:, _LOCAL_HALF] == 0)
    is_known &= ~is_unspecified
    return is_known


def _choose(rows: NDArray[np.void], chosen: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return `rows[chosen]`, which NumPy would copy field by field."""
    opaque = rows.view(np.dtype((np.void, EVENT_BYTES)))
    return opaque[chosen].view(SOCKET_EVENT)


def _numbers(rows: NDArray[np.void], name: str) -> list[int]:
    numbers: list[int] = rows[name].tolist()
    return numbers


def _addresses(rows: NDArray[np.void], name: str) -> Sequence[bytes]:
    first = offset_of(SOCKET_EVENT, name)
    if (rows["family"] == _AF_INET).all():
        return _as_bytes(_bytes_of(rows)[:, first : first + 4])
    whole = _as_bytes(_bytes_of(rows)[:, first : first + 16])
    return list(map(_decode_address, _numbers(rows, "family"), whole))


def _bytes_of(rows: NDArray[np.void]) -> NDArray[np.uint8]:
    return rows.view("u1").reshape(-1, EVENT_BYTES)


def _as_bytes(rows: NDArray[np.uint8]) -> Sequence[bytes]:
    """Return each row as a bytes object."""
    width = np.dtype((np.void, rows.shape[1]))
    joined: list[Any] = np.ascontiguousarray(rows).view(width).ravel().tolist()
    return joined


def _decode(fields: tuple[Any, ...]) -> SocketEvent:
    (
        boot_ns,
        cookie,
        namespace_cookie,
        cgroup,
        pid,
        user_id,
        kind,
        family,
        protocol,
        local_port,
        remote_port,
        local,
        remote,
        command,
    ) = fields
    return SocketEvent(
        boot_ns,
        cookie,
        namespace_cookie,
        cgroup,
        pid,
        user_id,
        _KINDS[kind],
        protocol,
        _decode_address(family, local),
        local_port,
        _decode_address(family, remote),
        remote_port,
        _decode_command(command),
    )


def _decode_address(family: int, address: bytes) -> bytes:
    if family == _AF_INET:
        return address[:4]
    return unmap(address)


@lru_cache(maxsize=_MAX_COMMANDS)
def _decode_command(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
