"""PURE: the frames of one capture handle, summed by wire key.

In: batches of frames of one link type, in the order of capture. Out: `WireFlows` for each batch.
Nothing raises: a frame that cannot be decoded is counted as undecoded.

Algorithm
    In a batch of LARGE_BATCH frames or more, ordinary frames are decoded as columns (`vector_link`,
    `vector_ip`). The frames that these leave over, and small batches, are decoded one by one
    (`scalar_link`, `scalar_ip`). Both ways give the same sums: a property test holds it.

State
    Only the fragment table survives a batch. Its clock is the newest timestamp so far, since a live
    capture may hand over frames out of order.
"""

from collections.abc import Iterable

import msgspec
import numpy as np

from hogpipe.capture.decode.columns import FrameBatch, Indices
from hogpipe.capture.decode.fragments import (
    FirstFragment,
    FragmentSum,
    FragmentTable,
    LaterFragment,
)
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import Rejection
from hogpipe.capture.decode.vector_ip import (
    MAX_ROW_BYTES,
    FrameEnds,
    PacketColumns,
    decode_packets,
)
from hogpipe.capture.decode.vector_link import NOT_IP, locate_packets
from hogpipe.flows.row_order import order_by_key
from hogpipe.model import Tally

LARGE_BATCH = 24
"""From about this many frames on, columns cost less than one frame after the other."""

_UNBOUNDED = np.int64(1 << 40)


class WireFlows(msgspec.Struct):
    """The sums of a batch: a row for each packed wire key, and what is in no flow.

    Keys are unique, in order of first appearance, so the same batch decoded from the same state
    gives the same rows. A later fragment that is pending for its first is in no sum yet: it counts,
    like any packet, in the batch in which it is matched or expires.
    """

    keys: list[bytes] = []
    packets: list[int] = []
    bytes: list[int] = []
    """IP lengths."""
    opened: list[bool] = []
    """Whether a TCP SYN without ACK was among the packets."""
    first_ns: list[int] = []
    """When the first of the packets was captured, nanoseconds since the epoch."""
    last_ns: list[int] = []
    """When the last of the packets was captured."""
    not_ip: Tally = msgspec.field(default_factory=Tally)
    undecoded: Tally = msgspec.field(default_factory=Tally)
    length_floored: Tally = msgspec.field(default_factory=Tally)
    """BIG TCP packets in the flows that were counted with the least length they can have."""

    @property
    def captured(self) -> Tally:
        """The whole batch: IP lengths of packets, captured lengths of frames that have none."""
        total = Tally(sum(self.packets), sum(self.bytes))
        total.add(self.not_ip)
        total.add(self.undecoded)
        return total

    @property
    def needs_original_lengths(self) -> bool:
        """Whether original lengths would have made a length exact."""
        return self.length_floored.packets > 0


class _FlowSums:
    """Adds packets to `flows`, one at a time or several of one key."""

    def __init__(self, flows: WireFlows) -> None:
        self.flows = flows
        self._row_of: dict[bytes, int] | None = None
        """By key; made when the first packet is added, which most batches never need."""

    def add(
        self, key: bytes, packets: int, length: int, opened: bool, *, first_ns: int, last_ns: int
    ) -> None:
        """Add packets of `key` with `length` IP bytes together."""
        flows = self.flows
        if self._row_of is None:
            self._row_of = {known: row for row, known in enumerate(flows.keys)}
        row = self._row_of.get(key)
        if row is None:
            self._row_of[key] = len(flows.keys)
            flows.keys.append(key)
            flows.packets.append(packets)
            flows.bytes.append(length)
            flows.opened.append(opened)
            flows.first_ns.append(first_ns)
            flows.last_ns.append(last_ns)
        else:
            flows.packets[row] += packets
            flows.bytes[row] += length
            flows.opened[row] |= opened
            flows.first_ns[row] = min(flows.first_ns[row], first_ns)
            flows.last_ns[row] = max(flows.last_ns[row], last_ns)

    def add_fragments(self, fragments: Iterable[FragmentSum]) -> None:
        """Add later fragments whose key is known now."""
        for one in fragments:
            first_ns, last_ns = one.first_ns, one.last_ns
            self.add(one.key, one.packets, one.bytes, False, first_ns=first_ns, last_ns=last_ns)

    def reject(self, why: Rejection, size: int) -> None:
        """Count a frame of `size` captured bytes that is in no flow."""
        flows = self.flows
        (flows.not_ip if why is Rejection.NOT_IP else flows.undecoded).add(Tally(1, size))


