"""How to capture, and the capture handles opened that way, each with a ring within the budget."""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hogpipe.capture.live.interface_views import InterfaceView
from hogpipe.capture.live.ring_budget import RingBudget
from hogpipe.capture.pcap import Handle, open_live
from hogpipe.errors import CaptureError

log = logging.getLogger(__name__)


class LiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to capture; see `[capture]` in docs/configuration.md."""

    interfaces: Sequence[str] = ("auto",)
    filter: str = ""
    snaplen: int = 128
    buffer_mib: int = 16
    promiscuous: bool = False
    procfs: Path = Path("/proc")
    """Where the processes of other network namespaces are visible."""


class HandleOpener:
    """Opens handles by interface index, and accounts for their rings.

    Frames may be cut to prove the lengths of others (`Handle.prove_lengths`) if it `cuts_frames`.
    """

    def __init__(self, options: LiveOptions, *, cuts_frames: bool = True) -> None:
        self._options = options
        self._cuts_frames = cuts_frames
        self._rings = RingBudget(options.buffer_mib)
        self._warned = False

    def open(self, index: int, view: InterfaceView, sharers: int) -> Handle:
        """Return a handle; `sharers` as in `RingBudget.allocate`.

        Raises CaptureError where the ring budget is spent, and what `open_live` raises.
        """
        options = self._options
        try:
            return open_live(
                view.name,
                snaplen=options.snaplen,
                buffer_mib=self._allocate_ring(index, view, sharers),
                promiscuous=options.promiscuous,
                expression=options.filter,
                cuts_frames=self._cuts_frames,
            )
        except BaseException:
            self.release(index)
            raise

    def release(self, index: int) -> None:
        """Return the ring of `index` to the budget: its handle is closed."""
        self._rings.release(index)

    def _allocate_ring(self, index: int, view: InterfaceView, sharers: int) -> int:
        rings, container_veth = self._rings, view.is_container_veth
        size = rings.allocate(index, container_veth=container_veth, sharers=sharers)
        if not size:
            raise CaptureError(
                f"{view.name}: no memory is left for its buffer; raise capture.buffer_mib, or name "
                "fewer interfaces"
            )
        full_size = rings.full_size(container_veth=container_veth, sharers=sharers)
        if size < full_size and not self._warned:
            self._warned = True
            log.warning(
                "%s: many interfaces share the memory for buffers, and its buffer has %d MiB; if "
                "packets are dropped, raise capture.buffer_mib or name fewer interfaces",
                view.name,
                size,
            )
        return size
