"""A pcap or pcapng file as a source: time follows the timestamps of its packets.

In: the file. Out: flow batches, none of which spans two windows, or has more packets than the flow
table surely has room for.

Each interface of the file has a decoder of its own, so one file may have several link types. Its
name in the file (pcapng) is that of the flows' interface; classic pcap has no names.

Frames of a link type that cannot be decoded are counted as undecoded, and named once, at the end.
Where nothing could be decoded, that is an error.

Known limit: a file does not say which of its interfaces are stacked, so a packet that was captured
on two of them counts on each.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.link_type_names import (
    describe_link_type,
    is_decodable,
    suggest_capture,
)
from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.formats.savefile_parser import ParsedFrames, SavefileInterface
from hogpipe.capture.frame_tap import FrameTap, TappedInterface
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.savefile_reader import SavefileReader
from hogpipe.capture.wire_interfaces import WireInterfaces
from hogpipe.capture.wire_table import WireTable
from hogpipe.errors import CaptureError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.model import Networks
from hogpipe.protocols import NANOSECONDS
from hogpipe.text import printable

log = logging.getLogger(__name__)


class _Interface:
    """One interface of the file: its decoder, and its number in the wire table."""

    def __init__(
        self, interface: SavefileInterface, local: LocalAddresses, interfaces: WireInterfaces
    ) -> None:
        self._decoder = Decoder(interface.link_type, FragmentTable())
        self._tapped = TappedInterface(interface.name, interface.link_type)
        self._number = interfaces.add(interface.name, local)

    def show(self, frames: FrameBatch, places: Sequence[int], tap: FrameTap) -> None:
        """Show `frames`, which have these places in their piece of the file, to a tap."""
        tap.take(frames, self._tapped, self._number, places)

    def count(self, frames: FrameBatch, captured: CapturedPackets) -> None:
        """Add the packets and counts of `frames`."""
        captured.add(self._decoder.decode(frames), self._number)

    def flush(self, captured: CapturedPackets) -> None:
        """Add the pending fragments."""
        captured.add(self._decoder.flush(), self._number)


class SavefileSource:
    """The frames of a savefile, in batches within one window of `interval_ns`; see PacketSource.

    Windows never go back: a packet with an earlier timestamp than one before it counts in the
    window of that one. A `tap` gets the frames. `run` raises CaptureError at the end of a file that
    is cut or damaged, or of which nothing could be decoded.
    """

    live = False
    closes_windows = False

    def __init__(
        self,
        path: Path,
        table: FlowTable,
        *,
        expression: str,
        local: LocalAddresses,
        interval_ns: int,
        tap: FrameTap | None = None,
    ) -> None:
        self._tap = tap
        self._name = printable(str(path))
        self._interval_ns = interval_ns
        self._local = local
        self._wire_table = WireTable(table)
        self._reader = SavefileReader(path, expression)
        self._interfaces: dict[int, _Interface] = {}
        self._undecodable: Counter[int] = Counter()
        """Frames by link type, of those that cannot be decoded."""
        self._captured, self._undecoded = 0, 0
        self._newest_ns = 0
        self._stopped = threading.Event()

    def open(self) -> None:
        """Open the file; see PacketSource."""
        self._reader.open()

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Offer all packets of the file; see PacketSource."""
        try:
            for frames in self._read_pieces():
                captured = CapturedPackets()
                self._count(frames, captured)
                self._offer(captured, offer)
            for interface in self._interfaces.values():
                captured = CapturedPackets()
                interface.flush(captured)
                self._offer(captured, offer)
        finally:
            self.close()
        self._report()

    def set_batch_interval(self, seconds: float) -> None:
        """Do nothing: a replay is read as fast as it is processed."""

    def regroup(self, interval_ns: int, fields: Collection[str], networks: Networks) -> None:
        """Do nothing: a replay is not regrouped."""

    def close(self) -> None:
        """Close the file; see PacketSource."""
        self._reader.close()

    def stop(self) -> None:
        """Make `run` return after the current batch."""
        self._stopped.set()

    def _read_pieces(self) -> Iterator[ParsedFrames]:
        """Yield the frames in pieces of one window each, until stopped."""
        for parsed in self._reader.read_chunks():
            for piece in self._split(parsed):
                if self._stopped.is_set():
                    return
                yield piece

    def _split(self, parsed: ParsedFrames) -> Iterator[ParsedFrames]:
        """Yield `parsed` in pieces of one window each, with `_newest_ns` set for each piece.

        A piece is as small as the wire table demands.
        """
        frames = parsed.frames
        if not len(frames):
            return
        times, interval_ns = frames.times_ns(), self._interval_ns
        most = self._wire_table.max_packets
        first, last = max(int(times[0]), self._newest_ns), max(int(times.max()), self._newest_ns)
        if first // interval_ns == last // interval_ns and len(frames) <= most:
            self._newest_ns = last  # most chunks, without more passes
            yield parsed
            return
        newest = np.maximum.accumulate(np.maximum(times, self._newest_ns))
        cuts = [0, *(np.flatnonzero(np.diff(newest // interval_ns)) + 1).tolist(), len(frames)]
        for start, stop in _split_longer(cuts, most):
            self._newest_ns = int(newest[stop - 1])
            interface = parsed.interface[start:stop]
            yield ParsedFrames(frames.slice(start, stop), interface, parsed.used)

    def _count(self, piece: ParsedFrames, captured: CapturedPackets) -> None:
        """Add the packets and counts of `piece`, interface by interface."""
        indices = piece.list_interfaces()
        for index in indices:
            frames = (
                piece.frames if len(indices) == 1 else piece.frames.take(piece.interface == index)
            )
            if index not in self._interfaces:
                self._interfaces[index] = _Interface(
                    self._reader.interfaces[index], self._local, self._wire_table.interfaces
                )
            self._interfaces[index].count(frames, captured)
            if self._tap is not None:
                places = np.flatnonzero(piece.interface == index).tolist()
                self._interfaces[index].show(frames, places, self._tap)
            link_type = self._reader.interfaces[index].link_type
            if not is_decodable(link_type):
                self._undecodable[link_type] += len(frames)

    def _offer(self, captured: CapturedPackets, offer: Callable[[FlowBatch], None]) -> None:
        counts, now = captured.counts, self._newest_ns / NANOSECONDS
        rows = self._wire_table.locate(captured.join(), counts, now)
        if self._tap is not None:
            self._tap.locate(self._wire_table.find_sides)
        self._captured += counts.captured.packets
        self._undecoded += counts.undecoded.packets
        if counts.captured.packets:
            offer(FlowBatch(rows=rows, counts=counts, time_ns=self._newest_ns))
        if self._tap is not None:
            self._tap.end_batch()
        self._wire_table.evict(now)

    def _report(self) -> None:
        """Log what could not be read or decoded.

        Raises CaptureError if the file is damaged, or if it has frames or unknown blocks and
        nothing of them could be decoded.
        """
        unread = [*self._describe_undecodable(), *self._describe_skipped()]
        if self._reader.failure is not None:
            failure = self._reader.failure
        elif self._captured == self._undecoded and (self._captured or unread):
            failure = f"none of {_count(self._captured, 'frame')} could be decoded"
            if unread:
                failure = f"{failure}: {'; '.join(unread)}"
                unread = []
        else:
            failure = None
        for text in unread:
            log.warning("%s: %s", self._name, text)
        if failure is not None:
            raise CaptureError(f"{self._name}: {failure}")

    def _describe_undecodable(self) -> Iterator[str]:
        for link_type, count in self._undecodable.items():
            yield (
                f"{_count(count, 'frame')} of {describe_link_type(link_type)} cannot be decoded; "
                f"{suggest_capture(link_type)}"
            )

    def _describe_skipped(self) -> Iterator[str]:
        for kind, count in self._reader.skipped_blocks.items():
            yield (
                f"{_count(count, 'block')} of type 0x{kind:08x} cannot be read and are skipped; "
                "save the file as pcap if they hold packets"
            )


def _split_longer(cuts: Iterable[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges between neighbours of `cuts`, in parts of at most `longest`."""
    for start, stop in pairwise(cuts):
        for part in range(start, stop, longest):
            yield part, min(part + longest, stop)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")
