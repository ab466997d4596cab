"""PURE: the names of peers, how each is known, and the answers of DNS that they come from."""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from hogpipe.model.counts import subtract


class NameQuality(StrEnum):
    """How the name of a peer is known; docs/peer-names.md defines each. The best one is first."""

    PROCESS = "process"
    """The process that owns the flow asked for the name, and was answered with the address."""
    HOST = "host"
    """Some process asked for it on this host, or through it."""
    REVERSE = "reverse"
    """No process asked for it; the address has it in reverse DNS."""


class PeerName(msgspec.Struct, frozen=True):
    """The name of a peer: a domain without the final dot, lower-case ASCII, escaped as in DNS."""

    domain: str
    quality: NameQuality


class Endpoint(NamedTuple):
    """An address in network order, and a port."""

    address: bytes
    port: int


class Asker(NamedTuple):
    """The flow in which a query passed."""

    protocol: int
    local: Endpoint
    server: Endpoint


class Answer(NamedTuple):
    """An answer that passed: the addresses of the name that was asked for."""

    time_ns: int
    """Nanoseconds since the epoch."""
    asker: Asker
    domain: str
    addresses: tuple[bytes, ...]
    """In network order; those of IPv4 have 4 bytes."""
    ttl: int
    """For how many seconds the addresses may be cached."""


class ReverseCounts(msgspec.Struct):
    """Addresses whose names were asked for in reverse DNS, and what became of that."""

    asked: int = 0
    """Addresses that were asked about."""
    answered: int = 0
    """Those for which the resolver answered, if only that they have no name."""
    failed: int = 0
    """Those without an answer that is usable."""
    dropped: int = 0
    """How often an address was not asked about, because too many were queued."""

    def since(self, earlier: "ReverseCounts") -> "ReverseCounts":
        """Return the growth since `earlier`."""
        grown = subtract(msgspec.structs.asdict(self), msgspec.structs.asdict(earlier))
        return ReverseCounts(**grown)


class NameCounts(msgspec.Struct):
    """What passed on port 53, and what became of it. `addresses` is a gauge, all others grow."""

    addresses: int = 0
    """Addresses that have a name now."""
    queries: int = 0
    """Queries for addresses that left this host, or passed within it."""
    answers: int = 0
    """Answers that belong to such a query."""
    unasked: int = 0
    """Answers that belong to no query that passed, or to one that was answered: not believed."""
    malformed: int = 0
    """Packets and messages that could not be decoded."""
    dropped: int = 0
    """Packets that the kernel dropped, because more came than were read."""
    evicted: int = 0
    """Queries and addresses evicted early, because of their number."""
    reverse: ReverseCounts | None = None
    """None if the run asks for no names."""

    def since(self, earlier: "NameCounts") -> "NameCounts":
        """Return the growth since `earlier`, with the addresses known now."""
        before, now = msgspec.structs.asdict(earlier), msgspec.structs.asdict(self)
        addresses, reverse = now.pop("addresses"), now.pop("reverse")
        if reverse is not None:
            reverse = reverse.since(before["reverse"] or ReverseCounts())
        return NameCounts(**subtract(now, before), addresses=addresses, reverse=reverse)
