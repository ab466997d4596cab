"""One interface that is being captured: its handle, and how its frames become flows."""

from collections.abc import Callable

import msgspec

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import Orientation
from hogpipe.capture.pcap import Handle
from hogpipe.model import FlowBatch

_DROPS_SECONDS = 0.25  # between two looks at the drop counters


class InterfaceView(msgspec.Struct, frozen=True):
    """What matters of an interface, or of all of them at once."""

    name: str
    local: LocalAddresses
    big_tcp: bool
    faces_guests: bool = False
    leads_elsewhere: bool = False
    """Whether it is an end of a veth whose other end is in another namespace."""


class InterfaceCapture:
    """One interface that is being captured.

    `on_strangers` is called when new flows pass an interface that faces guests and no known guest
    takes part in them, before they are counted: it may update the view.
    """

    def __init__(
        self, handle: Handle, view: InterfaceView, on_strangers: Callable[[], None]
    ) -> None:
        self.name = view.name
        self.timeout = handle.timeout
        """Seconds after which a frame is there to be read at the latest."""
        self._handle = handle
        self._exact = view.big_tcp
        self._faces_guests = view.faces_guests
        self._on_strangers = on_strangers
        self._drops_read = 0.0
        self._decoder = Decoder(handle.link_type, FragmentTable(), handle.snaplen)
        self._direction = Orientation(view.name, view.local)

    def update(self, view: InterfaceView) -> None:
        """Go on with a new view of the interface."""
        self.name = view.name
        self._exact = self._exact or view.big_tcp
        self._faces_guests = view.faces_guests
        self._direction.update(view.name, view.local)

    def fileno(self) -> int:
        """Return the descriptor to poll for frames."""
        return self._handle.fileno()

    def read(self, batch: FlowBatch, now: float) -> None:
        """Add what is there to `batch`; raises CaptureError once the interface has failed."""
        failure = None
        if self._exact:
            frames, failure = self._handle.read_exact()
        else:
            frames = self._handle.read()
        if len(frames):
            self._count(frames, batch)
        if now >= self._drops_read + _DROPS_SECONDS:
            self._drops_read = now
            self._count_drops(batch)
        if failure:
            raise failure

    def read_rest(self, batch: FlowBatch, until: float) -> None:
        """Add what came before `until`, in seconds since 1970, even if the interface has failed."""
        failure, last = None, 0.0
        while failure is None and last < until:
            frames, failure = self._handle.read_exact()
            if not len(frames):
                return
            seconds, microseconds = map(int, frames.records[-1][:2])
            last = seconds + microseconds / 1e6
            self._count(frames, batch)

    def _count(self, frames: FrameBatch, batch: FlowBatch) -> None:
        wire = self._decoder.decode(frames)
        # Unannounced BIG TCP (a veth's peer may be set up for it): from now on read lengths.
        self._exact = self._exact or wire.needs_original_lengths
        if self._faces_guests and self._direction.meets_strangers(wire):
            self._on_strangers()
        self._direction.turn(wire, batch)

    def _count_drops(self, batch: FlowBatch) -> None:
        kernel, interface = self._handle.take_drops()
        batch.counts.kernel_dropped += kernel
        batch.counts.interface_dropped += interface

    def close(self, batch: FlowBatch) -> None:
        """Add what was held back to `batch` and close the handle."""
        self._direction.turn(self._decoder.flush(), batch)
        self._count_drops(batch)
        self._handle.close()
