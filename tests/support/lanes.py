"""Lanes of single flows, as tests open them."""

from collections.abc import Hashable

from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.lanes import PAUSE_NS, NewLane
from hogpipe.model import Attribution, FlowKey


def open_lane(
    table: FlowTable,
    flow: FlowKey,
    owner: Attribution,
    *,
    due_at: float,
    endpoint: Hashable | None = None,
    last_ns: int = 0,
    max_pause_ns: int = PAUSE_NS,
) -> bool:
    """Open the lane of a flow; return whether the flow has a slot."""
    lane = NewLane(flow, owner, due_at, endpoint, last_ns, max_pause_ns)
    return table.open_lanes([lane])[0]
