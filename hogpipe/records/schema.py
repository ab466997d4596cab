"""PURE: the types of records. docs/record.md explains the keys, record.schema.json validates them.

Records are plain dicts, so that a sink can pass them to any encoder. Names follow OpenTelemetry's
semantic conventions. A key that does not apply is absent, never None.
"""

from typing import Literal, NotRequired, TypedDict

from hogpipe.model import TrafficCounts

SCHEMA_VERSION = 1
"""The version that each record carries as `schema`; docs/upgrading.md says when it grows."""


class Window(TypedDict):
    """The time that a record covers; the end is exclusive.

    As text, and as seconds since the epoch.
    """

    start: str
    end: str
    start_unix: float
    end_unix: float


class HostInfo(TypedDict):
    """The host that hogpipe runs on."""

    name: str


class CreationInfo(TypedDict):
    """The start of a process."""

    time: str


class ExecutableInfo(TypedDict):
    """The program file of a process; `path` is as the process sees it."""

    name: str
    path: str


class UserInfo(TypedDict):
    """The real user of a process, or the owner of a socket."""

    id: int


class LinuxInfo(TypedDict):
    """Attributes of a process that are specific to Linux."""

    cgroup: str


class AncestorInfo(TypedDict):
    """The parent of a process, or a parent of that; `name` as for a process."""

    pid: int
    name: str
    executable: NotRequired[ExecutableInfo]
    command: str


class ProcessInfo(TypedDict, total=False):
    """A process: the attributes that are known and that the dimensions describe.

    `name` is the name of the program, and is there wherever `pid` is.
    """

    pid: int
    name: str
    parent_pid: int
    parent: AncestorInfo
    ancestors: list[AncestorInfo]
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


class NameInfo(TypedDict):
    """The name of something."""

    name: str


class ContainerInfo(TypedDict):
    """The container of a process."""

    id: str
    name: NotRequired[str]
    image: NotRequired[NameInfo]
    runtime: NotRequired[str]


class PodInfo(TypedDict):
    """The Kubernetes pod of a process; the uid of a static pod is the hash of its configuration."""

    uid: str
    name: NotRequired[str]


class KubernetesInfo(TypedDict):
    """The Kubernetes objects that a process belongs to."""

    pod: PodInfo
    namespace: NotRequired[NameInfo]
    container: NotRequired[NameInfo]


class KernelInfo(TypedDict):
    """The part of the kernel that traffic is of, where no process transmits it."""

    name: str


class TallyInfo(TypedDict):
    """A number of packets and of their IP bytes."""

    bytes: int
    packets: int


class DirectionInfo(TallyInfo):
    """What moved in one direction; `payload_bytes` is what TCP connections carried of it."""

    payload_bytes: NotRequired[int]


class IoInfo(TypedDict):
    """The traffic counters of both directions, as seen from this host."""

    transmit: DirectionInfo
    receive: DirectionInfo


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


class RttInfo(TypedDict):
    """Samples of the smoothed round-trip time, one a round trip; a sum, and the least time."""

    samples: int
    sum_us: int
    min_us: int


class ConnectionsInfo(TypedDict, total=False):
    """How TCP connections began and ended; what did not occur is absent."""

    opened: int
    accepted: int
    closed: int
    reset: int
    refused: int
    timed_out: int
    unreachable: int
    abandoned: int
    opening_us: int
    lifetime_us: int


class TcpInfo(TypedDict):
    """The health of TCP connections. docs/health.md explains it."""

    retransmits: int
    rtt: NotRequired[RttInfo]
    connections: NotRequired[ConnectionsInfo]


class ServerInfo(TypedDict):
    """The service that flows belong to, at this host or at the remote one."""

    port: int


class InterfaceInfo(TypedDict):
    """A network interface."""

    name: str


class EndpointInfo(TypedDict, total=False):
    """One endpoint of a flow."""

    address: str
    port: int


class PeerInfo(EndpointInfo, total=False):
    """The remote endpoint of a flow; `network` is the named network of its address.

    `domain` is its name, `domain_quality` how that is known (model.peer_names.NameQuality).
    """

    network: str
    domain: str
    domain_quality: Literal["process", "host", "reverse"]


class NetworkInfo(TypedDict):
    """Traffic counters, and the properties of the flows that the dimensions describe."""

    flows: int
    io: IoInfo
    tcp: NotRequired[TcpInfo]
    transport: NotRequired[str]
    type: NotRequired[str]
    interface: NotRequired[InterfaceInfo]
    local: NotRequired[EndpointInfo]
    peer: NotRequired[PeerInfo]


