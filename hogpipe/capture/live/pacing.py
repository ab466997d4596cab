"""PURE: how long the capture thread rests between two batches.

In: the CPU time of the last iteration, the interval that attribution sets, how many iterations in a
row had no flow that needed a decision, whether no new flows come, and for each ring its size and
what the last read found in it. Out: seconds.

Why it rests
    A batch has a fixed cost, so frames gather for a multiple of the CPU time that the last
    iteration took. Where attribution gains nothing from an earlier batch, they gather for longer:
    up to the interval that attribution sets, where that is long; and twice as long with each
    iteration in a row in which all packets were of known flows. Where these are many, and no new
    flow has come for `STEADY_SECONDS`, they gather for `_STEADY_FACTOR` times the usual interval:
    the fixed cost is what counts then, and the first packet of a new flow may be that much later.
    A shorter interval holds for `STEADY_SECONDS` after attribution set it, which it does with each
    lookup of flows that were not known: then the usual one does (`relax`).

How long it may
    A ring must not overflow meanwhile. A rest ends when half of the smallest ring is full at the
    rate of the frames last read, or at `_BURST_RATE` if that is higher: a flood may begin at any
    time. The block that the kernel is filling cannot be read, so it does not count as room.

Known limits: packets of two processes may be summed where one reuses a five-tuple of the other
after a second in which no flow was looked up. A flood of more than `_BURST_RATE` that begins during
a rest may overflow a ring until its first frames are read.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.protocols import NANOSECONDS

# The usual rest is a multiple of the CPU time of the last iteration, within bounds.
_REST_FACTOR = 24
_MIN_REST = 0.002
_MAX_DOUBLINGS = 4  # from the shortest rest to beyond the usual one
USUAL_REST = 0.02
STEADY_SECONDS = 1.0
_STEADY_FACTOR = 3
_STEADY_BYTES = 1 << 15
"""In the rings, for a usual interval; some 170 short frames, or 8,500 a second."""

BLOCK_BYTES = 1 << 18
"""Of a ring: what the kernel passes on at a time (libpcap)."""
FRAME_OVERHEAD = 96
"""Bytes in a ring beside those of a frame (struct tpacket3_hdr, sockaddr_ll, alignment)."""
_FULL_SHARE = 0.5
_BURST_RATE = 52_000_000
"""Bytes a second: some 270,000 short frames, and half a ring of 16 MiB in the longest rest."""
_MIN_SPAN = 0.002
"""Seconds; frames that came in less than that do not show a rate."""


class RingFill(NamedTuple):
    """A ring of `size` bytes, and what the last read found in it."""

    size: int
    read_bytes: int = 0
    span: float = 0.0
    """Seconds from the first to the last frame that was read."""

    @property
    def lasts(self) -> float:
        """Seconds until the share of the ring that may be full is full."""
        rate = max(self.read_bytes / max(self.span, _MIN_SPAN), _BURST_RATE)
        return _FULL_SHARE * max(self.size - BLOCK_BYTES, BLOCK_BYTES) / rate


def measure_fill(size: int, frames: FrameBatch) -> RingFill:
    """Return what `frames`, those of one read, took of a ring of `size` bytes."""
    if not len(frames):
        return RingFill(size)
    read_bytes = int(frames.records[:, 3].sum()) + FRAME_OVERHEAD * len(frames)
    return RingFill(size, read_bytes, (frames.time_ns(-1) - frames.time_ns(0)) / NANOSECONDS)


def relax(batch_interval: float, age: float) -> float:
    """Return for how long frames may gather, by an interval that was set `age` seconds ago."""
    return max(batch_interval, USUAL_REST) if age >= STEADY_SECONDS else batch_interval


def choose_rest(
    cpu_seconds: float,
    batch_interval: float,
    rings: Sequence[RingFill],
    quiet_iterations: int = 0,
    *,
    is_steady: bool = False,
) -> float:
    """Return how long to rest after an iteration that took `cpu_seconds`.

    It was the last one of `quiet_iterations` in a row without a flow that needs a decision. It
    `is_steady` if no new flow has come for STEADY_SECONDS.
    """
    rest = batch_interval
    if batch_interval <= USUAL_REST:
        usual = max(_REST_FACTOR * cpu_seconds, _MIN_REST)
        rest = min(usual * 2 ** min(quiet_iterations, _MAX_DOUBLINGS), batch_interval)
    read_bytes = sum(ring.read_bytes for ring in rings)
    if is_steady and batch_interval == USUAL_REST and read_bytes >= _STEADY_BYTES:
        rest = _STEADY_FACTOR * USUAL_REST
    return min(rest, min((ring.lasts for ring in rings), default=rest))
