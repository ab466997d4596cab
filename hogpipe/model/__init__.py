"""The values that pass between the stages."""

from hogpipe.model.counts import (
    AttributionCounts,
    CaptureCounts,
    Latency,
    LedgerCounts,
    ResolverCounts,
    Tally,
    TrafficCounts,
)
from hogpipe.model.flows import (
    NAMELESS,
    OWN_NAMESPACE,
    FlowBatch,
    FlowDelta,
    FlowKey,
    OwnedFlow,
    Span,
)
from hogpipe.model.owners import (
    UNATTRIBUTED,
    Attribution,
    Process,
    Quality,
    User,
)
from hogpipe.model.sockets import (
    CONTESTED,
    MOST_SOCKETS,
    SERVICE_MANAGER,
    Contested,
    LedgerEntry,
    Owner,
    SnapshotSocket,
    is_same,
)

__all__ = [
    "CONTESTED",
    "MOST_SOCKETS",
    "NAMELESS",
    "OWN_NAMESPACE",
    "SERVICE_MANAGER",
    "UNATTRIBUTED",
    "Attribution",
    "AttributionCounts",
    "CaptureCounts",
    "Contested",
    "FlowBatch",
    "FlowDelta",
    "FlowKey",
    "Latency",
    "LedgerCounts",
    "LedgerEntry",
    "OwnedFlow",
    "Owner",
    "Process",
    "Quality",
    "ResolverCounts",
    "SnapshotSocket",
    "Span",
    "Tally",
    "TrafficCounts",
    "User",
    "is_same",
]
