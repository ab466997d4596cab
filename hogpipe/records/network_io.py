"""PURE: traffic counters as `network.io` of a record, and back."""

from hogpipe.model import TrafficCounts
from hogpipe.records.schema import IoInfo


def describe_io(counts: TrafficCounts) -> IoInfo:
    """Return `counts` as a record holds them."""
    return {
        "transmit": {"bytes": counts.transmit_bytes, "packets": counts.transmit_packets},
        "receive": {"bytes": counts.receive_bytes, "packets": counts.receive_packets},
    }


def parse_io(io: IoInfo) -> TrafficCounts:
    """Return the counters of a record; the inverse of `describe_io`."""
    transmit, receive = io["transmit"], io["receive"]
    return TrafficCounts(
        transmit_bytes=transmit["bytes"],
        transmit_packets=transmit["packets"],
        receive_bytes=receive["bytes"],
        receive_packets=receive["packets"],
    )
