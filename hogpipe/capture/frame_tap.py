"""What a source shows its frames to, where packets are written: a tap.

A source calls, in its thread and in this order: `take` with the frames of each read, `locate` once
their wire keys are in the wire table, the flow table while it counts them (`FlowTrace`), and
`end_batch`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.wire_interfaces import Sides
from hogpipe.flows.key_index import Keys
from hogpipe.flows.traced_table import FlowTrace


class TappedInterface(NamedTuple):
    """An interface as frames come from it."""

    name: str
    link_type: int


class FrameTap(FlowTrace, Protocol):
    """Gets the frames of a source, and what the flow table makes of their packets."""

    def take(
        self,
        frames: FrameBatch,
        interface: TappedInterface,
        number: int,
        places: Sequence[int] | None = None,
    ) -> None:
        """Take frames with original lengths, of the interface with a `number` in wire keys.

        `places` says where each belongs among those taken until `locate`; None: by its time.
        """

    def locate(self, find: Callable[[Keys], Sides]) -> None:
        """Find the slots of the frames' wire keys, which `find` returns."""

    def end_batch(self) -> None:
        """Take in that the flow table has counted all that was located."""

    def count_drops(self, interface: TappedInterface, kernel: int, by_interface: int) -> None:
        """Count frames that were dropped before the source could read them."""
