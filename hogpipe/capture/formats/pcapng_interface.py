"""PURE: an Interface Description Block of a pcapng file, and the clock of its timestamps.

In: the body of the block (link type, reserved, snaplen, options) and the byte order of its section.
Out: an `InterfaceDescription`. A damaged option ends the list of options; those before it count.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.formats.record_chain import ByteOrder
from hogpipe.capture.formats.savefile_parser import SavefileInterface

Ticks = NDArray[np.uint64]
_FIXED_BYTES = 8
_END, _NAME, _RESOLUTION, _OFFSET = 0, 2, 9, 14
_MAX_NAME_BYTES = 256
_BINARY = 0x80
"""The bit of a resolution that makes it a negative power of two; otherwise it is one of ten."""
_MAX_SECONDS = 0xFFFFFFFF  # of a frame's timestamp (`FrameBatch.records`)
_MICROSECONDS = 1_000_000
_THOUSAND = np.uint64(1000)
_MAX_TICKS = (1 << 64) - 1
_MAX_RATE = 1 << 43
"""Ticks a second for which a number of ticks below one second, times a million, has 64 bits."""


class Times(NamedTuple):
    """Seconds since the epoch, microseconds, and nanoseconds below 1000; None if those are 0."""

    seconds: Ticks
    microseconds: Ticks
    nanoseconds: NDArray[np.uint16] | None


class Clock(NamedTuple):
    """How an interface counts time: after division by `divisor`, `rate` ticks are a second."""

    rate: int
    divisor: int = 1
    offset: int = 0
    """Seconds that are added."""

    def read_times(self, ticks: Ticks) -> Times:
        """Return the times of ticks; those beyond the years 1970 to 2106 are clipped."""
        rate = np.uint64(self.rate)
        if self.divisor > 1:
            ticks = ticks // np.uint64(self.divisor)
        seconds = ticks // rate
        fraction, nanoseconds = ticks - seconds * rate, None
        if self.rate != _MICROSECONDS:
            fraction *= np.uint64(_MICROSECONDS)
            if _MICROSECONDS % self.rate:  # a tick may end between two microseconds
                fraction, rest = np.divmod(fraction, rate)
                nanoseconds = (rest * _THOUSAND // rate).astype(np.uint16)
            else:
                fraction //= rate
        if self.offset:
            offset = max(min(self.offset, _MAX_SECONDS), -2 * _MAX_SECONDS)
            total = np.minimum(seconds, np.uint64(2 * _MAX_SECONDS)).astype(np.int64) + offset
            seconds = np.maximum(total, 0).astype(np.uint64)
        return Times(np.minimum(seconds, np.uint64(_MAX_SECONDS)), fraction, nanoseconds)


DEFAULT_CLOCK = Clock(_MICROSECONDS)


class InterfaceDescription(NamedTuple):
    """An interface of a section; `snaplen` is 0 where it has no limit."""

    interface: SavefileInterface
    snaplen: int
    clock: Clock


def parse_interface(body: bytes, order: ByteOrder) -> InterfaceDescription:
    """Return the interface that `body` describes; it has eight bytes at least."""
    link_type, snaplen = struct.unpack_from(order + "H2xI", body)
    name, resolution, offset = "", 6, 0
    for code, value in _parse_options(body[_FIXED_BYTES:], order):
        if code == _NAME:
            name = value[:_MAX_NAME_BYTES].rstrip(b"\0").decode(errors="replace")
        elif code == _RESOLUTION and len(value) == 1:
            resolution = value[0]
        elif code == _OFFSET and len(value) == 8:
            (offset,) = struct.unpack(order + "q", value)
    clock = _make_clock(resolution, offset)
    return InterfaceDescription(SavefileInterface(link_type, name), snaplen, clock)


def _parse_options(options: bytes, order: ByteOrder) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, at)
        at += 4
        if code == _END or at + size > len(options):
            return
        yield code, options[at : at + size]
        at += size + -size % 4


def _make_clock(resolution: int, offset: int) -> Clock:
    """Return the clock of a resolution, as the option `if_tsresol` encodes it."""
    base, power = (2 if resolution & _BINARY else 10), resolution & ~_BINARY
    rate, divisor = base**power, 1
    while rate > _MAX_RATE:
        rate, divisor = rate // base, divisor * base
    return Clock(rate, min(divisor, _MAX_TICKS), offset)
