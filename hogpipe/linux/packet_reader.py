"""A packet socket on all interfaces of the network namespace, which gets what a filter accepts.

In: a classic BPF program, which sees packets from their IP header on. Out: packets with the time
when they passed, and which way. Opening takes CAP_NET_RAW; reading takes no capability. Raises
OSError.

The kernel queues at most `_QUEUE_BYTES` of packets, and counts those that it drops.
"""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from hogpipe.linux.limits import set_receive_buffer
from hogpipe.linux.socket_filter import RawInstruction, attach_filter
from hogpipe.protocols import NANOSECONDS

_ETH_P_ALL = 0x0003  # include/uapi/linux/if_ether.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # include/uapi/linux/if_packet.h
_PACKET_HOST, _PACKET_OUTGOING = 0, 4
_ARPHRD_LOOPBACK = 772
_SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h
_TIMESPEC = struct.Struct("@ll")
_STATISTICS = struct.Struct("=II")
_QUEUE_BYTES = 2 << 20


class PassingPacket(NamedTuple):
    """A packet, from its IP header on, as far as the filter returns it."""

    data: bytes
    time_ns: int
    """Nanoseconds since the epoch."""
    is_transmitted: bool
    is_received: bool
    """By this host; a packet within it is both."""


class PacketReader:
    """For one thread at a time."""

    def __init__(self, program: Sequence[RawInstruction], longest: int) -> None:
        self._longest = longest
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        try:
            self._socket.setblocking(False)
            set_receive_buffer(self._socket, _QUEUE_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            attach_filter(self._socket.fileno(), program)
            while self.read() is not None:  # what was queued before the filter was attached
                pass
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait for packets with."""
        return self._socket.fileno()

    def read(self) -> PassingPacket | None:
        """Return the next packet, None if there is none."""
        try:
            data, ancillary, _flags, address = self._socket.recvmsg(
                self._longest, socket.CMSG_SPACE(_TIMESPEC.size)
            )
        except BlockingIOError:
            return None
        time_ns = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                time_ns = seconds * NANOSECONDS + nanoseconds
        _interface, _protocol, kind, hardware, _address = address
        is_loopback = hardware == _ARPHRD_LOOPBACK
        # On loopback a packet is seen both ways; one of the two is enough.
        is_transmitted = kind == _PACKET_OUTGOING if not is_loopback else kind == _PACKET_HOST
        return PassingPacket(data, time_ns, is_transmitted, kind == _PACKET_HOST)

    def take_drops(self) -> int:
        """Return how many packets the kernel dropped since the last call."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _packets, drops = _STATISTICS.unpack(statistics)
        return int(drops)

    def close(self) -> None:
        """Close the socket. May be called again."""
        self._socket.close()
