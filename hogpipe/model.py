"""The values that pass between the stages.

Deltas add: merging two of anything here gives the sum, so a stage that is behind loses time
resolution and never a byte.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

OWN_NAMESPACE = 0
"""The network namespace that is captured in; the kernel gives no other one this number."""


class Span(NamedTuple):
    """The time of a window or of packets, nanoseconds since the epoch; `end_ns` is exclusive."""

    start_ns: int
    end_ns: int


class FlowKey(msgspec.Struct, frozen=True, gc=False):
    """A flow turned towards this host.

    Addresses are in network order, 4 bytes (IPv4) or 16 (IPv6). Ports are 0 where the protocol has
    none; an ICMP echo has its identifier on both sides. `interface` is where it was captured.
    `namespace` is the network namespace that the local address is in, by its inode, or None where
    it is in several and nothing tells in which.
    """

    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    interface: str
    namespace: int | None = OWN_NAMESPACE


NAMELESS = FlowKey(0, b"", 0, b"", 0, "")
"""The flow of all bytes whose own flow could not be kept; it has no address."""


class FlowDelta(msgspec.Struct, gc=False):
    """What a flow moved: bytes are IP packet bytes (the IP header's total length).

    `opened` is set when a TCP SYN without ACK was among the packets: a new connection, and whoever
    owned this five-tuple before may not own it now. `first_ns` and `last_ns` are when the first and
    the last of the packets passed, nanoseconds since the epoch; 0 where that is not known.
    """

    transmit_bytes: int = 0
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0
    opened: bool = False
    first_ns: int = 0
    last_ns: int = 0

    def add(self, other: "FlowDelta") -> None:
        """Add `other` to this delta."""
        self.transmit_bytes += other.transmit_bytes
        self.transmit_packets += other.transmit_packets
        self.receive_bytes += other.receive_bytes
        self.receive_packets += other.receive_packets
        self.opened |= other.opened
        if other.first_ns and not 0 < self.first_ns <= other.first_ns:
            self.first_ns = other.first_ns
        self.last_ns = max(self.last_ns, other.last_ns)

    @property
    def span(self) -> Span | None:
        """The time in which its packets passed; None where that is not known."""
        return Span(self.first_ns, self.last_ns + 1) if self.first_ns else None

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions."""
        return self.transmit_bytes + self.receive_bytes

    @property
    def total(self) -> "Tally":
        """Packets and bytes of both directions."""
        return Tally(self.transmit_packets + self.receive_packets, self.total_bytes)


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


class Process(msgspec.Struct, frozen=True):
    """A process, identified by (pid, start). Strings are valid UTF-8; absent is None."""

    pid: int
    start: int | None
    """Start time in clock ticks since boot (/proc/PID/stat, field 22); None where the process was
    gone before it could be looked at, so that only its pid tells it apart."""
    parent_pid: int | None = None
    created_ns: int | None = None
    command: str | None = None
    """The kernel's short name of it (comm)."""
    executable: str | None = None
    command_line: tuple[str, ...] | None = None
    user_id: int | None = None
    """The real user: what a program that is set-uid was started by."""
    owner: str | None = None
    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    """The uid of the Kubernetes pod."""


class User(msgspec.Struct, frozen=True):
    """Who owns a socket whose process is not known."""

    id: int
    name: str | None = None


class Quality(StrEnum):
    """How bytes came to their process."""

    EXACT = "exact"
    """The flow's own socket was seen with its owner."""
    LISTENER = "listener"
    """By the listening or unconnected socket on the local port."""
    INFERRED = "inferred"
    """By a documented rule."""
    NONE = "none"
    """No owner, or more than one possible."""


class Attribution(msgspec.Struct, frozen=True):
    """Who moved the bytes of a flow, and how that is known.

    With quality NONE `process` is None; `user` may be known all the same.
    """

    quality: Quality
    process: Process | None = None
    user: User | None = None


UNATTRIBUTED = Attribution(Quality.NONE)


class OwnedFlow(msgspec.Struct, gc=False):
    """What flows moved for an owner that was known when they were counted."""

    flow: FlowKey
    """One of them; all are alike in what records are told apart by."""
    delta: FlowDelta
    attribution: Attribution
    flows: int = 1
    """How many of them were not told of before in this window."""


class FlowBatch(msgspec.Struct):
    """What a capture saw since its last batch."""

    flows: dict[FlowKey, FlowDelta] = msgspec.field(default_factory=dict)
    """Those whose owners are to be looked up."""
    counts: CaptureCounts = msgspec.field(default_factory=CaptureCounts)
    time_ns: int = 0
    """When the newest packet passed, nanoseconds since the epoch."""
    owned: list[OwnedFlow] = msgspec.field(default_factory=list)
    """The others."""
    ends: Span | None = None
    """The window that this batch is the last of, from a source that keeps the windows."""
    last: bool = False
    """Whether such a source ends with this batch."""
