"""What a capture source offers to the pipeline.

A source runs in one executor thread. It offers flow batches in order of time, and stops when the
pipeline asks. Two attributes say how the pipeline drives it:

| source | `live` | `closes_windows` | when the event loop is behind |
|---|---|---|---|
| pcap | yes | no | batches merge: packets do not wait |
| ebpf | yes | yes | the source waits: the kernel goes on counting |
| savefile | no | no | the source waits |
"""

from collections.abc import Callable, Collection
from typing import Protocol

from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.model import Networks, Span


class PacketSource(Protocol):
    """Flow batches of packets or of the kernel's counters.

    All methods but `stop`, `set_batch_interval` and `regroup` are called from one thread.
    """

    live: bool
    """Whether time follows the wall clock; otherwise it follows the timestamps of packets."""
    closes_windows: bool
    """Whether its batches mark where windows end (`FlowBatch.closed_window`)."""

    def open(self) -> None:
        """Acquire what capturing needs.

        Raises ConfigurationError, NotPermittedError, BpfUnavailableError or CaptureError; nothing
        stays open then.
        """

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Pass batches to `offer` until the source ends or `stop` is called; then release all.

        Raises CaptureError where the source breaks off; what it captured before has been offered.
        """

    def close(self) -> None:
        """Release what `open` acquired, if `run` is never called."""

    def set_batch_interval(self, seconds: float) -> None:
        """Set how long packets may gather before they are offered; from any thread."""

    def regroup(self, interval_ns: int, fields: Collection[str], networks: Networks) -> None:
        """Close the open window soon; then keep apart what differs in `fields` of endpoints.

        `network` is that of `networks` in which the remote address is.

        Windows are `interval_ns` long from then on. The batch that completes the window says so
        (`FlowBatch.regroups`); until then there is no second call. From any thread, while `run` is
        running. Only a source that closes windows has to do anything.
        """

    def stop(self) -> None:
        """Make `run` return soon; from any thread, any number of times."""


class WindowClock(Protocol):
    """The windows of a run that follow the wall clock; times are nanoseconds since the epoch."""

    def delay(self, now_ns: int) -> float:
        """Return the seconds until the open window is due."""

    def close(self, now_ns: int, *, last: bool = False) -> Span:
        """End the open window and return it."""

    def set_interval(self, interval_ns: int) -> None:
        """Use another interval, for the open window too."""
