"""PURE: traffic counters as `network.io` of a record, and back.

A counter is added here and in model.TrafficCounts; schema.py and docs/record.schema.json say its
type.
"""

from hogpipe.model import TrafficCounts
from hogpipe.records.schema import IoInfo


def describe_io(counts: TrafficCounts) -> IoInfo:
    """Return `counts` as a record has them."""
    return {
        "transmit": {"bytes": counts.transmit_bytes, "packets": counts.transmit_packets},
        "receive": {"bytes": counts.receive_bytes, "packets": counts.receive_packets},
    }


def parse_io(io: IoInfo) -> TrafficCounts:
    """Return the counters that `describe_io` described."""
    transmit, receive = io["transmit"], io["receive"]
    return TrafficCounts(
        transmit_bytes=transmit["bytes"],
        transmit_packets=transmit["packets"],
        receive_bytes=receive["bytes"],
        receive_packets=receive["packets"],
    )
