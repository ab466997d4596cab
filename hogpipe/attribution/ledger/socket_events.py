"""Decodes the socket events that the BPF programs record: bytes in, values out.

PURE. The format is SOCKET_EVENT of hogpipe/linux/bpf/shapes.py, in the byte order of the machine.
Events that cannot be decoded are counted and skipped.
"""

import struct
from functools import lru_cache

import msgspec

from hogpipe.linux.bpf.shapes import SOCKET_EVENT, EventKind, format_of

_EVENT = struct.Struct(format_of(SOCKET_EVENT))
EVENT_BYTES = _EVENT.size
_COOKIE_AND_KIND = struct.Struct(format_of(SOCKET_EVENT, "cookie", "kind"))

_AF_INET, _AF_INET6 = 2, 10
_FAMILIES = (_AF_INET, _AF_INET6)
_MAPPED = bytes(10) + b"\xff\xff"
_MAX_COMMANDS = 4096


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


class DecodedEvents(msgspec.Struct):
    """The events in a block of bytes."""

    events: list[SocketEvent]
    malformed: int
    """Events that could not be decoded, an incomplete one at the end included."""


_KINDS = {int(kind): kind for kind in EventKind}


def decode_events(data: bytes | memoryview) -> DecodedEvents:
    """Decode the consecutive events in `data`."""
    whole = len(data) - len(data) % EVENT_BYTES
    decoded = DecodedEvents([], int(whole < len(data)))
    for (
        boot_ns,
        cookie,
        namespace_cookie,
        cgroup,
        pid,
        user_id,
        number,
        family,
        protocol,
        local_port,
        remote_port,
        local,
        remote,
        command,
    ) in _EVENT.iter_unpack(memoryview(data)[:whole]):
        kind = _KINDS.get(number)
        if kind is None or family not in _FAMILIES:
            decoded.malformed += 1
            continue
        if family == _AF_INET:
            local, remote = local[:4], remote[:4]  # noqa: PLW2901
        else:
            local, remote = _unmap(local), _unmap(remote)  # noqa: PLW2901
        decoded.events.append(
            SocketEvent(
                boot_ns,
                cookie,
                namespace_cookie,
                cgroup,
                pid,
                user_id,
                kind,
                protocol,
                local,
                local_port,
                remote,
                remote_port,
                _decode_command(command),
            )
        )
    return decoded


def find_released(data: bytes | memoryview) -> list[int]:
    """Return the cookies of released sockets in `data`, without decoding the whole events."""
    whole = len(data) - len(data) % EVENT_BYTES
    heads = _COOKIE_AND_KIND.iter_unpack(memoryview(data)[:whole])
    return [cookie for cookie, kind in heads if kind == EventKind.RELEASED]


def _unmap(address: bytes) -> bytes:
    return address[12:] if address.startswith(_MAPPED) else address


@lru_cache(maxsize=_MAX_COMMANDS)
def _decode_command(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
