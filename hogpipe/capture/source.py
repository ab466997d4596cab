"""What every source of packets offers to the pipeline."""

from collections.abc import Callable
from typing import Protocol

from hogpipe.model import FlowBatch, Span


class PacketSource(Protocol):
    """Flow batches from packets. All but `stop` is called from one thread."""

    live: bool
    """Whether time passes by the clock; otherwise it passes with the packets."""
    keeps_windows: bool
    """Whether its batches tell where windows end: it can wait then, for it is not what counts."""

    def open(self) -> None:
        """Acquire what capturing needs.

        Raises ConfigurationError, NotPermittedError or CaptureError; nothing stays open then.
        """

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Give batches to `offer` until the source ends or `stop` is called, then release all."""

    def close(self) -> None:
        """Release what `open` acquired, where `run` is never called; else do nothing."""

    def gather_for(self, seconds: float) -> None:
        """Tell for how long packets may gather before they are offered; from any thread."""

    def stop(self) -> None:
        """Make `run` return soon; may be called from any thread, and more than once."""


class WindowClock(Protocol):
    """The windows of a run that follow the wall clock; times are nanoseconds since the epoch."""

    def delay(self, now_ns: int) -> float:
        """Return the seconds until the open window is due."""

    def close(self, now_ns: int, *, last: bool = False) -> Span:
        """End the open window and return it."""
