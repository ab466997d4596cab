"""A wire of known delay and losses between two network namespaces, as of tc netem.

Each end is a TUN device; a thread here passes packets on, each after `delay` seconds, and drops
those that `drops` chooses. TUN devices without offloads carry one segment a packet, so a dropped
packet is a dropped segment. For kernels without sch_netem.
"""

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from .namespaces import Namespace, namespace

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_DEVICE = "wire0"
LEFT, RIGHT = "10.9.0.1", "10.9.0.2"
_MTU = 1500

Drops = Callable[[bytes], bool]
"""Whether a packet is dropped; called once for each."""


class LossyWire:
    """Two namespaces, `left` and `right`, with the addresses LEFT and RIGHT."""

    def __init__(self, left: Namespace, right: Namespace, delay: float, drops: Drops) -> None:
        self.left, self.right = left, right
        self.dropped = 0
        """Packets that were dropped so far."""
        self._delay = delay
        self._drops = drops
        self._ends = [_open(left, LEFT, RIGHT), _open(right, RIGHT, LEFT)]
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._pass_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for descriptor in (*self._ends, self._stop):
            os.close(descriptor)

    def _pass_on(self) -> None:
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        under_way: list[tuple[float, int, int, bytes]] = []
        number = 0
        while True:
            pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select([*self._ends, self._stop], [], [], pause)
            if self._stop in ready:
                return
            for end in ready:
                packet = os.read(end, 65536)
                if self._drops(packet):
                    self.dropped += 1
                    continue
                number += 1
                due = time.monotonic() + self._delay
                heapq.heappush(under_way, (due, number, other[end], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                os.write(end, packet)


def payload_of(packet: bytes) -> int:
    """Return the bytes of payload of a TCP packet over IPv4."""
    header = (packet[0] & 15) * 4
    return len(packet) - header - (packet[header + 12] >> 4) * 4


def drop_each(number: int) -> Drops:
    """Return what drops each packet with payload whose number is a multiple of `number`."""
    seen = 0

    def drops(packet: bytes) -> bool:
        nonlocal seen
        if packet[0] >> 4 != 4 or packet[9] != 6 or not payload_of(packet):
            return False
        seen += 1
        return seen % number == 0

    return drops


@contextmanager
def lossy_wire(delay: float, drops: Drops = lambda _packet: False) -> Iterator[LossyWire]:
    """Make two namespaces with a wire of this one-way delay between them."""
    with namespace() as left, namespace() as right, LossyWire(left, right, delay, drops) as wire:
        yield wire


def _open(end: Namespace, address: str, peer: str) -> int:
    def open_device() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        return descriptor

    descriptor = end.call(open_device)
    end.ip("link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", "10000", "up")
    end.ip("addr", "add", address, "peer", peer, "dev", _DEVICE)
    return descriptor
