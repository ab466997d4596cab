"""PURE: the values that pass between the stages.

flows.py    flows, and what they moved
owners.py   processes, users, and the attribution of a flow to one of them
sockets.py  sockets and their owners, as a ledger knows them
service_ports.py  which port of a flow is that of the service
networks.py  named networks, and which of them an address is in
peer_names.py  names of peers, and the answers that they come from
counts.py   counters of traffic, and of the work and the losses of the stages
"""

from hogpipe.model.counts import (
    FAILURES,
    AttributionCounts,
    CaptureCounts,
    Latency,
    LedgerCounts,
    ResolverCounts,
    Tally,
    TcpHealth,
    TrafficCounts,
    join_health,
)
from hogpipe.model.flows import (
    OWN_NAMESPACE,
    UNKNOWN_FLOW,
    FlowDelta,
    FlowKey,
    Span,
    fold_key,
    is_sum,
    unmap,
)
from hogpipe.model.networks import BUILT_IN_NETWORKS, Networks, make_networks
from hogpipe.model.owners import (
    TRANSLATED,
    UNATTRIBUTED,
    Ancestor,
    Attribution,
    ContainerNames,
    Process,
    Quality,
    User,
    owner_at,
)
from hogpipe.model.service_ports import EPHEMERAL, ServicePorts
from hogpipe.model.sockets import (
    CONTESTED,
    MAX_SOCKETS,
    SERVICE_MANAGER,
    Contested,
    LedgerEntry,
    SnapshotSocket,
    SocketOwner,
    is_same_process,
)

__all__ = [
    "BUILT_IN_NETWORKS",
    "CONTESTED",
    "EPHEMERAL",
    "FAILURES",
    "MAX_SOCKETS",
    "OWN_NAMESPACE",
    "SERVICE_MANAGER",
    "TRANSLATED",
    "UNATTRIBUTED",
    "UNKNOWN_FLOW",
    "Ancestor",
    "Attribution",
    "AttributionCounts",
    "CaptureCounts",
    "ContainerNames",
    "Contested",
    "FlowDelta",
    "FlowKey",
    "Latency",
    "LedgerCounts",
    "LedgerEntry",
    "Networks",
    "Process",
    "Quality",
    "ResolverCounts",
    "ServicePorts",
    "SnapshotSocket",
    "SocketOwner",
    "Span",
    "Tally",
    "TcpHealth",
    "TrafficCounts",
    "User",
    "fold_key",
    "is_same_process",
    "is_sum",
    "join_health",
    "make_networks",
    "owner_at",
    "unmap",
]
