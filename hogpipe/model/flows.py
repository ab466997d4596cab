"""PURE: flows, and what they moved.

Deltas add up: two deltas of a flow can be merged into one with the same bytes. So a stage that
falls behind loses time resolution and never a byte.
"""

from typing import NamedTuple

import msgspec

from hogpipe.model.counts import TrafficCounts

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96

OWN_NAMESPACE = 0
"""Stands for the network namespace that is captured in; no inode has this number."""


class Span(NamedTuple):
    """A time span, nanoseconds since the epoch; `end_ns` is exclusive."""

    start_ns: int
    end_ns: int


class FlowKey(msgspec.Struct, frozen=True, gc=False):
    """A five-tuple oriented towards this host, with where it was captured.

    Addresses are in network order, 4 bytes (IPv4) or 16 (IPv6). Ports are 0 if the protocol has
    none; of an ICMP echo, both are its identifier. `interface` is the captured one. `namespace` is
    the inode of the network namespace that has the local address, or None if several have it and
    the packet does not show which.
    """

    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    interface: str
    namespace: int | None = OWN_NAMESPACE


UNKNOWN_FLOW = FlowKey(0, b"", 0, b"", 0, "")
"""Stands for flows of which nothing is known: no protocol, no address, no interface."""


def unmap(address: bytes) -> bytes:
    """Return the IPv4 address of a v4-mapped address, any other address unchanged."""
    return address[12:] if address.startswith(_MAPPED_PREFIX) else address


def fold_key(flow: FlowKey) -> FlowKey:
    """Return the key under which `flow` is summed with others, if there are too many flows.

    The protocol, the address family and the interface stay. The local address is the unspecified
    one; the remote address is empty, which marks all keys of sums, UNKNOWN_FLOW included.
    """
    return FlowKey(
        flow.protocol, bytes(len(flow.local_address)), 0, b"", 0, flow.interface, OWN_NAMESPACE
    )


def is_sum(flow: FlowKey) -> bool:
    """Return whether `flow` is the key of a sum of flows, which has no endpoints."""
    return not flow.remote_address


class FlowDelta(TrafficCounts, gc=False, kw_only=True):
    """What a flow moved since the last delta.

    `opened` is set when a TCP SYN without ACK was among the packets: a new connection, so that the
    five-tuple may have another owner than before. `first_ns` and `last_ns` are the capture times of
    the first and the last packet, in nanoseconds since the epoch; 0 where unknown.
    """

    opened: bool = False
    first_ns: int = 0
    last_ns: int = 0

    def add(self, other: "FlowDelta") -> None:
        """Add `other` to this delta."""
        self.add_counts(other)
        self.opened |= other.opened
        if other.first_ns and not 0 < self.first_ns <= other.first_ns:
            self.first_ns = other.first_ns
        if other.last_ns > self.last_ns:  # noqa: PLR1730 - max() costs 100 ns, for each flow
            self.last_ns = other.last_ns

    @property
    def span(self) -> Span | None:
        """The time from the first packet to the last; None where unknown."""
        return Span(self.first_ns, self.last_ns + 1) if self.first_ns else None
