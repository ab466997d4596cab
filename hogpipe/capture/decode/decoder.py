"""A batch of frames to flow sums. Pure: all that is kept between batches is the fragment table.

Ordinary frames of a large batch are decoded column by column; all others, and small batches, one by
one. Both ways give the same sums, which the tests hold.
"""

from collections.abc import Iterable

import msgspec
import numpy as np

from hogpipe.capture.decode.fragments import FirstFragment, FragmentTable, LaterFragment, Settled
from hogpipe.capture.decode.frame_batch import FrameBatch
from hogpipe.capture.decode.row_groups import Sums, no_sums, sum_by_key
from hogpipe.capture.decode.rows import Indices
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import Rejection
from hogpipe.capture.decode.vector_ip import MOST_BYTES, decode_packets
from hogpipe.capture.decode.vector_link import NOT_IP, locate_packets
from hogpipe.model import Tally

__all__ = ["Decoder", "FrameBatch", "WireFlows"]

LARGE_BATCH = 24
"""From about this many frames on, columns are cheaper than one by one."""


class WireFlows(msgspec.Struct, frozen=True):
    """What a batch held: for each packed wire key its packets, IP bytes, and whether it opened.

    `first_ns` and `last_ns` are when they passed, as in `FlowDelta`.
    Keys are unique, and in the same order whenever the same batch is decoded from the same state.
    `captured` is all of it: the IP length of each packet in a flow, the captured bytes of what was
    rejected. So the sums of the flows + not_ip + undecoded = captured. A later fragment that waits
    for its first counts, like any packet, when it is in a flow: with a later batch, or `flush`.
    """

    keys: list[bytes]
    packets: list[int]
    bytes: list[int]
    opened: list[bool]
    first_ns: list[int]
    last_ns: list[int]
    captured: Tally
    not_ip: Tally
    undecoded: Tally
    length_floored: Tally
    """Part of captured: BIG TCP packets that were counted as the least they can be."""

    @property
    def lengths_wanted(self) -> bool:
        """Whether original lengths would have made a length exact."""
        return self.length_floored.packets > 0


