"""PURE: counters of traffic, and of the work and the losses of the stages.

Counters of several windows add up. Those of a resolver and its ledger are totals since it was made;
`since` returns their difference. docs/record.md explains them in the records' words.
"""

from collections.abc import Mapping
from copy import copy

import msgspec


class Tally(msgspec.Struct):
    """A number of packets and of their bytes."""

    packets: int = 0
    bytes: int = 0

    def add(self, other: "Tally") -> None:
        """Add `other` to this tally."""
        self.packets += other.packets
        self.bytes += other.bytes


class TrafficCounts(msgspec.Struct, gc=False, kw_only=True):
    """What this host transmitted and received; bytes are IP packet bytes (total length).

    The one list of traffic counters: deltas, groups, `ebpf` rows and merged windows hold them, and
    records/schema.py writes them into records.
    """

    transmit_bytes: int = 0
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0

    def add_counts(self, other: "TrafficCounts") -> None:
        """Add the counters of `other`."""
        self.transmit_bytes += other.transmit_bytes
        self.transmit_packets += other.transmit_packets
        self.receive_bytes += other.receive_bytes
        self.receive_packets += other.receive_packets

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions."""
        return self.transmit_bytes + self.receive_bytes

    @property
    def total(self) -> Tally:
        """Packets and bytes of both directions."""
        return Tally(self.transmit_packets + self.receive_packets, self.total_bytes)


class TcpHealth(msgspec.Struct, gc=False, kw_only=True):
    """How TCP connections fared in a window: sums over connections, and one minimum.

    The one list of health counters, in the order of their columns (flows/health_columns.py).
    Payload is what TCP carries: each byte once, without headers. docs/health.md explains them.
    """

    transmit_payload_bytes: int = 0
    """Acknowledged by the peer."""
    receive_payload_bytes: int = 0
    """Received in order."""
    rtt_sum_us: int = 0
    """Of samples of the smoothed round-trip time, one a round trip."""
    opening_us: int = 0
    """From connect() to the establishment, of all `opened`."""
    lifetime_us: int = 0
    """From the establishment to the end, of all `closed`."""
    retransmits: int = 0
    """Segments."""
    rtt_samples: int = 0
    rtt_min_us: int = 0
    """The least round-trip time of the connections with samples; 0 without samples."""
    opened: int = 0
    """Connections of this host that were established."""
    accepted: int = 0
    refused: int = 0
    """Attempts that the peer reset."""
    timed_out: int = 0
    """Attempts and connections that ended as retransmissions were not answered."""
    unreachable: int = 0
    """Attempts that ended without a segment of the peer, by ICMP as a rule."""
    abandoned: int = 0
    """Attempts that the process closed before the peer answered."""
    reset: int = 0
    """Established connections that a reset of either end ended; they are closed, too."""
    closed: int = 0
    """Established connections that ended."""

    @property
    def failures(self) -> dict[str, int]:
        """Attempts and connections that failed, by cause."""
        return {cause: getattr(self, cause) for cause in FAILURES}

    @property
    def failed(self) -> int:
        """Attempts and connections that failed; the kernel programs count one cause for each."""
        return sum(self.failures.values())

    def add(self, other: "TcpHealth") -> None:
        """Add the counters of `other`."""
        self.transmit_payload_bytes += other.transmit_payload_bytes
        self.receive_payload_bytes += other.receive_payload_bytes
        self.rtt_sum_us += other.rtt_sum_us
        self.opening_us += other.opening_us
        self.lifetime_us += other.lifetime_us
        self.retransmits += other.retransmits
        self.rtt_samples += other.rtt_samples
        self.rtt_min_us = least_of_known(self.rtt_min_us, other.rtt_min_us)
        self.opened += other.opened
        self.accepted += other.accepted
        self.refused += other.refused
        self.timed_out += other.timed_out
        self.unreachable += other.unreachable
        self.abandoned += other.abandoned
        self.reset += other.reset
        self.closed += other.closed


FAILURES = ("refused", "timed_out", "unreachable", "abandoned", "reset")
"""The causes of failures: counters of `TcpHealth`, of which each failure is in one."""


def least_of_known(one: int, other: int) -> int:
    """Return the lesser of two numbers that are unknown where they are 0."""
    return min(one, other) if one and other else one or other


def join_health(one: TcpHealth | None, other: TcpHealth | None) -> TcpHealth | None:
    """Return the sum of what is known, which may be one of the arguments; they do not change."""
    if one is None or other is None:
        return one or other
    total = copy(one)
    total.add(other)
    return total


class CaptureCounts(msgspec.Struct):
    """What was captured, and why some of it is in no flow.

    Bytes of all flows = captured - not_local - not_ip - undecoded + both_sides. Attribution leaves
    out the copies of translated packets (`AttributionCounts.translated`).
    """

    captured: Tally = msgspec.field(default_factory=Tally)
    """All frames; bytes of the IP packet, or of the frame as captured where there is none."""
    not_local: Tally = msgspec.field(default_factory=Tally)
    """IP packets of which neither source nor destination is local."""
    not_ip: Tally = msgspec.field(default_factory=Tally)
    """Frames of another network protocol (ARP, LLDP, …)."""
    undecoded: Tally = msgspec.field(default_factory=Tally)
    """Frames that are malformed, or truncated before the end of the addresses."""
    both_sides: Tally = msgspec.field(default_factory=Tally)
    """IP packets of which source and destination are local: they count once on each side."""
    length_floored: Tally = msgspec.field(default_factory=Tally)
    """BIG TCP packets of unknown length, counted with the smallest possible; part of captured."""
    kernel_dropped: int = 0
    interface_dropped: int = 0
    merged_batches: int = 0
    """Batches that were merged because the event loop was behind."""
    overflowed: Tally = msgspec.field(default_factory=Tally)
    """What was counted in sums of flows because there were too many flows; part of captured."""
    health_lost: int = 0
    """Times that there was no room for what the kernel reports of the health of connections."""

    def add(self, other: "CaptureCounts") -> None:
        """Add `other` to these counts."""
        self.captured.add(other.captured)
        self.not_local.add(other.not_local)
        self.not_ip.add(other.not_ip)
        self.undecoded.add(other.undecoded)
        self.both_sides.add(other.both_sides)
        self.length_floored.add(other.length_floored)
        self.kernel_dropped += other.kernel_dropped
        self.interface_dropped += other.interface_dropped
        self.merged_batches += other.merged_batches
        self.overflowed.add(other.overflowed)
        self.health_lost += other.health_lost


class Latency(msgspec.Struct, frozen=True):
    """The median (within a tenth) and the maximum of some times, in seconds."""

    median: float
    longest: float


class LedgerCounts(msgspec.Struct):
    """The work of a ledger since it was made. `sockets` is a gauge, all others only grow.

    Each layer of a ledger fills in the counters that it knows.
    """

    sockets: int = 0
    """Sockets that the ledger knows now."""
    events: int = 0
    """Socket events that the kernel reported."""
    events_lost: int = 0
    """Events lost because the ring buffer was full."""
    sockets_lost: int = 0
    """Sockets that the kernel had no memory to record."""
    malformed_events: int = 0
    """Events that could not be decoded."""
    evicted: int = 0
    """Sockets and cached answers evicted early, because of their number or of lost events."""
    unknown_releases: int = 0
    """Releases of sockets that the ledger did not know."""
    contested: int = 0
    """Lookups without an answer because sockets of several owners match, at once or in turn. If a
    flow is looked up by the spans of its packets, each span without an answer counts."""
    unidentified_processes: int = 0
    """Processes that had exited before their start time could be read."""
    snapshots: int = 0
    """Snapshots of the open sockets: one at the start, and one after each loss of events."""
    namespaces_not_entered: int = 0
    """Failed attempts to enter another network namespace in order to identify it."""

    def since(self, earlier: "LedgerCounts") -> "LedgerCounts":
        """Return the growth since `earlier`, with the sockets known now."""
        grown = subtract(msgspec.structs.asdict(self), msgspec.structs.asdict(earlier))
        return LedgerCounts(**grown | {"sockets": self.sockets})


def subtract(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Return the growth of each counter."""
    return {name: now[name] - before[name] for name in now}


