"""PURE: which network namespaces the frames of a link come from and go to.

A veth has one end here and the other in a namespace; a bridge faces what its ports face, a link
that was made upon another what that one faces. A veth with both ends here leads on to the ports of
the bridge that its other end is a port of. A macvlan or ipvlan that was moved away does not show
here any more: the link it was made upon faces nothing.

Namespaces are told by the id that the kernel gives them as seen from ours (ip-netns(8), "nsid").
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from hogpipe.linux.rtnetlink import VETH_KINDS, Link


class LinkTopology:
    """What is on the other side of each of `links`, which are all of a network namespace."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = {link.index: link for link in links}
        self._ports: dict[int, list[int]] = {}
        for link in self._links.values():
            if link.master is not None:
                self._ports.setdefault(link.master, []).append(link.index)

    def faced_by(self, index: int, elsewhere: AbstractSet[int] = frozenset()) -> frozenset[int]:
        """Return the ids of the namespaces that the link of `index` faces.

        Those behind the links `elsewhere`, if that is another one, are left out.
        """
        met: set[int] = set()
        frontier = {index}
        while frontier:
            met |= frontier
            beyond = {next_one for one in frontier for next_one in self._beyond(one)}
            frontier = beyond - met - elsewhere
        links = [self._links[one] for one in met if one in self._links]
        return frozenset(
            link.peer_netns
            for link in links
            # Below 0 is what has no id: the kernel could not give it one.
            if link.kind in VETH_KINDS and link.peer_netns is not None and link.peer_netns >= 0
        )

    def _beyond(self, index: int) -> list[int]:
        """Return the links through which the frames of this one pass next, away from here."""
        link = self._links.get(index)
        if link is None:
            return []
        peer = None if link.peer is None else self._links.get(link.peer)
        if peer is not None:
            others = [] if peer.master is None else self._ports.get(peer.master, [])
            return [port for port in others if port != peer.index]
        return self._ports.get(index, []) + ([] if link.lower is None else [link.lower])
