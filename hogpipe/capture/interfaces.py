"""PURE: which links to capture on, and how links stand upon one another."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from hogpipe.capture.netlink import Link

ANY = "any"
"""libpcap's name for all interfaces at once."""
AUTO = "auto"

# ARPHRD of links that carry no IP: CAN, the 802.11 monitors, netlink, vsock monitor.
_NOT_IP = frozenset({280, 801, 802, 803, 804, 805, 824, 826})


def _stacking(links: Iterable[Link]) -> set[tuple[int, int]]:
    """Return the pairs (lower, upper) of links that stand directly upon one another."""
    ports = {(link.index, link.master) for link in links if link.master is not None}
    return ports | {(link.lower, link.index) for link in links if link.lower is not None}


def _reach(pairs: Iterable[tuple[int, int]], start: int) -> set[int]:
    """Return all that can be reached from `start` along `pairs`, itself left out."""
    reached = {start}
    frontier = {start}
    while frontier:
        frontier = {to for origin, to in pairs if origin in frontier} - reached
        reached |= frontier
    return reached - {start}


def find_uppers(links: Iterable[Link], index: int) -> set[int]:
    """Return the indices of the links that stand upon the link of `index`, however far up."""
    return _reach(_stacking(links), index)


def find_lowers(links: Iterable[Link], index: int) -> set[int]:
    """Return the indices of the links that the link of `index` stands upon, however far down."""
    return _reach({(upper, lower) for lower, upper in _stacking(links)}, index)


def _select_auto(links: Sequence[Link]) -> list[Link]:
    """Return the links that are up and that no other captured one stands under."""
    candidates = [
        link for link in links if link.up and not link.loopback and link.hardware not in _NOT_IP
    ]
    indices = {link.index for link in candidates}
    return [link for link in candidates if not find_lowers(links, link.index) & indices]


def select_links(patterns: Iterable[str], links: Sequence[Link]) -> list[Link]:
    """Return the links that `patterns` (names, globs, "auto") mean, each once, in index order.

    A link that is down is left out: it is selected when it comes up.
    """
    chosen: dict[int, Link] = {}
    for pattern in patterns:
        if pattern == AUTO:
            found = _select_auto(links)
        else:
            found = [link for link in links if link.up and fnmatchcase(link.name, pattern)]
        chosen.update((link.index, link) for link in found)
    return [chosen[index] for index in sorted(chosen)]


def find_unknown(patterns: Iterable[str], links: Sequence[Link]) -> list[str]:
    """Return the patterns that no link has the name of, up or down."""
    names = [link.name for link in links]
    return [
        pattern
        for pattern in patterns
        if pattern not in {AUTO, ANY} and not any(fnmatchcase(name, pattern) for name in names)
    ]
