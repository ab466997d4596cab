"""PURE: which of the host's addresses are local, as each of its links sees them.

Linux accepts packets to any of its addresses on any interface. Link-local IPv6 addresses are the
exception: another host may have the same one on another link, so they are local only on their own
link and on the links that its packets pass below it.
"""

from hogpipe.capture.live.link_topology import LinkStack
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.linux.rtnetlink import Address, Link, LinkTable


class LinkAddresses:
    """The local addresses of the network namespace whose links and addresses are in `table`."""

    def __init__(self, table: LinkTable) -> None:
        loopbacks = {link.index for link in table.links if link.loopback}
        v4 = [entry for entry in table.addresses if len(entry.address) == 4]
        self._stack = LinkStack(table.links)
        self._everywhere = frozenset(
            entry.address for entry in table.addresses if not _is_link_local(entry.address)
        )
        self._link_local: dict[int, set[bytes]] = {}
        for entry in table.addresses:
            if _is_link_local(entry.address):
                self._link_local.setdefault(entry.link, set()).add(entry.address)
        # net/ipv4/fib_frontend.c, fib_add_ifaddr: on a loopback the whole prefix is local, and the
        # last address of a prefix is a broadcast, whatever IFA_BROADCAST is.
        self._prefixes = tuple(_network(entry) for entry in v4 if entry.link in loopbacks)
        configured = frozenset(entry.broadcast for entry in table.addresses if entry.broadcast)
        self._broadcasts = configured.union(
            _last_address(entry) for entry in v4 if entry.prefix_length < 31
        )

    def seen_by(self, link: Link | None) -> LocalAddresses:
        """Return what is local as `link` sees it; None stands for all links at once."""
        here = self._link_local if link is None else {link.index, *self._stack.above(link.index)}
        own = [self._link_local[one] for one in here if one in self._link_local]
        return LocalAddresses(
            addresses=self._everywhere.union(*own) if own else self._everywhere,
            prefixes=self._prefixes,
            broadcasts=self._broadcasts,
            loopback=link is not None and link.loopback,
        )


def _network(entry: Address) -> tuple[int, int]:
    mask = 0xFFFFFFFF << (32 - entry.prefix_length) & 0xFFFFFFFF
    return int.from_bytes(entry.address, "big") & mask, mask


def _last_address(entry: Address) -> bytes:
    network, mask = _network(entry)
    return (network | ~mask & 0xFFFFFFFF).to_bytes(4, "big")


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
