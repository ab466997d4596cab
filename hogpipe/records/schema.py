"""The record: the one shape in which results leave hogpipe (docs/record.md and its schema).

Records are plain dicts, so that a sink can hand them to any encoder; the types here say which keys
there are. Names follow OpenTelemetry's semantic conventions. A key that does not apply is absent.
"""

from typing import Literal, NotRequired, TypedDict


class Window(TypedDict):
    """The time that a record speaks of; `end` is exclusive."""

    start: str
    end: str


class Named(TypedDict):
    """Something that is told by its name."""

    name: str


class Identified(TypedDict):
    """Something that is told by its id."""

    id: str


class CreationInfo(TypedDict):
    """When a process was made."""

    time: str


class ExecutableInfo(TypedDict):
    """The program file of a process; `path` as the process itself sees it."""

    name: str
    path: str


class UserInfo(TypedDict):
    """The real user of a process, or the owner of a socket."""

    id: int


class LinuxInfo(TypedDict):
    """What only Linux has."""

    cgroup: str


class ProcessInfo(TypedDict, total=False):
    """A process, or of it only what was asked for or is known."""

    pid: int
    parent_pid: int
    creation: CreationInfo
    executable: ExecutableInfo
    command: str
    command_args: list[str]
    user: UserInfo
    owner: str
    linux: LinuxInfo


class SystemdInfo(TypedDict):
    """The systemd unit of a process."""

    unit: str


class PodInfo(TypedDict):
    """The Kubernetes pod of a process; the hash of a static one is its uid there."""

    uid: str


class KubernetesInfo(TypedDict):
    """What Kubernetes runs the process as."""

    pod: PodInfo


class TallyInfo(TypedDict):
    """Packets and their IP bytes."""

    bytes: int
    packets: int


class IoInfo(TypedDict):
    """Both directions, as this host sees them."""

    transmit: TallyInfo
    receive: TallyInfo


class EndpointInfo(TypedDict, total=False):
    """One end of a flow."""

    address: str
    port: int


class NetworkInfo(TypedDict):
    """What was moved, and over what."""

    flows: int
    io: IoInfo
    transport: NotRequired[str]
    type: NotRequired[str]
    interface: NotRequired[Named]
    local: NotRequired[EndpointInfo]
    peer: NotRequired[EndpointInfo]


class TrafficBody(TypedDict):
    """A traffic record before it is stamped; its keys come in this order."""

    process: NotRequired[ProcessInfo]
    systemd: NotRequired[SystemdInfo]
    container: NotRequired[Identified]
    k8s: NotRequired[KubernetesInfo]
    network: NetworkInfo
    attribution: dict[str, int]
    """Bytes of both directions by quality (model.Quality); those without bytes are absent."""
    remainder: NotRequired[Literal[True]]
    """Set on the one record that sums up what `only` or `max_records` left out."""


class DroppedInfo(TypedDict):
    """Packets that never reached hogpipe, by who dropped them."""

    kernel: int
    interface: int


class CaptureInfo(TypedDict):
    """Where captured packets went; the sums are explained in docs/record.md."""

    packets: int
    bytes: int
    dropped: DroppedInfo
    not_local: TallyInfo
    not_ip: TallyInfo
    undecoded: TallyInfo
    both_sides: TallyInfo
    length_floored: TallyInfo
    overflowed: TallyInfo
    merged_batches: int


class PendingInfo(TypedDict):
    """What waits for an owner at the end of the window."""

    flows: int
    bytes: int


class LatencyInfo(TypedDict):
    """How long new flows waited for their first look-up to be over; the median to a tenth."""

    median_seconds: float
    max_seconds: float


class LedgerInfo(TypedDict):
    """What the ledger did in the window; `sockets` is what it knows at its end."""

    sockets: int
    events: int
    events_lost: int
    sockets_lost: int
    malformed_events: int
    evicted: int
    unknown_releases: int
    contested: int
    unidentified_processes: int
    snapshots: int
    namespaces_not_entered: int


class AttributionInfo(TypedDict):
    """What attribution did in the window."""

    new_flows: int
    batches: int
    failed_batches: int
    table_reads: int
    tuple_lookups: int
    dumps_interrupted: int
    dumps_failed: int
    rows_skipped: int
    fd_scans: int
    fds_read: int
    fds_evicted: int
    not_permitted: int
    malformed_files: int
    deferred: int
    ambiguous: int
    evicted_flows: int
    overflowed: TallyInfo
    pending: PendingInfo
    bytes: dict[str, int]
    ledger: NotRequired[LedgerInfo]
    lookup_seconds: NotRequired[float]
    latency: NotRequired[LatencyInfo]


class AggregationInfo(TypedDict):
    """How the window's traffic became records."""

    records: int
    folded_groups: int
    uncounted_flows: int


class SpoolInfo(TypedDict):
    """How a spool stands: `records` and `bytes` on disk now, the rest since the start of the run.

    `found` are records that earlier runs had left, `damaged` files, `failures` the times that the
    disk could not be used, so that windows waited in memory.
    """

    records: int
    bytes: int
    found: int
    damaged: int
    failures: int


class SinkInfo(TypedDict):
    """How a sink stands: totals since the start of the run, `queued` now, in records."""

    name: str
    type: str
    queued: int
    delivered: int
    dropped: int
    coalesced: int
    retries: int
    last_error: NotRequired[str]
    spool: NotRequired[SpoolInfo]


class CpuInfo(TypedDict):
    """CPU time spent in the window."""

    seconds: float


class MemoryInfo(TypedDict):
    """Resident memory now."""

    bytes: int


class LoopInfo(TypedDict):
    """How long, at the most, a batch of packets waited in the window for the event loop."""

    longest_delay_seconds: float


class SelfInfo(TypedDict):
    """What hogpipe itself cost."""

    cpu: CpuInfo
    memory: MemoryInfo
    loop: LoopInfo


class StatsBody(TypedDict):
    """A stats record before it is stamped. A replay has no clock, and so no `self`."""

    capture: CaptureInfo
    attribution: AttributionInfo
    aggregation: AggregationInfo
    sinks: NotRequired[list[SinkInfo]]
    self: NotRequired[SelfInfo]


class Stamp(TypedDict):
    """What identifies a record."""

    timestamp: str
    window: Window
    run: str
    sequence: int
    host: Named


class TrafficRecord(Stamp, TrafficBody):
    """What one group moved in one window, as deltas."""

    type: Literal["traffic"]


class StatsRecord(Stamp, StatsBody):
    """How the pipeline itself fared in one window."""

    type: Literal["stats"]


Record = TrafficRecord | StatsRecord

RecordId = tuple[str, int]


def record_id(record: Record) -> RecordId:
    """Return `run` and `sequence`, which identify a record: no other record ever has both."""
    return record["run"], record["sequence"]
