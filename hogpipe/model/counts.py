"""Counters of what the stages did and could not do; they add up over windows."""

from collections.abc import Mapping

import msgspec


class Tally(msgspec.Struct):
    """Packets and their bytes."""

    packets: int = 0
    bytes: int = 0

    def add(self, other: "Tally") -> None:
        """Add `other` to this tally."""
        self.packets += other.packets
        self.bytes += other.bytes


class CaptureCounts(msgspec.Struct):
    """Where every captured packet went that is not in a flow, and what the kernel dropped.

    The bytes of all flows = captured - not_local - not_ip - undecoded + both_sides.
    """

    captured: Tally = msgspec.field(default_factory=Tally)
    """All frames; bytes of the IP packet, or of the frame as captured where there is none."""
    not_local: Tally = msgspec.field(default_factory=Tally)
    """IP packets whose source and destination are both elsewhere."""
    not_ip: Tally = msgspec.field(default_factory=Tally)
    """Frames of another network protocol (ARP, LLDP, …)."""
    undecoded: Tally = msgspec.field(default_factory=Tally)
    """Frames that are malformed, or cut before the addresses end."""
    both_sides: Tally = msgspec.field(default_factory=Tally)
    """IP packets whose source and destination are both local: they count once on each side."""
    length_floored: Tally = msgspec.field(default_factory=Tally)
    """BIG TCP packets of unknown length, counted as the least they can be (part of captured)."""
    kernel_dropped: int = 0
    interface_dropped: int = 0
    merged_batches: int = 0
    """Batches that were merged because the event loop was behind."""
    overflowed: Tally = msgspec.field(default_factory=Tally)
    """What was moved to the nameless flow because too many flows waited."""

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


class Latency(msgspec.Struct, frozen=True):
    """The median (to a tenth) and the longest of some times, in seconds."""

    median: float
    longest: float


class LedgerUse(msgspec.Struct):
    """What a ledger in use has done; the numbers only grow, but for `sockets`."""

    sockets: int = 0
    """Sockets that it knows now."""
    events: int = 0
    """What the kernel told of sockets."""
    events_lost: int = 0
    """Events that the kernel had no room to tell."""
    sockets_lost: int = 0
    """Sockets that the kernel had no memory to note."""
    malformed: int = 0
    """Events that made no sense."""
    forgotten: int = 0
    """Sockets and answers that were forgotten before their time, because there were too many, or
    because events were lost."""
    unknown: int = 0
    """Sockets that were released and had not been known."""
    shared: int = 0
    """Answers not given because sockets of several owners fit, at once or in turn."""
    unidentified: int = 0
    """Times that a process was gone before its start could be read."""
    seeded: int = 0
    """Times that the sockets that are there were taken in: at first, and after losses of events."""
    not_entered: int = 0
    """Times that another network namespace could not be entered to be recognised."""

    def since(self, earlier: "LedgerUse") -> "LedgerUse":
        """Return what was done after `earlier`, with the sockets known now."""
        grown = _subtract(msgspec.structs.asdict(self), msgspec.structs.asdict(earlier))
        return LedgerUse(**grown | {"sockets": self.sockets})


def _subtract(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: now[name] - before[name] for name in now}


class ResolverCounts(msgspec.Struct):
    """What a resolver has done since it was made; the numbers only grow."""

    reads: int = 0
    """Socket tables read."""
    tuples_asked: int = 0
    """Single connections asked for over sock_diag, in place of a whole table."""
    dumps_interrupted: int = 0
    """Tables over sock_diag that may miss sockets because they changed meanwhile."""
    dumps_refused: int = 0
    """Times that sock_diag failed and /proc/net was read in its place."""
    fds_read: int = 0
    """Links of /proc/PID/fd read."""
    fds_forgotten: int = 0
    """Fds that were forgotten because there were too many: they may be read again."""
    walks: int = 0
    """Look-ups that read fds beyond verifying what was known."""
    not_permitted: int = 0
    """Processes whose descriptors the kernel refused to show."""
    malformed_files: int = 0
    """Files of processes that made no sense."""
    rows_skipped: int = 0
    """Rows of a socket table that could not be read."""
    put_off: int = 0
    """Sockets whose owner, and flows of other namespaces whose socket, was left to the next
    look-up, once for each."""
    shared: int = 0
    """Sockets without an owner because strangers hold them, once for each look-up."""
    ledger: LedgerUse | None = None
    """None where no ledger is in use."""

    def since(self, earlier: "ResolverCounts") -> "ResolverCounts":
        """Return what was done after `earlier`."""
        before, now = msgspec.structs.asdict(earlier), msgspec.structs.asdict(self)
        ledger = now.pop("ledger")
        grown = _subtract(now, before)
        if ledger is not None:
            ledger = ledger.since(before["ledger"] or LedgerUse())
        return ResolverCounts(**grown, ledger=ledger)


class AttributionCounts(msgspec.Struct):
    """What the attribution stage did since the last time it was asked."""

    new_flows: int = 0
    """Flows that had to be looked up."""
    batches: int = 0
    """Look-ups, each for all flows that were due."""
    failed_batches: int = 0
    """Look-ups that the host refused."""
    forgotten_flows: int = 0
    """Flows dropped from memory because they were idle or too many."""
    overflowed: Tally = msgspec.field(default_factory=Tally)
    """What was told without an owner because too many flows were waiting."""
    pending_flows: int = 0
    """Flows that wait for an owner now."""
    pending_bytes: int = 0
    """Bytes of both directions that wait for an owner now."""
    lookup_seconds: float = 0.0
    """CPU time of the look-ups."""
    latency: Latency | None = None
    """How long new flows waited for an answer; None where none got its first one."""
    resolver: ResolverCounts = msgspec.field(default_factory=ResolverCounts)
    """What the resolver did in the same time."""
