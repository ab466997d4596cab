"""PURE: the frames of one capture handle, decoded into a row for each packet.

In: batches of frames of one link type, in the order of capture. Out: `DecodedFrames` for each
batch. Nothing raises: a frame that cannot be decoded is counted as undecoded.

Algorithm
    In a batch of LARGE_BATCH frames or more, ordinary frames are decoded as columns (`vector_link`,
    `vector_ip`). The frames that these leave over, and small batches, are decoded one by one
    (`scalar_link`, `scalar_ip`), and their rows follow those of the others. Both ways give the same
    rows: a property test holds it.

State
    Only the fragment table survives a batch. Its clock is the newest timestamp so far, since a live
    capture may hand over frames out of order.
"""

from collections.abc import Iterable
from itertools import accumulate

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
from hogpipe.capture.decode.wire_packets import (
    WIRE_WORDS,
    DecodedFrames,
    PacketRow,
    WirePackets,
    join_packets,
    make_packets,
)
from hogpipe.model import Tally

LARGE_BATCH = 12
"""From about this many frames on, columns cost less than one frame after the other."""

_UNBOUNDED = np.int64(1 << 40)


class _Rows:
    """Gathers what is decoded one by one."""

    def __init__(self) -> None:
        self.rows: list[PacketRow] = []
        self.not_ip, self.undecoded, self.length_floored = Tally(), Tally(), Tally()

    def add_fragments(self, fragments: Iterable[FragmentSum]) -> None:
        """Add later fragments whose key is known now."""
        self.rows += [
            (one.key, one.bytes, one.packets, False, one.first_ns, one.last_ns) for one in fragments
        ]

    def reject(self, why: Rejection, size: int) -> None:
        """Count a frame of `size` captured bytes that is in no row."""
        (self.not_ip if why is Rejection.NOT_IP else self.undecoded).add(Tally(1, size))

    def decoded(self, ordinary: WirePackets | None = None) -> DecodedFrames:
        """Return what was gathered, behind `ordinary` packets."""
        if ordinary is None:
            packets = make_packets(self.rows)
        elif not self.rows:
            packets = ordinary
        else:
            packets = join_packets([ordinary, make_packets(self.rows)])
        return DecodedFrames(packets, self.not_ip, self.undecoded, self.length_floored)


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

    def decode(self, batch: FrameBatch) -> DecodedFrames:
        """Return the packets of `batch`, and earlier fragments that it matched or outlived."""
        rows = _Rows()
        if not len(batch):
            return rows.decoded()
        ordinary = None
        if len(batch) >= LARGE_BATCH and len(batch.data) >= MAX_ROW_BYTES:
            times = batch.times_ns()
            ordinary = self._decode_columns(batch, times, rows)
            newest = int(times.max())
        else:
            whens = batch.list_times_ns()
            self._decode_each(batch, whens, accumulate(whens, max), rows)
            newest = max(whens)
        rows.add_fragments(self._fragments.expire(newest))
        return rows.decoded(ordinary)

    def flush(self) -> DecodedFrames:
        """Return the pending fragments under their portless keys, and empty the fragment table."""
        rows = _Rows()
        rows.add_fragments(self._fragments.flush())
        return rows.decoded()

    def _decode_columns(self, batch: FrameBatch, times: Indices, rows: _Rows) -> WirePackets:
        """Return the packets of ordinary frames, decoded as columns; decode the others one by one.

        Those are in `rows`.
        """
        # Contiguous columns; what follows costs a third more on columns of a table.
        start, size = batch.records[:, 2:].T.astype(np.int64, order="C")
        end = start + size
        packets = locate_packets(self._link_type, batch.data, start, end)
        ordinary = decode_packets(batch.data, packets, self._find_ends(batch, end, size))
        if len(ordinary.frame) < len(batch):
            not_ip = packets.kind == NOT_IP
            rows.not_ip.add(Tally(int(not_ip.sum()), int(size[not_ip].sum())))
            rest = ~not_ip
            rest[ordinary.frame] = False
            clock = np.maximum.accumulate(times)[rest]
            self._decode_each(batch.take(rest), times[rest].tolist(), clock.tolist(), rows)
            times = times[ordinary.frame]
        return _make_rows(ordinary, times)

    def _find_ends(self, batch: FrameBatch, end: Indices, size: Indices) -> FrameEnds:
        if batch.original_lengths is not None:
            return FrameEnds(end, end - size + np.maximum(size, batch.original_lengths))
        if size.max() < self._snaplen:
            return FrameEnds(end, end)
        return FrameEnds(end, np.where(size < self._snaplen, end, _UNBOUNDED))

    def _decode_each(
        self, batch: FrameBatch, times: Iterable[int], clock: Iterable[int], rows: _Rows
    ) -> None:
        """Decode one frame after the other; `clock` is the newest of `times` up to each frame."""
        data, lengths, snaplen = batch.data, batch.original_lengths, self._snaplen
        extents = batch.records[:, 2:].tolist()
        originals = [None] * len(batch) if lengths is None else lengths.tolist()
        whens = zip(times, clock, strict=True)
        for (start, size), original, (at_ns, now_ns) in zip(extents, originals, whens, strict=True):
            packet = decode_frame(self._link_type, data[start : start + size], original)
            if not isinstance(packet, DecodedFrame):
                rows.reject(packet, size)
                continue
            if packet.beyond_captured and original is None and size < snaplen:
                rows.reject(Rejection.UNDECODED, size)
                continue
            if packet.length_floored:
                rows.length_floored.add(Tally(1, packet.length))
            if not isinstance(packet.fragment, LaterFragment):
                rows.rows.append((packet.key, packet.length, 1, packet.opened, at_ns, at_ns))
            if packet.fragment is not None:
                self._ingest_fragment(packet, at_ns, now_ns, rows)

    def _ingest_fragment(self, packet: DecodedFrame, at_ns: int, now_ns: int, rows: _Rows) -> None:
        """Add what `packet`, captured at `at_ns`, makes countable; a later fragment may not be."""
        key, table = packet.key, self._fragments
        match packet.fragment:
            case FirstFragment(ident):
                rows.add_fragments(table.ingest_first(ident, key, now_ns))
            case LaterFragment(ident):
                rows.add_fragments(table.ingest_later(ident, key, packet.length, now_ns, at_ns))


def _make_rows(columns: PacketColumns, times_ns: Indices) -> WirePackets:
    count = len(columns.frame)
    keys = columns.keys.view(np.uint64).reshape(count, WIRE_WORDS)
    packets = np.ones(count, np.int64)
    return WirePackets(keys, columns.lengths, packets, columns.opened, times_ns, times_ns)
