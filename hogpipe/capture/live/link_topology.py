"""PURE: how the links of a network namespace stand to one another, and where they lead.

In: the `Link`s of one rtnetlink dump. Out: sets of link indices and of nsids.

Stacking
    Two links are stacked where each packet of the upper one passes the lower one, too: a bridge or
    bond upon its ports, a VLAN, macvlan or ipvlan upon its link, the ends of a veth pair upon each
    other. Tunnels are not: what passes their carrier is another packet.

Containers
    A veth (or netkit) has one end here and its peer in a container's namespace. A bridge leads
    where its ports lead, a VLAN where its lower link leads. A veth with both ends here leads on to
    the other ports of the bridge that has its peer. A macvlan or ipvlan that was moved into a
    container is not visible from here, so its lower link leads to no container.
    A namespace is given by its nsid (ip-netns(8)).
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from hogpipe.linux.rtnetlink import VETH_KINDS, Link

# Links whose IP packets pass the link that they were made upon. All others wrap them in another
# packet, or in something that is not IP there (macsec, dsa).
_TRANSPARENT = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"})
# Its ports have the datapath as master, which is down; the host's packets pass its internal ports.
_OPENVSWITCH = "openvswitch"

LinkPairs = set[tuple[int, int]]


def is_container_veth(link: Link) -> bool:
    """Return whether `link` is one end of a veth whose peer is in another network namespace."""
    return link.kind in VETH_KINDS and link.peer_netns is not None


def find_ports(links: Iterable[Link]) -> set[int]:
    """Return the links whose frames all go to a master that is up."""
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


def find_stacked(links: Iterable[Link]) -> LinkPairs:
    """Return the pairs (lower, upper) of links that are directly stacked, veth pairs aside."""
    ports = {(link.index, link.master) for link in links if link.master is not None}
    return ports | {
        (link.lower, link.index)
        for link in links
        if link.lower is not None and link.kind in _TRANSPARENT
    }


def find_veth_pairs(links: Iterable[Link]) -> LinkPairs:
    """Return the ends of each veth, the older first, if neither end is a port."""
    ports = find_ports(links)
    free = {link.index: link for link in links if link.index not in ports}
    return {
        (link.peer, link.index)
        for link in free.values()
        if link.peer in free and link.peer < link.index
    }


class LinkGraph:
    """A directed graph of links, made of pairs (from, to)."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self._next: dict[int, set[int]] = {}
        for origin, to in pairs:
            self._next.setdefault(origin, set()).add(to)

    def reachable(self, start: int) -> set[int]:
        """Return all links that can be reached from `start`, without `start` itself."""
        reached = {start}
        frontier = {start}
        while frontier:
            frontier = {to for one in frontier for to in self._next.get(one, ())} - reached
            reached |= frontier
        return reached - {start}


class LinkStack:
    """Which of `links`, all of a network namespace, are stacked upon which others."""

    def __init__(self, links: Iterable[Link]) -> None:
        pairs = find_veth_pairs(links)
        both_ways = pairs | {(other, one) for one, other in pairs}
        self._upwards = LinkGraph(find_stacked(links) | both_ways)

    def above(self, index: int) -> set[int]:
        """Return the links whose packets pass the link of `index`, however far up."""
        return self._upwards.reachable(index)


class LinkTopology:
    """Where each of `links`, all of a network namespace, leads."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = {link.index: link for link in links}
        self._ports: dict[int, list[int]] = {}
        for link in self._links.values():
            if link.master is not None:
                self._ports.setdefault(link.master, []).append(link.index)

    def leads_to(self, index: int, without: AbstractSet[int] = frozenset()) -> frozenset[int]:
        """Return the nsids of the namespaces that the link of `index` leads to.

        Paths through the other links in `without` do not count.
        """
        visited: set[int] = set()
        frontier = {index}
        while frontier:
            visited |= frontier
            beyond = {next_one for one in frontier for next_one in self._beyond(one)}
            frontier = beyond - visited - without
        links = [self._links[one] for one in visited if one in self._links]
        return frozenset(
            link.peer_netns
            for link in links
            # Below 0: the kernel could not assign an nsid.
            if link.kind in VETH_KINDS and link.peer_netns is not None and link.peer_netns >= 0
        )

    def _beyond(self, index: int) -> list[int]:
        """Return the links that frames of the link of `index` pass next, away from this host."""
        link = self._links.get(index)
        if link is None:
            return []
        peer = None if link.peer is None else self._links.get(link.peer)
        if peer is not None:
            others = [] if peer.master is None else self._ports.get(peer.master, [])
            return [port for port in others if port != peer.index]
        return self._ports.get(index, []) + ([] if link.lower is None else [link.lower])
