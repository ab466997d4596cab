"""PURE: what a traffic record says of its group.

Records of one group differ in their stamp and their counters alone; the rest describes the group.
"""

from typing import cast

from hogpipe.records.schema import TrafficRecord

_STAMP = ("schema", "timestamp", "window", "run", "sequence", "host")
_NOT_OF_GROUP = ("type", *_STAMP, "network", "attribution")
_COUNTERS = ("flows", "io", "tcp")


def describe_group(record: TrafficRecord) -> dict[str, object]:
    """Return the keys of `record` that describe its group; `network` is absent if it has none."""
    description = cast("dict[str, object]", record.copy())
    for key in _NOT_OF_GROUP:
        del description[key]
    network = record["network"]
    if path := {k: v for k, v in network.items() if k not in _COUNTERS}:
        description["network"] = path
    return description