class Decoder:
    """Decodes the frames of one capture handle, in order; owns `fragments`.

    `snaplen` is how much of a frame the handle captures: a shorter one is whole, and an IP length
    of more than that is not believed. 0 where it is not known.
    """

    def __init__(self, link_type: int, fragments: FragmentTable, snaplen: int = 0) -> None:
        self._link_type = link_type
        self._fragments = fragments
        self._snaplen = snaplen

    def decode(self, batch: FrameBatch) -> WireFlows:
        """Return what `batch` held, and the fragments of earlier ones that it settled."""
        if not len(batch):
            return _Count(no_sums()).flows()
        times = batch.times_ns()
        clock = np.maximum.accumulate(times)
        if len(batch) >= LARGE_BATCH and len(batch.data) >= MOST_BYTES:
            count = self._decode_columns(batch, times, clock)
        else:
            count = _Count(no_sums())
            self._decode_each(batch, times, clock, count)
        count.settle(self._fragments.advance(int(clock[-1])))
        return count.flows()

    def flush(self) -> WireFlows:
        """Return the fragments that still wait, under their portless keys; forget all flows."""
        count = _Count(no_sums())
        count.settle(self._fragments.flush())
        return count.flows()

    def _decode_columns(self, batch: FrameBatch, times: Indices, clock: Indices) -> "_Count":
        """Decode the ordinary frames at once, and then the others one by one."""
        start = batch.records[:, 2].astype(np.int64)
        size = batch.records[:, 3].astype(np.int64)
        end = start + size
        packets = locate_packets(self._link_type, batch.data, start, end)
        ordinary = decode_packets(batch.data, packets, end)
        there = size.take(ordinary.frame)
        impossible = (ordinary.lengths > there) & (there < self._snaplen)
        if np.count_nonzero(impossible):
            ordinary = ordinary.take(~impossible)
        count = _Count(sum_by_key(ordinary, times))
        if len(ordinary.frame) < len(batch):
            foreign = packets.kind == NOT_IP
            count.not_ip = Tally(int(foreign.sum()), int(size[foreign].sum()))
            odd = ~foreign
            odd[ordinary.frame] = False
            self._decode_each(batch.take(odd), times[odd], clock[odd], count)
        return count

    def _decode_each(
        self, batch: FrameBatch, times: Indices, clock: Indices, count: "_Count"
    ) -> None:
        """Decode frames one by one; `clock` is the newest of the `times` that was seen by each."""
        data, lengths = batch.data, batch.original_lengths
        originals = [None] * len(batch) if lengths is None else lengths.tolist()
        places = batch.records[:, 2:].tolist()
        whens = zip(times.tolist(), clock.tolist(), strict=True)
        for (start, size), original, (at_ns, now_ns) in zip(places, originals, whens, strict=True):
            decoded = decode_frame(self._link_type, data[start : start + size], original)
            if not isinstance(decoded, DecodedFrame):
                count.reject(decoded, size)
                continue
            if decoded.length > size and size < self._snaplen:
                count.reject(Rejection.UNDECODED, size)
                continue
            if decoded.length_floored:
                count.length_floored.add(Tally(1, decoded.length))
            if decoded.fragment is None:
                count.add_one(decoded, at_ns)
            else:
                self._decode_fragment(decoded, at_ns, now_ns, count)

    def _decode_fragment(
        self, decoded: DecodedFrame, at_ns: int, now_ns: int, count: "_Count"
    ) -> None:
        match decoded.fragment:
            case FirstFragment(ident):
                count.add_one(decoded, at_ns)
                count.settle(self._fragments.first(ident, decoded.key, now_ns))
            case LaterFragment(ident):
                key, length = decoded.key, decoded.length
                count.settle(self._fragments.later(ident, key, length, now_ns, at_ns))


class _Count:
    """The sums of a batch as they grow."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._places: dict[bytes, int] | None = None
        self.not_ip = Tally()
        self.undecoded = Tally()
        self.length_floored = Tally()

    def add(
        self, key: bytes, packets: int, length: int, opened: bool, *, first_ns: int, last_ns: int
    ) -> None:
        sums = self._sums
        if self._places is None:
            self._places = {key: place for place, key in enumerate(sums.keys)}
        place = self._places.get(key)
        if place is None:
            self._places[key] = len(sums.keys)
            sums.keys.append(key)
            sums.packets.append(packets)
            sums.bytes.append(length)
            sums.opened.append(opened)
            sums.first_ns.append(first_ns)
            sums.last_ns.append(last_ns)
        else:
            sums.packets[place] += packets
            sums.bytes[place] += length
            sums.opened[place] |= opened
            sums.first_ns[place] = min(sums.first_ns[place], first_ns)
            sums.last_ns[place] = max(sums.last_ns[place], last_ns)

    def add_one(self, frame: DecodedFrame, at_ns: int) -> None:
        self.add(frame.key, 1, frame.length, frame.opened, first_ns=at_ns, last_ns=at_ns)

    def settle(self, settled: Iterable[Settled]) -> None:
        for one in settled:
            first_ns, last_ns = one.first_ns, one.last_ns
            self.add(one.key, one.packets, one.bytes, False, first_ns=first_ns, last_ns=last_ns)

    def reject(self, why: Rejection, size: int) -> None:
        (self.not_ip if why is Rejection.NOT_IP else self.undecoded).add(Tally(1, size))

    def flows(self) -> WireFlows:
        captured = Tally(sum(self._sums.packets), sum(self._sums.bytes))
        captured.add(self.not_ip)
        captured.add(self.undecoded)
        return WireFlows(*self._sums, captured, self.not_ip, self.undecoded, self.length_floored)
