"""The values that pass between the stages.

Deltas add: merging two of anything here gives the sum, so a stage that is behind loses time
resolution and never a byte.
"""

from typing import NamedTuple

import msgspec

from hogpipe.model.counts import CaptureCounts, Tally
from hogpipe.model.owners import Attribution

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
    closed_window: Span | None = None
    """The window that this batch completes, from a source that closes windows itself."""
    is_last: bool = False
    """Whether such a source ends with this batch."""