class Decoder:
    """Decodes the frames of one capture handle, in order; owns `fragments`.

    No packet counts more bytes than its frame has on the link. Batches with original lengths need
    nothing else for that. Without them, `snaplen` is the number of captured bytes from which on a
    frame may have been cut, and the handle has proven lengths (`length_filter.py`):

    - The packet in a frame with fewer bytes ends within them: the frame is whole, or its IP header
      claims more than it has.
    - The length in a frame with as many bytes has been compared with the frame's.
    """

    def __init__(self, link_type: int, fragments: FragmentTable, snaplen: int = 0) -> None:
        self._link_type = link_type
        self._fragments = fragments
        self._snaplen = snaplen

    def decode(self, batch: FrameBatch) -> WireFlows:
        """Return the sums of `batch`, and of earlier fragments that it matched or outlived."""
        if not len(batch):
            return WireFlows()
        times = batch.times_ns()
        clock = np.maximum.accumulate(times)
        if len(batch) >= LARGE_BATCH and len(batch.data) >= MAX_ROW_BYTES:
            sums = self._decode_columns(batch, times, clock)
        else:
            sums = _FlowSums(WireFlows())
            self._decode_each(batch, times, clock, sums)
        sums.add_fragments(self._fragments.expire(int(clock[-1])))
        return sums.flows

    def flush(self) -> WireFlows:
        """Return the pending fragments under their portless keys, and empty the fragment table."""
        sums = _FlowSums(WireFlows())
        sums.add_fragments(self._fragments.flush())
        return sums.flows

    def _decode_columns(self, batch: FrameBatch, times: Indices, clock: Indices) -> _FlowSums:
        """Decode the ordinary frames as columns, and then the others one by one."""
        start = batch.records[:, 2].astype(np.int64)
        size = batch.records[:, 3].astype(np.int64)
        end = start + size
        packets = locate_packets(self._link_type, batch.data, start, end)
        ordinary = decode_packets(batch.data, packets, self._find_ends(batch, end, size))
        sums = _FlowSums(sum_by_key(ordinary, times))
        if len(ordinary.frame) < len(batch):
            not_ip = packets.kind == NOT_IP
            sums.flows.not_ip = Tally(int(not_ip.sum()), int(size[not_ip].sum()))
            rest = ~not_ip
            rest[ordinary.frame] = False
            self._decode_each(batch.take(rest), times[rest], clock[rest], sums)
        return sums

    def _find_ends(self, batch: FrameBatch, end: Indices, size: Indices) -> FrameEnds:
        if batch.original_lengths is not None:
            return FrameEnds(end, end - size + np.maximum(size, batch.original_lengths))
        return FrameEnds(end, np.where(size < self._snaplen, end, _UNBOUNDED))

    def _decode_each(
        self, batch: FrameBatch, times: Indices, clock: Indices, sums: _FlowSums
    ) -> None:
        """Decode one frame after the other; `clock` is the newest of `times` up to each frame."""
        data, lengths, snaplen = batch.data, batch.original_lengths, self._snaplen
        extents = batch.records[:, 2:].tolist()
        originals = [None] * len(batch) if lengths is None else lengths.tolist()
        whens = zip(times.tolist(), clock.tolist(), strict=True)
        for (start, size), original, (at_ns, now_ns) in zip(extents, originals, whens, strict=True):
            packet = decode_frame(self._link_type, data[start : start + size], original)
            if not isinstance(packet, DecodedFrame):
                sums.reject(packet, size)
                continue
            if packet.beyond_captured and original is None and size < snaplen:
                sums.reject(Rejection.UNDECODED, size)
                continue
            if packet.length_floored:
                sums.flows.length_floored.add(Tally(1, packet.length))
            if not isinstance(packet.fragment, LaterFragment):
                sums.add(packet.key, 1, packet.length, packet.opened, first_ns=at_ns, last_ns=at_ns)
            if packet.fragment is not None:
                self._ingest_fragment(packet, at_ns, now_ns, sums)

    def _ingest_fragment(
        self, packet: DecodedFrame, at_ns: int, now_ns: int, sums: _FlowSums
    ) -> None:
        """Add what `packet`, captured at `at_ns`, makes countable; a later fragment may not be."""
        key, table = packet.key, self._fragments
        match packet.fragment:
            case FirstFragment(ident):
                sums.add_fragments(table.ingest_first(ident, key, now_ns))
            case LaterFragment(ident):
                sums.add_fragments(table.ingest_later(ident, key, packet.length, now_ns, at_ns))


def sum_by_key(columns: PacketColumns, times_ns: Indices) -> WireFlows:
    """Return the sums of `columns`, exact whatever the keys are; `times_ns` has all frames'."""
    if not len(columns.frame):
        return WireFlows()
    words = columns.keys.view(np.uint64).reshape(len(columns.keys), -1)
    order, bounds = order_by_key(words)
    starts = bounds[:-1]
    packets = bounds[1:] - starts
    totals = np.add.reduceat(columns.lengths[order], starts)
    opened = np.logical_or.reduceat(columns.opened[order], starts)
    times = times_ns[columns.frame[order]]
    first_ns, last_ns = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    heads = np.minimum.reduceat(order, starts)
    appearance = heads.argsort()
    return WireFlows(
        columns.keys[heads[appearance]].tolist(),
        packets[appearance].tolist(),
        totals[appearance].tolist(),
        opened[appearance].tolist(),
        first_ns[appearance].tolist(),
        last_ns[appearance].tolist(),
    )
