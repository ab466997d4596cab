"""What the BPF programs tell of a socket: bytes in, values out.

The format is SOCKET_EVENT of hogpipe/linux/bpf/shapes.py, in the byte order of the machine.
"""

import struct
from functools import lru_cache

import msgspec

from hogpipe.linux.bpf.shapes import SOCKET_EVENT, EventKind, format_of

_EVENT = struct.Struct(format_of(SOCKET_EVENT))
EVENT_BYTES = _EVENT.size
_END = struct.Struct(format_of(SOCKET_EVENT, "cookie", "kind"))

_AF_INET, _AF_INET6 = 2, 10
_FAMILIES = (_AF_INET, _AF_INET6)
_MAPPED = bytes(10) + b"\xff\xff"
_COMMANDS_KEPT = 4096


class SocketEvent(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to a socket.

    Addresses are in network order, 4 bytes (also those of v4-mapped ones) or 16, all zero where
    there is none. `namespace` is the cookie of the network namespace, 0 if not known, `cookie` that
    of the socket; the kernel gives neither one twice. `pid` is that of the host.
    """

    boot_ns: int
    """Nanoseconds since boot, suspension included."""
    cookie: int
    namespace: int
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


class Decoded(msgspec.Struct):
    """What was in a run of events."""

    events: list[SocketEvent]
    malformed: int
    """Events, or what was left at the end, that made no sense."""


_KINDS = {int(kind): kind for kind in EventKind}


def decode_events(data: bytes | memoryview) -> Decoded:
    """Return the events that lie in `data` one after the other."""
    whole = len(data) - len(data) % EVENT_BYTES
    decoded = Decoded([], int(whole < len(data)))
    for (
        boot_ns,
        cookie,
        namespace,
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
                namespace,
                cgroup,
                pid,
                user_id,
                kind,
                protocol,
                local,
                local_port,
                remote,
                remote_port,
                _command(command),
            )
        )
    return decoded


def find_released(data: bytes | memoryview) -> list[int]:
    """Return the cookies of sockets that are released in whole events, decoding nothing else."""
    whole = len(data) - len(data) % EVENT_BYTES
    ends = _END.iter_unpack(memoryview(data)[:whole])
    return [cookie for cookie, kind in ends if kind == EventKind.RELEASED]


def _unmap(address: bytes) -> bytes:
    return address[12:] if address.startswith(_MAPPED) else address


@lru_cache(maxsize=_COMMANDS_KEPT)
def _command(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
