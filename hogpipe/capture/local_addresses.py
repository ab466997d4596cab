"""PURE: which addresses are local, as one interface sees them: this host's own, and its guests'.

A guest is a network namespace that a link faces: what comes in on the link was sent there, and
what goes out is received there.
"""

from collections.abc import Mapping

import msgspec

from hogpipe.capture.live.link_selection import Uppers
from hogpipe.linux.procfs_addresses import ProcfsAddresses
from hogpipe.linux.rtnetlink import Address, Link, LinkTable
from hogpipe.model import OWN_NAMESPACE

_MULTICAST_V4 = range(224, 240)
_BROADCAST_V4 = b"\xff\xff\xff\xff"
_LOOPBACK_V6 = bytes(15) + b"\1"


class LocalAddresses(msgspec.Struct, frozen=True):
    """The addresses that are local, as seen from one interface."""

    addresses: frozenset[bytes] = frozenset()
    prefixes: tuple[tuple[int, int], ...] = ()
    """IPv4 networks that are local as a whole (127.0.0.0/8): (network, mask)."""
    broadcasts: frozenset[bytes] = frozenset()
    loopback: bool = False
    """Whether the interface is a loopback: each of its frames is sent and received here."""
    guests_only: bool = False
    """Whether packets of this host's own are counted on another interface, and not on this one."""
    guests: dict[bytes, tuple[int, ...]] = {}
    """The namespaces of guests that have an address, by that address."""
    faced: tuple[int, ...] = ()
    """The namespaces that the interface faces, as far as known."""

    @classmethod
    def from_procfs(cls, found: ProcfsAddresses) -> "LocalAddresses":
        """Return the addresses of the network namespace that a /proc shows."""
        return cls(found.addresses, found.prefixes, found.broadcasts)

    def namespaces_of(self, address: bytes) -> tuple[int, ...]:
        """Return the namespaces that packets to `address` may be delivered in; none elsewhere."""
        guests = self.guests.get(address, ())
        return (OWN_NAMESPACE, *guests) if self.has(address) else guests

    def has(self, address: bytes) -> bool:
        """Tell whether packets to `address` are delivered in the namespace that is captured in."""
        if address in self.addresses:
            return True
        if len(address) != 4:
            return False
        value = int.from_bytes(address, "big")
        return any(value & mask == network for network, mask in self.prefixes)

    def is_group(self, address: bytes) -> bool:
        """Tell whether `address` is a multicast or broadcast address."""
        if len(address) == 16:
            return address[0] == 0xFF
        return address[0] in _MULTICAST_V4 or address == _BROADCAST_V4 or address in self.broadcasts


class HostAddresses:
    """What is local as each link of `table` sees it.

    Linux takes packets to any of its addresses on any interface. Link-local IPv6 addresses are
    the exception: another host may have the same one on another link, so they count only on
    their own link and on those that it stands upon.
    """

    def __init__(self, table: LinkTable) -> None:
        loopbacks = {link.index for link in table.links if link.loopback}
        v4 = [entry for entry in table.addresses if len(entry.address) == 4]
        self._uppers = Uppers(table.links)
        self._everywhere = frozenset(
            entry.address for entry in table.addresses if not _is_link_local(entry.address)
        )
        self._link_local: dict[int, set[bytes]] = {}
        for entry in table.addresses:
            if _is_link_local(entry.address):
                self._link_local.setdefault(entry.link, set()).add(entry.address)
        # net/ipv4/fib_frontend.c, fib_add_ifaddr: on a loopback the whole prefix is local, and the
        # last address of a prefix is a broadcast whatever IFA_BROADCAST names.
        self._prefixes = tuple(_network(entry) for entry in v4 if entry.link in loopbacks)
        told = frozenset(entry.broadcast for entry in table.addresses if entry.broadcast)
        self._broadcasts = told.union(
            _last_address(entry) for entry in v4 if entry.prefix_length < 31
        )

    def seen_by(self, link: Link | None) -> LocalAddresses:
        """Return what is local as `link` sees it; None stands for all links at once."""
        here = self._link_local if link is None else {link.index, *self._uppers.of(link.index)}
        own = [self._link_local[one] for one in here if one in self._link_local]
        return LocalAddresses(
            addresses=self._everywhere.union(*own) if own else self._everywhere,
            prefixes=self._prefixes,
            broadcasts=self._broadcasts,
            loopback=link is not None and link.loopback,
        )


def add_guests(
    local: LocalAddresses, guests: Mapping[int, LocalAddresses], *, guests_only: bool = False
) -> LocalAddresses:
    """Return `local` with the addresses of guests, by namespace; loopback ones never come out."""
    namespaces: dict[bytes, tuple[int, ...]] = {}
    for namespace, known in sorted(guests.items()):
        for address in known.addresses - {_LOOPBACK_V6}:
            namespaces[address] = (*namespaces.get(address, ()), namespace)
    return msgspec.structs.replace(
        local,
        broadcasts=local.broadcasts.union(*[known.broadcasts for known in guests.values()])
        if guests
        else local.broadcasts,
        guests_only=guests_only,
        guests=namespaces,
        faced=tuple(sorted(guests)),
    )


def _network(entry: Address) -> tuple[int, int]:
    mask = 0xFFFFFFFF << (32 - entry.prefix_length) & 0xFFFFFFFF
    return int.from_bytes(entry.address, "big") & mask, mask


def _last_address(entry: Address) -> bytes:
    network, mask = _network(entry)
    return (network | ~mask & 0xFFFFFFFF).to_bytes(4, "big")


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