class ResolverCounts(msgspec.Struct):
    """The work of a resolver since it was made; all counters only grow."""

    table_reads: int = 0
    """Socket tables read."""
    tables_incomplete: int = 0
    """Tables of /proc/net that were not read to their end by the deadline of the lookup."""
    tuple_lookups: int = 0
    """Single five-tuples looked up over sock_diag instead of reading a whole table."""
    dumps_interrupted: int = 0
    """sock_diag dumps that may miss sockets because the table changed meanwhile."""
    dumps_failed: int = 0
    """sock_diag dumps that failed, so that /proc/net was read instead."""
    fds_read: int = 0
    """Links of /proc/PID/fd read."""
    fds_evicted: int = 0
    """Fds evicted from the cache because it was full; they may be read again."""
    fd_scans: int = 0
    """Lookups that read more fds than those needed to verify cached ones."""
    not_permitted: int = 0
    """Processes whose fds the kernel refused to show."""
    malformed_files: int = 0
    """Files of processes that could not be parsed."""
    container_files_unread: int = 0
    """State files of containers that could not be read or parsed."""
    rows_skipped: int = 0
    """Rows of a socket table that could not be parsed."""
    deferred: int = 0
    """Sockets without a known owner, and flows of other network namespaces without a known socket,
    that were deferred to the next lookup; each counts once."""
    ambiguous: int = 0
    """Sockets without an owner because unrelated processes hold them, once for each lookup."""
    ledger: LedgerCounts | None = None
    """None where no ledger is in use."""

    def since(self, earlier: "ResolverCounts") -> "ResolverCounts":
        """Return the growth since `earlier`."""
        before, now = msgspec.structs.asdict(earlier), msgspec.structs.asdict(self)
        ledger = now.pop("ledger")
        grown = subtract(now, before)
        if ledger is not None:
            ledger = ledger.since(before["ledger"] or LedgerCounts())
        return ResolverCounts(**grown, ledger=ledger)


class AttributionCounts(msgspec.Struct):
    """The work of the attribution stage in a window; what is pending is as of now."""

    new_flows: int = 0
    """Flows that had to be looked up, or that began in a replay with a recorded /proc."""
    batches: int = 0
    """Lookups, each for all flows that were due."""
    failed_batches: int = 0
    """Lookups that failed as a whole."""
    evicted_flows: int = 0
    """Flows evicted from the flow cache because they were idle or too many."""
    overflowed: Tally = msgspec.field(default_factory=Tally)
    """Packets of flows that were folded, as too many were pending or a stop left no time."""
    translated: Tally = msgspec.field(default_factory=Tally)
    """Packets of translated flows, whose other copy is recorded; they are in no record."""
    pending_flows: int = 0
    """Flows that are pending now."""
    pending_bytes: int = 0
    """Bytes of both directions of the pending flows."""
    lookup_seconds: float = 0.0
    """CPU time of the lookups."""
    latency: Latency | None = None
    """Time from a new flow's first packets to its first answer; None where no flow was answered."""
    resolver: ResolverCounts = msgspec.field(default_factory=ResolverCounts)
    """The work of the resolver in the same window."""
