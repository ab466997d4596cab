"""A pcap or pcapng file as a source: time follows the timestamps of its packets.

In: the file. Out: flow batches, none of which spans two windows.

The file is read with `Handle.read`, which is fast and gives no original lengths. Two things need
those, and make the source read the file again from its start with `Handle.read_exact`, skipping
the frames that have been counted: a BIG TCP packet, whose length only the record header has, and a
truncated file, of which every whole frame counts.

Known limit: a savefile does not name the interface of its packets.
"""

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import Decoder, WireFlows
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import Orientation
from hogpipe.capture.pcap import Handle, open_savefile
from hogpipe.errors import CaptureError
from hogpipe.model import FlowBatch

_NO_INTERFACE = ""


class SavefileSource:
    """The frames of a savefile, in batches within one window of `interval_ns`; see PacketSource.

    Windows never go back: a packet with an earlier timestamp than one before it counts in the
    window of that one. `run` raises CaptureError at the end of a truncated file.
    """

    live = False
    closes_windows = False

    def __init__(
        self, path: Path, *, expression: str, local: LocalAddresses, interval_ns: int
    ) -> None:
        self._path = path
        self._expression = expression
        self._interval_ns = interval_ns
        self._orientation = Orientation(_NO_INTERFACE, local)
        self._handle: Handle | None = None
        self._newest_ns = 0
        self._stopped = threading.Event()

    def open(self) -> None:
        """Open the file; see PacketSource."""
        self._handle = open_savefile(self._path, self._expression)

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Offer all packets of the file; see PacketSource."""
        failure = None
        assert self._handle is not None
        decoder = Decoder(self._handle.link_type, FragmentTable())
        try:
            counted = self._run_fast(decoder, offer)
            if counted is not None:
                decoder = Decoder(self._handle.link_type, FragmentTable())
                failure = self._run_exact(decoder, counted, offer)
            self._offer(decoder.flush(), offer)
        finally:
            self.close()
        if failure:
            raise failure

    def set_batch_interval(self, seconds: float) -> None:
        """Do nothing: a replay is read as fast as it is processed."""

    def close(self) -> None:
        """Close the file; see PacketSource."""
        if self._handle is not None:
            self._handle.close()

    def stop(self) -> None:
        """Make `run` return after the current batch."""
        self._stopped.set()

    def _run_fast(self, decoder: Decoder, offer: Callable[[FlowBatch], None]) -> int | None:
        """Return None at the end, or the number of frames counted until exact reading is needed."""
        assert self._handle is not None
        counted = 0
        while not self._stopped.is_set():
            try:
                frames = self._handle.read()
            except CaptureError:
                return counted  # the exact reading finds the last whole frame, and the same error
            if not len(frames):
                break
            for piece in self._split(frames):
                wire = decoder.decode(piece)
                if wire.needs_original_lengths:
                    return counted
                self._offer(wire, offer)
                counted += len(piece)
        return None

    def _run_exact(
        self, decoder: Decoder, counted: int, offer: Callable[[FlowBatch], None]
    ) -> CaptureError | None:
        """Reopen the file and go on after `counted` frames; return what cut the file short."""
        assert self._handle is not None
        self._handle.close()
        self._handle = open_savefile(self._path, self._expression)
        while not self._stopped.is_set():
            frames, failure = self._handle.read_exact()
            skipped = min(counted, len(frames))
            counted -= skipped
            decoder.decode(frames.slice(0, skipped))  # for the fragments among them
            for piece in self._split(frames.slice(skipped, len(frames))):
                self._offer(decoder.decode(piece), offer)
            if failure or not len(frames):
                return failure
        return None

    def _split(self, frames: FrameBatch) -> Iterator[FrameBatch]:
        """Yield `frames` in pieces of one window each, with `_newest_ns` set for each piece."""
        if not len(frames):
            return
        newest = np.maximum.accumulate(np.maximum(frames.times_ns(), self._newest_ns))
        windows = newest // self._interval_ns
        cuts = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(frames)]
        for start, stop in pairwise(cuts):
            self._newest_ns = int(newest[stop - 1])
            yield frames.slice(start, stop)

    def _offer(self, wire: WireFlows, offer: Callable[[FlowBatch], None]) -> None:
        batch = FlowBatch(time_ns=self._newest_ns)
        self._orientation.orient(wire, batch)
        if batch.flows or batch.counts.captured.packets:
            offer(batch)
