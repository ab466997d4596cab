"""PURE, random run ids aside: windows of records as a run makes them, for tests of sinks.

Windows follow one another, with one run id and no gap in `sequence`. The groups of a window are of
the kinds that sinks meet in practice, in turn: a service, a container of a pod, a process of which
only the user is known, traffic without a process, names that need escaping, single flows. The last
traffic record of a window of eight records or more is the remainder. No single configuration gives
all of these at once, but a sink has to accept each.
"""

import secrets
from collections.abc import Callable

from hogpipe.model import AttributionCounts, CaptureCounts, Tally, TrafficCounts
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import (
    NetworkInfo,
    ProcessInfo,
    Record,
    SinkInfo,
    StatsBody,
    TrafficBody,
    describe_io,
)
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.records.stats import aggregation_info, attribution_info, capture_info, self_info

_START_NS = 1_795_330_800_000_000_000  # 2026-11-22T07:00:00Z
_HUGE = 1 << 40
"""Bytes that the second group receives in addition: more than 32 bits hold."""
_CREATED = "2026-11-22T06:58:01.220Z"


class RecordMaker:
    """Makes the windows of one run, one after another, each `interval` seconds long.

    Each maker has a run id of its own. Group `n` is the same process in every window; bytes and
    packets differ.
    """

    def __init__(self, host: str = "web1", interval: float = 1.0) -> None:
        self.run = make_run_id(_START_NS, secrets.token_bytes(10))
        self._host = host
        self._stamper = RecordStamper(self.run, host)
        self._interval_ns = round(interval * NANOSECONDS)
        self._start_ns = _START_NS
        self._windows = 0

    def next_run(self) -> "RecordMaker":
        """Return a maker for the next run of the host: later windows, and `sequence` from 1."""
        maker = RecordMaker(self._host, self._interval_ns / NANOSECONDS)
        maker._start_ns = self._start_ns
        return maker

    def window(self, records: int = 8) -> list[Record]:
        """Return the next window, with this number of records; the last is its stats record."""
        if records < 1:
            raise ValueError("a window has at least its stats record")
        self._windows += 1
        start, end = self._start_ns, self._start_ns + self._interval_ns
        self._start_ns = end
        made: list[Record] = []
        for group in range(records - 1):
            last = group == records - 2 >= len(_KINDS)
            body = _remainder() if last else _KINDS[group % len(_KINDS)](group)
            transmit, receive = group + self._windows, 1400 * (group % 1000 + self._windows)
            receive += _HUGE if group == 1 else 0
            made.append(self._stamper.traffic(_with_bytes(body, transmit, receive), start, end))
        made.append(self._stamper.stats(_stats(made, self._windows), start, end))
        return made


def total_bytes(record: Record) -> int:
    """Return the bytes of both directions of a traffic record; 0 for a stats record."""
    if record["type"] == "stats":
        return 0
    io = record["network"]["io"]
    return io["transmit"]["bytes"] + io["receive"]["bytes"]


def _service(group: int) -> TrafficBody:
    unit = f"worker-{group}.service"
    return {
        "process": _process(group, "nginx", f"/system.slice/{unit}"),
        "systemd": {"unit": unit},
        "network": _network(),
        "attribution": {"exact": 0},
    }


def _container(group: int) -> TrafficBody:
    container, pod = f"{group:064x}", f"7a1b90f2-713c-467a-a18a-{group:012x}"
    path = f"/kubepods.slice/kubepods-pod{pod.replace('-', '_')}.slice/cri-containerd-{container}"
    return {
        "process": _process(group, "redis-server", f"{path}.scope"),
        "container": {"id": container},
        "k8s": {"pod": {"uid": pod}},
        "network": _network(),
        "attribution": {"listener": 0},
    }


def _only_user(group: int) -> TrafficBody:
    return {
        "process": {"user": {"id": 1000 + group}, "owner": f"user{group}"},
        "network": _network(),
        "attribution": {"none": 0},
    }


def _no_process(group: int) -> TrafficBody:
    network = _network()
    if group >= len(_KINDS):  # only one group can be without any description
        network["peer"] = {"address": f"198.18.{group >> 8 & 255}.{group & 255}"}
    return {"network": network, "attribution": {"none": 0}}


def _hostile(group: int) -> TrafficBody:
    process = _process(group, 'a"b\\c\n\t\x1b[31m\u202e\u00e9\u6f22\U0001f600', "/")
    process["command_args"] = ["", "--password=\x00", "{}", "\ufffd", "x" * 300]
    return {"process": process, "network": _network(), "attribution": {"inferred": 0}}


def _flow(group: int) -> TrafficBody:
    network = _network()
    network["transport"], network["type"] = "tcp", "ipv6"
    network["interface"] = {"name": "eth0"}
    network["local"] = {"address": "2001:db8::1", "port": 443}
    address, port = f"2001:db8::{group & 0xFFFF:x}", 1024 + group % 60_000
    network["peer"] = {"address": address, "port": port, "network": "internet"}
    return {"server": {"port": 443}, "network": network, "attribution": {"exact": 0}}


def _remainder() -> TrafficBody:
    return {"network": _network(), "attribution": {"none": 0}, "remainder": True}


_KINDS: tuple[Callable[[int], TrafficBody], ...] = (
    _service,
    _container,
    _only_user,
    _no_process,
    _hostile,
    _flow,
)


def _process(group: int, name: str, cgroup: str) -> ProcessInfo:
    return {
        "pid": 1000 + group,
        "name": name,
        "parent_pid": 1,
        "creation": {"time": _CREATED},
        "executable": {"name": name, "path": f"/usr/bin/{name}"},
        "command": name,
        "user": {"id": 33},
        "owner": "www-data",
        "linux": {"cgroup": cgroup},
    }


def _network() -> NetworkInfo:
    return {"flows": 1, "io": describe_io(TrafficCounts())}


def _with_bytes(body: TrafficBody, transmit_bytes: int, receive_bytes: int) -> TrafficBody:
    traffic = TrafficCounts(
        transmit_bytes=transmit_bytes,
        transmit_packets=1 + transmit_bytes // 1500,
        receive_bytes=receive_bytes,
        receive_packets=1 + receive_bytes // 1500,
    )
    body["network"]["io"] = describe_io(traffic)
    (quality,) = body["attribution"]
    body["attribution"] = {quality: traffic.total_bytes}
    return body


def _stats(traffic: list[Record], windows: int) -> StatsBody:
    captured_bytes = sum(map(total_bytes, traffic))
    sink: SinkInfo = {
        "name": "jsonl",
        "type": "jsonl",
        "queued": 0,
        "delivered": 10 * windows,
        "dropped": 0,
        "coalesced": 0,
        "retries": 1,
        "last_error": "OSError: [Errno 28] No space left on device",
    }
    captured = CaptureCounts(
        captured=Tally(bytes=captured_bytes, packets=captured_bytes // 700), kernel_dropped=1
    )
    by_quality: dict[str, int] = {}
    for record in traffic:
        if record["type"] == "traffic":
            for quality, count in record["attribution"].items():
                by_quality[quality] = by_quality.get(quality, 0) + count
    return {
        "capture": capture_info(captured),
        "attribution": attribution_info(
            AttributionCounts(new_flows=len(traffic), batches=1), by_quality, timed=True
        ),
        "aggregation": aggregation_info(records=len(traffic), folded_groups=0, uncounted_flows=0),
        "sinks": [sink],
        "self": self_info(cpu_seconds=0.01, memory_bytes=90 << 20, loop_delay_seconds=0.002),
    }
