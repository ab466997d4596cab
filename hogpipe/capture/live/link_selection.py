"""PURE: which links to capture on, and how links stand upon one another.

What "auto" takes is the links on which the host's own IP packets come in and go out, each packet on
one of them:

- A bridge, bond or team in place of its ports: these hand it all that they get, while the ports of
  a bridge each see the broadcasts that it floods.
- A link in place of the VLANs, macvlans and ipvlans upon it, whose packets it sees as well.
- One end of a veth whose ends are both in this namespace, unless a bridge already has it.
- A tunnel and what carries it: the packets inside have owners, those around them are others, sent
  by the kernel or by the tunnel's program.
- The port of a bridge that is a door to another namespace, but only for what is inside: the bridge
  does not see what passes between its ports.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from hogpipe.linux.rtnetlink import VETH_KINDS, Link

ANY = "any"
"""libpcap's name for all interfaces at once."""
AUTO = "auto"

# ARPHRD of links that carry no IP: CAN, the 802.11 monitors, netlink, vsock monitor.
_NOT_IP = frozenset({280, 801, 802, 803, 804, 805, 824, 826})
_PPP = 512  # ARPHRD_PPP
# Links that show packets of other links once more: drivers/net/vrf.c, drivers/net/ifb.c.
_ECHOES = frozenset({"vrf", "ifb"})
# Links whose IP packets are seen on the link that they were made upon. All others wrap them in
# something that is not IP there (macsec, dsa), or in another packet.
_TRANSPARENT = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"})
# Its ports have the datapath as master, which is down; the host's packets pass its internal ports.
_OPENVSWITCH = "openvswitch"

_Pairs = set[tuple[int, int]]


class Selection(NamedTuple):
    """A link to capture on."""

    link: Link
    elsewhere: frozenset[int] = frozenset()
    """Links whose addresses do not count here, nor those of the namespaces that they are doors to,
    since their packets are counted there. If `link` is among them, only its namespace counts."""

    @property
    def is_door(self) -> bool:
        """Whether only what is in the other namespace counts here, and nothing of this host."""
        return self.link.index in self.elsewhere


def _find_ports(links: Iterable[Link]) -> set[int]:
    """Return the links that hand all they get to a master that is up."""
    by_index = {link.index: link for link in links}
    ports = set()
    for link in by_index.values():
        master = by_index.get(link.master or 0)
        # A VRF only routes: its ports handle their packets themselves.
        if master is None or master.kind == "vrf":
            continue
        if master.up or master.kind == _OPENVSWITCH:
            ports.add(link.index)
    return ports


def _stacking(links: Iterable[Link]) -> _Pairs:
    """Return the pairs (lower, upper) of links that stand directly upon one another."""
    ports = {(link.index, link.master) for link in links if link.master is not None}
    return ports | {
        (link.lower, link.index)
        for link in links
        if link.lower is not None and link.kind in _TRANSPARENT
    }


def _joined_ends(links: Iterable[Link]) -> _Pairs:
    """Return the ends of each veth, the older first, if no master has either of them."""
    ports = _find_ports(links)
    free = {link.index: link for link in links if link.index not in ports}
    return {
        (link.peer, link.index)
        for link in free.values()
        if link.peer in free and link.peer < link.index
    }


class _Ways:
    """Where links lead to, along pairs (from, to)."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self._next: dict[int, set[int]] = {}
        for origin, to in pairs:
            self._next.setdefault(origin, set()).add(to)

    def reach(self, start: int) -> set[int]:
        """Return all that can be reached from `start`, itself left out."""
        reached = {start}
        frontier = {start}
        while frontier:
            frontier = {to for one in frontier for to in self._next.get(one, ())} - reached
            reached |= frontier
        return reached - {start}


class Uppers:
    """Which links' packets pass which others of `links`, which are all of a network namespace."""

    def __init__(self, links: Iterable[Link]) -> None:
        ends = _joined_ends(links)
        self._ways = _Ways(_stacking(links) | ends | {(other, one) for one, other in ends})

    def of(self, index: int) -> set[int]:
        """Return the links whose packets pass the link of `index`, however far up."""
        return self._ways.reach(index)


def _select_auto(links: Sequence[Link]) -> list[Selection]:
    """Return what the module's docstring says."""
    usable = [
        link
        for link in links
        if link.up
        and not link.loopback
        and link.hardware not in _NOT_IP
        and link.kind not in _ECHOES
    ]
    ports = _find_ports(links)
    free = {link.index for link in usable} - ports
    downwards = _Ways((upper, lower) for lower, upper in _stacking(links) | _joined_ends(links))
    chosen = [
        link for link in usable if link.index in free and not downwards.reach(link.index) & free
    ]
    doors = [link for link in usable if link.index in ports and leads_elsewhere(link)]
    # A PPPoE session is decoded on the Ethernet below, which nothing tells of.
    ppp = [link for link in chosen if link.hardware == _PPP]
    elsewhere = frozenset(link.index for link in [*doors, *ppp])
    everywhere = frozenset(link.index for link in links)
    return [
        # One set for all that it is right for: what follows from it is worked out once.
        *(Selection(link, _without(elsewhere, link.index)) for link in chosen),
        *(Selection(link, everywhere) for link in doors),
    ]


def _without(indices: frozenset[int], index: int) -> frozenset[int]:
    return indices - {index} if index in indices else indices


def leads_elsewhere(link: Link) -> bool:
    """Tell whether it is an end of a veth whose other end is in another namespace."""
    return link.kind in VETH_KINDS and link.peer_netns is not None


def select_links(patterns: Iterable[str], links: Sequence[Link]) -> list[Selection]:
    """Return the links that `patterns` (names, globs, "auto") mean, each once, in index order.

    A link that is down is left out: it is selected when it comes up. One that is named counts all
    that is local, whatever "auto" would count elsewhere.
    """
    chosen: dict[int, Selection] = {}
    patterns = list(patterns)
    if AUTO in patterns:
        chosen.update((found.link.index, found) for found in _select_auto(links))
    for pattern in patterns:
        chosen.update(
            (link.index, Selection(link))
            for link in links
            if pattern != AUTO and link.up and fnmatchcase(link.name, pattern)
        )
    return [chosen[index] for index in sorted(chosen)]


def find_unknown(patterns: Iterable[str], links: Sequence[Link]) -> list[str]:
    """Return the patterns that no link has the name of, up or down."""
    names = [link.name for link in links]
    return [
        pattern
        for pattern in patterns
        if pattern not in {AUTO, ANY} and not any(fnmatchcase(name, pattern) for name in names)
    ]
