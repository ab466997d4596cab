"""The map of the senders of packet and raw sockets, which the ledger's program fills.

In: the attached programs. Out: the sender of a flow, as the kernel recorded it last. A failing read
raises OSError. The kernel evicts the flows that were sent longest ago.
"""

import ctypes
import errno
import os
import struct

import msgspec

from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.shapes import PACKET_SENDER, format_of

_SENDER = struct.Struct(format_of(PACKET_SENDER))


class PacketSender(msgspec.Struct, frozen=True, gc=False):
    """Who sent a flow through packet sockets last; see `struct packet_sender`."""

    boot_ns: int
    """Since when it has been the only one, nanoseconds since boot."""
    last_ns: int
    cookie: int
    cgroup: int
    pid: int
    user_id: int
    is_shared: bool
    """Whether another process sent the same flow shortly before `boot_ns`."""
    command: str
    """The kernel's short name of the process."""


class PacketSenderMap:
    """The map of `programs`, which must stay loaded. Safe from any thread."""

    def __init__(self, programs: AttachedPrograms) -> None:
        self._library = load_library()
        self._senders_fd = programs.map_fd("packet_senders")
        self._recorded_fd = programs.map_fd("senders_recorded")

    def is_empty(self) -> bool:
        """Return whether no sender was recorded yet. Raises OSError."""
        number = self._lookup(self._recorded_fd, bytes(4), 8)
        return number is None or not any(number)

    def find(self, endpoints: bytes) -> PacketSender | None:
        """Return the sender of the flow with these `endpoints` of a row. Raises OSError."""
        value = self._lookup(self._senders_fd, endpoints, _SENDER.size)
        if value is None:
            return None
        boot_ns, last_ns, cookie, cgroup, pid, user_id, _, is_shared, name = _SENDER.unpack(value)
        command = name.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        return PacketSender(
            boot_ns, last_ns, cookie, cgroup, pid, user_id, bool(is_shared), command
        )

    def _lookup(self, map_fd: int, key: bytes, size: int) -> bytes | None:
        value = ctypes.create_string_buffer(size)
        code = int(self._library.bpf_map_lookup_elem(map_fd, key, value))
        if code == -errno.ENOENT:
            return None
        if code:
            raise OSError(-code, os.strerror(-code))
        return value.raw
