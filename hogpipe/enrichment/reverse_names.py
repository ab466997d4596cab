"""PURE: the names of addresses by reverse DNS, and which addresses to ask about next.

In: addresses of peers without a name, and what the resolver answered. Out: the name of an address,
none, or that it is not decided yet; and addresses to ask about.

An address is asked about once, until its answer expires: as its TTL says, at least `_MIN_SECONDS`
and at most `_MAX_SECONDS`; an answer without a name, and none, after times of their own. Of two
names none is used. Addresses that no resolver can know are never asked about: those of this host
(loopback, unspecified), of a link, and of many (multicast, broadcast). Private ones are.

Bounds: `MAX_QUEUED` addresses wait to be asked about; more are dropped, and their flows have no
name. Of `MAX_KNOWN` addresses with an answer, that of longest ago is evicted first.
"""

from collections import OrderedDict, deque
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from hogpipe.enrichment.address_names import Naming
from hogpipe.model.peer_names import NameQuality, PeerName, ReverseCounts
from hogpipe.protocols import NANOSECONDS

MAX_QUEUED = 512
MAX_KNOWN = 16_384
_MIN_SECONDS, _MAX_SECONDS = 60, 86_400
_NAMELESS_SECONDS = 600
_FAILED_SECONDS = 60
_BROADCAST = IPv4Address("255.255.255.255")


class PointerAnswer(NamedTuple):
    """What the resolver answered for an address."""

    domains: frozenset[str]
    """As in PeerName; empty if the address has no name."""
    ttl: int = 0
    """For how many seconds the names may be cached."""


class _Known(NamedTuple):
    name: PeerName | None
    expires_ns: int


_NO_NAME = Naming(None, is_final=True)
_UNDECIDED = Naming(None, is_final=False)


class ReverseNames:
    """The names of addresses. For one thread at a time."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        """The one that was answered last is the last one."""
        self._queue: deque[bytes] = deque()
        self._undecided: set[bytes] = set()
        """Those that are queued, or were taken and have no answer yet."""
        self.counts = ReverseCounts()
        """What happened so far."""

    def find(self, address: bytes, now_ns: int) -> Naming:
        """Return the name of an address; it is queued if it is to be asked about."""
        if address in self._undecided:
            return _UNDECIDED
        known = self._known.get(address)
        if known is not None and known.expires_ns > now_ns:
            return Naming(known.name, is_final=True)
        if not _can_have_name(address):
            return _NO_NAME
        if len(self._queue) >= MAX_QUEUED:
            self.counts.dropped += 1
            return _NO_NAME
        self._queue.append(address)
        self._undecided.add(address)
        return _UNDECIDED

    @property
    def has_queued(self) -> bool:
        """Whether `take` would return an address."""
        return bool(self._queue)

    def take(self) -> bytes:
        """Return the address to ask about next; `ingest` must follow. One is queued."""
        self.counts.asked += 1
        return self._queue.popleft()

    def ingest(self, address: bytes, answer: PointerAnswer | None, now_ns: int) -> None:
        """Add what was answered for an address that was taken; None if nothing that is usable."""
        name: PeerName | None = None
        if answer is None:
            seconds = _FAILED_SECONDS
        elif len(answer.domains) == 1:
            (domain,) = answer.domains
            name = PeerName(domain, NameQuality.REVERSE)
            seconds = min(max(answer.ttl, _MIN_SECONDS), _MAX_SECONDS)
        else:
            seconds = _NAMELESS_SECONDS
        self._undecided.discard(address)
        self._known.pop(address, None)
        self._known[address] = _Known(name, now_ns + seconds * NANOSECONDS)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        self.counts.failed += answer is None
        self.counts.answered += answer is not None


def _can_have_name(packed: bytes) -> bool:
    address = ip_address(packed)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or address == _BROADCAST
    )
