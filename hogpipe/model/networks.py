"""PURE: named networks, and which of them an address is in.

In: names with their prefixes, as `[networks]` has them. Out: `Networks`, in which every address of
IPv4 and IPv6 is in exactly one network: that of the longest prefix that the address is in.

The built-in networks are always there, and divide all addresses. A configured prefix is one more:
under a name of its own, or under a built-in one, which it extends. A built-in prefix that is
configured under another name belongs to that name. So `internet = ["100.64.0.0/10"]` takes the
shared address space from `private`.

An IPv4-mapped prefix (`::ffff:10.0.0.0/104`) is one of IPv4, as addresses of flows are.

Known limit: an address is all that counts. Traffic of this host with a public address of its own is
in `internet`, although it never leaves the host.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

import msgspec

MAX_NETWORKS = 100
"""The most names in a configuration; each is a value of a label in Prometheus."""
MAX_PREFIXES = 10_000
"""The most prefixes in a configuration."""
NO_NETWORK = ""
"""Stands for the network of what has no address; its number is 0."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NO_PREFIX = "not an address or a prefix, as 10.0.0.0/8 or 2001:db8::/32"
_MAPPED = IPv6Network("::ffff:0:0/96")
_MAPPED_BITS = 96
_BUILT_IN: Mapping[str, Sequence[str]] = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    # With what a host uses that has no address yet, and the broadcast of its link.
    "link-local": ("169.254.0.0/16", "fe80::/10", "0.0.0.0/8", "255.255.255.255/32", "::/128"),
    # With the shared address space (RFC 6598), which is not routed in the internet either.
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "internet": ("0.0.0.0/0", "::/0"),
}
BUILT_IN_NAMES = tuple(_BUILT_IN)

KeyPath = tuple[str | int, ...]


class Prefix(msgspec.Struct, frozen=True, order=True):
    """A prefix of addresses; in order, the one that contains another comes first."""

    size: int
    """The bytes of an address: 4 or 16."""
    start: int
    """The first address."""
    length: int

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.start + (1 << 8 * self.size - self.length)


class Networks(msgspec.Struct, frozen=True):
    """Names, and the number of the name that each prefix has: its place in `names`."""

    names: tuple[str, ...]
    """The first one is NO_NETWORK."""
    numbers: Mapping[Prefix, int]

    def find(self, address: bytes) -> str:
        """Return the network of an address in network order; NO_NETWORK if it is empty."""
        size, value = len(address), int.from_bytes(address)
        for length in range(8 * size, -1, -1) if address else ():
            unused = 8 * size - length
            number = self.numbers.get(Prefix(size, value >> unused << unused, length))
            if number is not None:
                return self.names[number]
        return NO_NETWORK


def parse_prefix(text: str) -> Prefix:
    """Return the prefix that is written `text`; an address is a prefix of its whole length.

    Raises ValueError with a message for the user.
    """
    if "%" in text:
        raise ValueError(f"{_NO_PREFIX}, and without a zone (%)")
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(_describe_problem(text)) from error
    start, length = int(network.network_address), network.prefixlen
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return Prefix(4, start & 0xFFFF_FFFF, length - _MAPPED_BITS)
    return Prefix(network.max_prefixlen // 8, start, length)


def make_networks(configured: Mapping[str, Sequence[str]]) -> Networks:
    """Return the built-in networks and the configured ones, which have no problems."""
    names = tuple(dict.fromkeys([NO_NETWORK, *_BUILT_IN, *configured]))
    number_of = {name: number for number, name in enumerate(names)}
    numbers = {
        parse_prefix(text): number_of[name]
        for networks in (_BUILT_IN, configured)
        for name, texts in networks.items()
        for text in texts
    }
    return Networks(names, numbers)


def find_network_problems(
    configured: Mapping[str, Sequence[str]],
) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong with configured networks, each with its key path below `networks`."""
    if len(configured) > MAX_NETWORKS:
        yield (), f"at most {MAX_NETWORKS} names, not {len(configured)}"
    if sum(map(len, configured.values())) > MAX_PREFIXES:
        yield (), f"at most {MAX_PREFIXES} prefixes"
        return
    first: dict[Prefix, tuple[str, int]] = {}
    for name, texts in configured.items():
        if not _NAME.fullmatch(name):
            yield (
                (name,),
                "a name is a letter or digit, then up to 62 of these, '.', '_' and '-'",
            )
        for index, text in enumerate(texts):
            at = (name, index)
            try:
                prefix = parse_prefix(text)
            except ValueError as error:
                yield at, str(error)
                continue
            if known := first.get(prefix):
                yield at, f"the prefix is already that of {known[0]}[{known[1]}]"
            first.setdefault(prefix, at)


def _describe_problem(text: str) -> str:
    try:
        interface = ip_interface(text)
    except ValueError:
        return _NO_PREFIX
    network: IPv4Network | IPv6Network = interface.network
    return f"{text} is an address within {network}: write {network}, or {interface.ip} alone"


BUILT_IN_NETWORKS = make_networks({})
