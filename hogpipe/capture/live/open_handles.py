"""How to capture, and handles opened that way with a fair share of the memory for their rings."""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hogpipe.capture.live.interface_capture import InterfaceView
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
    """Where the processes of other network namespaces are seen."""


class HandleOpener:
    """Opens handles and keeps account of their rings, by interface index."""

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._rings = RingBudget(options.buffer_mib)
        self._told = False

    def open(self, index: int, view: InterfaceView, sharers: int) -> Handle:
        """Return a handle; for `sharers` see `Rings.take`. Raises what `open_live` does."""
        options = self._options
        try:
            return open_live(
                view.name,
                snaplen=options.snaplen,
                buffer_mib=self._take_ring(index, view, sharers),
                promiscuous=options.promiscuous,
                expression=options.filter,
            )
        except BaseException:
            self.give_back(index)
            raise

    def give_back(self, index: int) -> None:
        """Take note that the handle of `index` is closed."""
        self._rings.give_back(index)

    def _take_ring(self, index: int, view: InterfaceView, sharers: int) -> int:
        elsewhere = view.leads_elsewhere
        size = self._rings.take(index, elsewhere=elsewhere, sharers=sharers)
        if not size:
            raise CaptureError(
                f"{view.name}: no memory is left for its buffer; raise capture.buffer_mib, or name "
                "fewer interfaces"
            )
        if size < self._rings.most(elsewhere=elsewhere, sharers=sharers) and not self._told:
            self._told = True
            log.warning(
                "%s: many interfaces share the memory for buffers, and its buffer has %d MiB; if "
                "packets are dropped, raise capture.buffer_mib or name fewer interfaces",
                view.name,
                size,
            )
        return size
