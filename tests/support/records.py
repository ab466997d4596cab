"""A record with every key, and windows of records by Hypothesis."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hogpipe.records.schema import Record, StatsBody, TrafficRecord
from hogpipe.records.stamp import RecordStamper, make_run_id, make_window
from hogpipe.records.tcp_health import add_tcp
from support.flow_sums import FlowAggregator
from support.health import healths
from support.sinks import stats
from support.traffic import attributions, deltas, dimensions, flows

DOCS = Path(__file__).parent.parent.parent / "docs"
_START_NS = 1_795_330_800_000_000_000  # 2026-11-22T07:00:00Z
RUN = make_run_id(_START_NS, bytes(10))
SECOND = 1_000_000_000

FULL: TrafficRecord = {
    "type": "traffic",
    "schema": 1,
    "timestamp": "2026-11-22T07:00:10.000Z",
    "window": make_window(_START_NS + 9 * SECOND, _START_NS + 10 * SECOND),
    "run": RUN,
    "sequence": 17,
    "host": {"name": "web1"},
    "process": {
        "pid": 4242,
        "name": "nginx",
        "parent_pid": 1,
        "parent": {
            "pid": 1,
            "name": "systemd",
            "executable": {"name": "systemd", "path": "/usr/lib/systemd/systemd"},
            "command": "systemd",
        },
        "ancestors": [{"pid": 9, "name": "runit", "command": "runit"}],
        "creation": {"time": "2026-11-22T06:58:01.220Z"},
        "executable": {"name": "nginx", "path": "/usr/sbin/nginx"},
        "command": "nginx",
        "command_args": ["nginx", "-g", "daemon off;"],
        "user": {"id": 33},
        "owner": "www-data",
        "linux": {"cgroup": "/system.slice/nginx.service"},
    },
    "systemd": {"unit": "nginx.service"},
    "container": {
        "id": "1f2e3d",
        "name": "k8s_web",
        "image": {"name": "nginx:1.27"},
        "runtime": "docker",
    },
    "k8s": {
        "pod": {"uid": "7a1b90f2-713c-467a-a18a-cbb50a075296", "name": "web-0"},
        "namespace": {"name": "shop"},
        "container": {"name": "web"},
    },
    "server": {"port": 443},
    "network": {
        "flows": 3,
        "io": {
            "transmit": {"bytes": 10, "packets": 1, "payload_bytes": 4},
            "receive": {"bytes": 460, "packets": 2, "payload_bytes": 380},
        },
        "tcp": {
            "retransmits": 3,
            "rtt": {"samples": 4, "sum_us": 1600, "min_us": 250},
            "connections": {
                "opened": 9,
                "accepted": 8,
                "closed": 7,
                "reset": 6,
                "refused": 5,
                "timed_out": 4,
                "unreachable": 3,
                "abandoned": 2,
                "opening_us": 1100,
                "lifetime_us": 90000,
            },
        },
        "transport": "tcp",
        "type": "ipv4",
        "interface": {"name": "eth0"},
        "local": {"address": "10.0.0.1", "port": 443},
        "peer": {
            "address": "10.0.0.2",
            "port": 40000,
            "network": "private",
            "domain": "www.example.com",
            "domain_quality": "process",
        },
    },
    "attribution": {"exact": 400, "listener": 10, "inferred": 50, "none": 10},
}
"""Every key but `remainder` and `kernel`, which are on records without a process."""


def read_schema(name: str) -> dict[str, Any]:
    """Return a JSON Schema of docs/."""
    schema: dict[str, Any] = json.loads((DOCS / name).read_text())
    return schema


@st.composite
def _windows(draw: st.DrawFn) -> list[Record]:
    start_ns = draw(st.integers(0, 4_000_000_000_000)) * 1_000_000
    length_ns = draw(st.integers(50, 86_400_000)) * 1_000_000
    aggregator = FlowAggregator(draw(dimensions), [], draw(st.integers(1, 4)))
    for item in draw(st.lists(st.tuples(flows, deltas, attributions), max_size=6)):
        aggregator.ingest_flow(*item)
    stamper = RecordStamper(RUN, "web1")
    end_ns = start_ns + length_ns
    records: list[Record] = []
    for body in aggregator.drain():
        if (health := draw(st.none() | healths)) is not None:
            add_tcp(body["network"], health)
        records.append(stamper.traffic(body, start_ns, end_ns))
    stats_record = stats(packets=draw(st.integers(0, 1 << 50)))
    body: StatsBody = {
        "capture": stats_record["capture"],
        "attribution": stats_record["attribution"],
        "aggregation": stats_record["aggregation"],
        "self": stats_record["self"],
    }
    return [*records, stamper.stats(body, start_ns, end_ns)]


windows = _windows()
"""The records of a window, as the pipeline makes them."""