class TrafficBody(TypedDict):
    """A traffic record before it is stamped, with its keys in this order."""

    process: NotRequired[ProcessInfo]
    systemd: NotRequired[SystemdInfo]
    container: NotRequired[ContainerInfo]
    k8s: NotRequired[KubernetesInfo]
    kernel: NotRequired[KernelInfo]
    server: NotRequired[ServerInfo]
    network: NetworkInfo
    attribution: dict[str, int]
    """Bytes of both directions by quality (model.Quality); a quality without bytes is absent."""
    remainder: NotRequired[Literal[True]]
    """Marks the record that sums up what `only` and `max_records` left out."""


class DroppedInfo(TypedDict):
    """Packets dropped before capture, by where."""

    kernel: int
    interface: int


class CaptureInfo(TypedDict):
    """What was captured, and why some of it is in no traffic record."""

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
    health_lost: int


class PendingInfo(TypedDict):
    """The flows that are pending at the end of the window."""

    flows: int
    bytes: int


class LatencyInfo(TypedDict):
    """The time from a new flow's first packets to its first answer; the median within a tenth."""

    median_seconds: float
    max_seconds: float


class LedgerInfo(TypedDict):
    """The work of the ledger in the window; `sockets` is a gauge at its end."""

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
    """The work of attribution in the window; `pending` is a gauge at its end."""

    new_flows: int
    batches: int
    failed_batches: int
    table_reads: int
    tables_incomplete: int
    tuple_lookups: int
    dumps_interrupted: int
    dumps_failed: int
    rows_skipped: int
    fd_scans: int
    fds_read: int
    fds_evicted: int
    not_permitted: int
    malformed_files: int
    container_files_unread: int
    deferred: int
    ambiguous: int
    evicted_flows: int
    overflowed: TallyInfo
    translated: TallyInfo
    pending: PendingInfo
    bytes: dict[str, int]
    ledger: NotRequired[LedgerInfo]
    lookup_seconds: NotRequired[float]
    latency: NotRequired[LatencyInfo]


class ReverseNamesInfo(TypedDict):
    """Addresses that reverse DNS was asked about in the window."""

    asked: int
    answered: int
    failed: int
    dropped: int


class PeerNamesInfo(TypedDict):
    """What passed on port 53 in the window; `addresses` is a gauge at its end."""

    addresses: int
    queries: int
    answers: int
    unasked: int
    malformed: int
    dropped: int
    evicted: int
    reverse: NotRequired[ReverseNamesInfo]


class AggregationInfo(TypedDict):
    """How the traffic of the window became records."""

    records: int
    folded_groups: int
    uncounted_flows: int


class SpoolInfo(TypedDict):
    """The state of a spool: `records` and `bytes` on disk now, the others since the run began.

    `recovered` counts records that earlier runs left, and `disk_failures` how often the disk could
    not be used, so that windows were queued in memory.
    """

    records: int
    bytes: int
    recovered: int
    damaged_files: int
    disk_failures: int


class SinkInfo(TypedDict):
    """The state of a sink, in records: `queued` now, the others since the run began."""

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
    """The longest time in the window that a batch of packets was queued for the event loop."""

    longest_delay_seconds: float


class SelfInfo(TypedDict):
    """The resources that hogpipe itself used."""

    cpu: CpuInfo
    memory: MemoryInfo
    loop: LoopInfo


class StatsBody(TypedDict):
    """A stats record before it is stamped. A replay, which has no clock, has no `self`."""

    capture: CaptureInfo
    attribution: AttributionInfo
    aggregation: AggregationInfo
    peer_names: NotRequired[PeerNamesInfo]
    sinks: NotRequired[list[SinkInfo]]
    self: NotRequired[SelfInfo]


class Stamp(TypedDict):
    """What identifies a record, the version of its keys, and the window that it covers."""

    schema: int
    timestamp: str
    window: Window
    run: str
    sequence: int
    host: HostInfo


class TrafficRecord(Stamp, TrafficBody):
    """The traffic of one group in one window."""

    type: Literal["traffic"]


class StatsRecord(Stamp, StatsBody):
    """The counters and gauges of the pipeline itself for one window."""

    type: Literal["stats"]


Record = TrafficRecord | StatsRecord

RecordId = tuple[str, int]


def record_id(record: Record) -> RecordId:
    """Return `run` and `sequence`, which together identify a record."""
    return record["run"], record["sequence"]
