"""PURE: the batches in which a source hands over what it captured. Two batches can be merged."""

import msgspec

from hogpipe.flows.health_columns import SlotHealth
from hogpipe.flows.packet_rows import FlowSums, PacketRows
from hogpipe.model import CaptureCounts, FlowDelta, FlowKey, Span


class FlowBatch(msgspec.Struct):
    """What a source captured since its last batch.

    The packets of `rows` are counted in the flow table when the batch is handed over
    (capture/handoff.py): those that the table does not count are in `flows` then.
    """

    rows: PacketRows | None = None
    """Packets by the slots of their flows."""
    flows: dict[FlowKey, FlowDelta] = msgspec.field(default_factory=dict)
    """Flows whose owners have to be looked up."""
    counts: CaptureCounts = msgspec.field(default_factory=CaptureCounts)
    calls: int = 0
    """The number of calls of `FlowTable.count` with which `flows` came out, and those before."""
    is_started: bool = True
    """Whether what has changed on the host was taken in before the packets of `flows` were counted.
    Not where all flows were unknown then; it must be before one of them is attributed as known."""
    time_ns: int = 0
    """The time of the newest packet, nanoseconds since the epoch."""
    health: SlotHealth | None = None
    """The health of flows of `rows`, or of others in the flow table."""
    owned: FlowSums | None = None
    """Sums of flows whose owners the source knows."""
    closed_window: Span | None = None
    """The window that this batch completes, from a source that closes windows itself."""
    is_last: bool = False
    """Whether such a source ends with this batch."""
    regroups: bool = False
    """Whether such a source groups the next window as it was asked to (`PacketSource.regroup`)."""
