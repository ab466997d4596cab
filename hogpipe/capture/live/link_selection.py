"""PURE: which links to capture on.

In: the patterns of `capture.interfaces` and the links of the namespace. Out: a `Selection` for each
link to capture on, and which links' addresses do not count there.

"auto" selects the links that the host's own IP packets pass, each packet on exactly one of them:

- A bridge, bond or team in place of its ports: it gets all frames of its ports, while each port of
  a bridge sees the broadcasts that the bridge floods.
- A link in place of the VLANs, macvlans and ipvlans upon it, whose packets pass it as well.
- One end of a veth whose ends are both in this namespace, unless a bridge already has it.
- Both a tunnel and its carrier: the packets inside have owners, and the packets around them are
  others, transmitted by the kernel or by the tunnel's program.
- A container port (the port of a bridge that is a veth to another namespace), for the container's
  packets only: the bridge does not see what passes between its ports.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from hogpipe.capture.live.link_topology import (
    LinkGraph,
    find_ports,
    find_stacked,
    find_veth_pairs,
    is_container_veth,
)
from hogpipe.linux.rtnetlink import Link

ANY = "any"
"""libpcap's name for all interfaces at once."""
AUTO = "auto"

# ARPHRD of links that carry no IP: CAN, the 802.11 monitors, netlink, vsock monitor.
_NOT_IP = frozenset({280, 801, 802, 803, 804, 805, 824, 826})
_PPP = 512  # ARPHRD_PPP
# Links that show packets of other links once more: drivers/net/vrf.c, drivers/net/ifb.c.
_ECHOES = frozenset({"vrf", "ifb"})


class Selection(NamedTuple):
    """A link to capture on."""

    link: Link
    counted_elsewhere: frozenset[int] = frozenset()
    """Links whose packets are counted on other interfaces: neither their addresses nor those of
    the containers behind them are local here. If `link` itself is among them, only the container
    that `link` leads to is local."""

    @property
    def is_container_port(self) -> bool:
        """Whether only the container's packets count on this link, and none of the host's."""
        return self.link.index in self.counted_elsewhere


def select_links(patterns: Iterable[str], links: Sequence[Link]) -> list[Selection]:
    """Return the links that `patterns` (names, globs, "auto") select, each once, in index order.

    A link that is down is left out until it comes up. A link that is selected by name counts all
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


def choose_transmitting(links: Sequence[Link]) -> list[Link]:
    """Return the links of which each packet that this host transmits passes exactly one.

    What a process sends on a port of a bridge, or on the other end of a veth that has both ends
    here, passes none of them.
    """
    chosen = [one.link for one in _select_auto(links) if not one.is_container_port]
    return chosen + [link for link in links if link.loopback]


def selects_new_links(patterns: Iterable[str]) -> bool:
    """Return whether links that do not exist yet may be selected later, by "auto" or a glob."""
    return any(pattern == AUTO or set(pattern) & set("*?[") for pattern in patterns)


def find_unmatched(patterns: Iterable[str], links: Sequence[Link]) -> list[str]:
    """Return the patterns that match the name of no link, up or down."""
    names = [link.name for link in links]
    return [
        pattern
        for pattern in patterns
        if pattern not in {AUTO, ANY} and not any(fnmatchcase(name, pattern) for name in names)
    ]


def _select_auto(links: Sequence[Link]) -> list[Selection]:
    """Return the selection of "auto"; see the module's docstring."""
    usable = [
        link
        for link in links
        if link.up
        and not link.loopback
        and link.hardware not in _NOT_IP
        and link.kind not in _ECHOES
    ]
    ports = find_ports(links)
    free = {link.index for link in usable} - ports
    upwards = find_stacked(links) | find_veth_pairs(links)
    downwards = LinkGraph((upper, lower) for lower, upper in upwards)
    chosen = [
        link for link in usable if link.index in free and not downwards.reachable(link.index) & free
    ]
    container_ports = [link for link in usable if link.index in ports and is_container_veth(link)]
    # A PPPoE session is decoded on the Ethernet link below, which rtnetlink does not name.
    ppp = [link for link in chosen if link.hardware == _PPP]
    counted_elsewhere = frozenset(link.index for link in [*container_ports, *ppp])
    everywhere = frozenset(link.index for link in links)
    return [
        # Equal sets are one object, so that what follows from a set is worked out once.
        *(Selection(link, _without(counted_elsewhere, link.index)) for link in chosen),
        *(Selection(link, everywhere) for link in container_ports),
    ]


def _without(indices: frozenset[int], index: int) -> frozenset[int]:
    return indices - {index} if index in indices else indices
