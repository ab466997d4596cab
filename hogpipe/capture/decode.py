"""A batch of frames to flow sums. Pure: all that is kept between batches is the fragment table.

Ordinary frames of a large batch are decoded column by column; all others, and small batches, one by
one. Both ways give the same sums, which the tests hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from hogpipe.capture.bulk_link import NOT_IP, Indices, locate_packets
from hogpipe.capture.bulk_packet import MOST_BYTES, PacketColumns, decode_packets
from hogpipe.capture.fragments import FirstFragment, FragmentTable, LaterFragment, Settled
from hogpipe.capture.frame import decode_frame
from hogpipe.capture.frames import FrameBatch
from hogpipe.capture.grouping import Sums, sum_by_key
from hogpipe.capture.link import Rejection
from hogpipe.model import Tally

__all__ = ["Decoder", "FrameBatch", "WireFlows"]

LARGE_BATCH = 48
"""From about this many frames on, columns are cheaper than one by one."""


class WireFlows(msgspec.Struct, frozen=True):
    """What a batch held: for each packed wire key its packets, IP bytes, and whether it opened.

    Keys are unique, and in the same order whenever the same batch is decoded from the same state.
    `captured` is all of it: the IP length of each packet in a flow, the captured bytes of what was
    rejected. So the sums of the flows + not_ip + undecoded = captured. A later fragment that waits
    for its first counts, like any packet, when it is in a flow: with a later batch, or `flush`.
    """

    keys: list[bytes]
    packets: list[int]
    bytes: list[int]
    opened: list[bool]
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
    """Decodes the frames of one capture handle, in order; owns `fragments`."""

    def __init__(self, link_type: int, fragments: FragmentTable) -> None:
        self._link_type = link_type
        self._fragments = fragments

    def decode(self, batch: FrameBatch) -> WireFlows:
        """Return what `batch` held, and the fragments of earlier ones that it settled."""
        if len(batch) >= LARGE_BATCH and len(batch.data) >= MOST_BYTES:
            count, odd = self._decode_columns(batch)
        else:
            count, odd = _Count(Sums([], [], [], [])), np.arange(len(batch))
        self._decode_each(batch, odd, count)
        return count.flows()

    def flush(self) -> WireFlows:
        """Return the fragments that still wait, under their portless keys; forget all flows."""
        count = _Count(Sums([], [], [], []))
        count.settle(self._fragments.flush())
        return count.flows()

    def _decode_columns(self, batch: FrameBatch) -> tuple["_Count", Indices]:
        """Decode the ordinary frames; return also which ones are left."""
        start = batch.records[:, 2].astype(np.int64)
        size = batch.records[:, 3].astype(np.int64)
        end = start + size
        packets = locate_packets(self._link_type, batch.data, start, end)
        columns = [decode_packets(batch.data, packets, end, version) for version in (4, 6)]
        ordinary = PacketColumns(*map(np.concatenate, zip(*columns, strict=True)))
        foreign = packets.kind == NOT_IP
        left = ~foreign
        left[ordinary.frame] = False
        count = _Count(sum_by_key(ordinary))
        count.captured = Tally(len(ordinary.frame), int(ordinary.lengths.sum()))
        count.not_ip = Tally(int(foreign.sum()), int(size[foreign].sum()))
        count.captured.add(count.not_ip)
        return count, np.flatnonzero(left)

    def _decode_each(self, batch: FrameBatch, indices: Indices, count: "_Count") -> None:
        """Decode the frames at `indices` one by one, then let time pass."""
        if not len(batch):
            return
        clock = np.maximum.accumulate(batch.times_ns())
        lengths = batch.original_lengths
        places = batch.records[indices, 2:].tolist()
        for index, (start, size) in zip(indices.tolist(), places, strict=True):
            frame = batch.data[start : start + size]
            original = None if lengths is None else int(lengths[index])
            decoded = decode_frame(self._link_type, frame, original)
            if isinstance(decoded, Rejection):
                count.reject(decoded, size)
                continue
            if decoded.length_floored:
                count.length_floored.add(Tally(1, decoded.length))
            fragment, now = decoded.fragment, int(clock[index])
            if isinstance(fragment, LaterFragment):
                count.settle(
                    self._fragments.later(fragment.ident, decoded.key, decoded.length, now)
                )
                continue
            count.add(decoded.key, 1, decoded.length, opened=decoded.opened)
            if isinstance(fragment, FirstFragment):
                count.settle(self._fragments.first(fragment.ident, decoded.key, now))
        count.settle(self._fragments.advance(int(clock[-1])))


@dataclass(slots=True)
class _Count:
    """The sums of a batch as they grow."""

    sums: Sums
    captured: Tally = field(default_factory=Tally)
    not_ip: Tally = field(default_factory=Tally)
    undecoded: Tally = field(default_factory=Tally)
    length_floored: Tally = field(default_factory=Tally)
    _places: dict[bytes, int] | None = None

    def add(self, key: bytes, packets: int, length: int, *, opened: bool) -> None:
        self.captured.packets += packets
        self.captured.bytes += length
        if self._places is None:
            self._places = {key: place for place, key in enumerate(self.sums.keys)}
        place = self._places.setdefault(key, len(self._places))
        if place == len(self.sums.keys):
            self.sums.keys.append(key)
            self.sums.packets.append(packets)
            self.sums.bytes.append(length)
            self.sums.opened.append(opened)
        else:
            self.sums.packets[place] += packets
            self.sums.bytes[place] += length
            self.sums.opened[place] |= opened

    def settle(self, settled: Iterable[Settled]) -> None:
        for one in settled:
            self.add(one.key, one.packets, one.bytes, opened=False)

    def reject(self, why: Rejection, size: int) -> None:
        self.captured.add(Tally(1, size))
        (self.not_ip if why is Rejection.NOT_IP else self.undecoded).add(Tally(1, size))

    def flows(self) -> WireFlows:
        return WireFlows(
            *self.sums, self.captured, self.not_ip, self.undecoded, self.length_floored
        )
