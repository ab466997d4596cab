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
from hogpipe.capture.decode.vector_ip import MOST_BYTES, decode_packets
from hogpipe.capture.decode.vector_link import NOT_IP, locate_packets
from hogpipe.capture.decode.wire_flows import WireFlows, WireFlowSums, sum_by_key
from hogpipe.model import Tally

LARGE_BATCH = 24
"""From about this many frames on, columns cost less than one frame after the other."""


class Decoder:
    """Decodes the frames of one capture handle, in order; owns `fragments`.

    `snaplen` is how many bytes of a frame the handle captures. A frame with fewer captured bytes is
    whole, so an IP length beyond its end is invalid. 0 where the snaplen is not known.
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
        if len(batch) >= LARGE_BATCH and len(batch.data) >= MOST_BYTES:
            sums = self._decode_columns(batch, times, clock)
        else:
            sums = WireFlowSums(WireFlows())
            self._decode_each(batch, times, clock, sums)
        _add_fragments(sums, self._fragments.expire(int(clock[-1])))
        return sums.flows

    def flush(self) -> WireFlows:
        """Return the pending fragments under their portless keys, and empty the fragment table."""
        sums = WireFlowSums(WireFlows())
        _add_fragments(sums, self._fragments.flush())
        return sums.flows

    def _decode_columns(self, batch: FrameBatch, times: Indices, clock: Indices) -> WireFlowSums:
        """Decode the ordinary frames as columns, and then the others one by one."""
        start = batch.records[:, 2].astype(np.int64)
        size = batch.records[:, 3].astype(np.int64)
        end = start + size
        packets = locate_packets(self._link_type, batch.data, start, end)
        ordinary = decode_packets(batch.data, packets, end)
        captured = size.take(ordinary.frame)
        invalid = (ordinary.lengths > captured) & (captured < self._snaplen)
        if np.count_nonzero(invalid):
            ordinary = ordinary.take(~invalid)
        sums = WireFlowSums(sum_by_key(ordinary, times))
        if len(ordinary.frame) < len(batch):
            not_ip = packets.kind == NOT_IP
            sums.flows.not_ip = Tally(int(not_ip.sum()), int(size[not_ip].sum()))
            rest = ~not_ip
            rest[ordinary.frame] = False
            self._decode_each(batch.take(rest), times[rest], clock[rest], sums)
        return sums

    def _decode_each(
        self, batch: FrameBatch, times: Indices, clock: Indices, sums: WireFlowSums
    ) -> None:
        """Decode one frame after the other; `clock` is the newest of `times` up to each frame."""
        data, lengths = batch.data, batch.original_lengths
        originals = [None] * len(batch) if lengths is None else lengths.tolist()
        extents = batch.records[:, 2:].tolist()
        whens = zip(times.tolist(), clock.tolist(), strict=True)
        for (start, size), original, (at_ns, now_ns) in zip(extents, originals, whens, strict=True):
            packet = decode_frame(self._link_type, data[start : start + size], original)
            if not isinstance(packet, DecodedFrame):
                _reject(sums.flows, packet, size)
                continue
            if packet.length > size and size < self._snaplen:
                _reject(sums.flows, Rejection.UNDECODED, size)
                continue
            if packet.length_floored:
                sums.flows.length_floored.add(Tally(1, packet.length))
            if not isinstance(packet.fragment, LaterFragment):
                sums.add(packet.key, 1, packet.length, packet.opened, first_ns=at_ns, last_ns=at_ns)
            if packet.fragment is not None:
                self._ingest_fragment(packet, at_ns, now_ns, sums)

    def _ingest_fragment(
        self, packet: DecodedFrame, at_ns: int, now_ns: int, sums: WireFlowSums
    ) -> None:
        """Add what `packet`, captured at `at_ns`, makes countable; a later fragment may not be."""
        key, table = packet.key, self._fragments
        match packet.fragment:
            case FirstFragment(ident):
                _add_fragments(sums, table.ingest_first(ident, key, now_ns))
            case LaterFragment(ident):
                _add_fragments(sums, table.ingest_later(ident, key, packet.length, now_ns, at_ns))


def _add_fragments(sums: WireFlowSums, fragments: Iterable[FragmentSum]) -> None:
    for one in fragments:
        first_ns, last_ns = one.first_ns, one.last_ns
        sums.add(one.key, one.packets, one.bytes, False, first_ns=first_ns, last_ns=last_ns)


def _reject(flows: WireFlows, why: Rejection, size: int) -> None:
    (flows.not_ip if why is Rejection.NOT_IP else flows.undecoded).add(Tally(1, size))
