"""The local addresses that a /proc tells: for replays, and of guests.

A recorded tree needs net/fib_trie and net/if_inet6 (net/ipv4/fib_trie.c, net/ipv6/addrconf.c); a
process shows those of its network namespace.
"""

import socket
from pathlib import Path

import msgspec

from hogpipe.linux.limits import SHORTAGES


class ProcfsAddresses(msgspec.Struct, frozen=True):
    """The addresses that a network namespace receives packets at, in network order."""

    addresses: frozenset[bytes]
    prefixes: tuple[tuple[int, int], ...]
    """IPv4 networks that are local as a whole (127.0.0.0/8): (network, mask)."""
    broadcasts: frozenset[bytes]


def read_local_addresses(root: Path) -> ProcfsAddresses:
    """Return the addresses that a /proc, or a process in it, tells in its `net`; or none.

    Raises OSError if there are no descriptors or no memory to read them now.
    """
    return parse_local_addresses(_read(root / "net/fib_trie"), _read(root / "net/if_inet6"))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        if error.errno in SHORTAGES:
            raise  # else all would be foreign
        # A host without IPv6 has no if_inet6, a recording may lack either, a process may be gone.
        return ""


def parse_local_addresses(fib_trie: str, if_inet6: str) -> ProcfsAddresses:
    """Return what the texts of the two files say; rows that make no sense are passed over."""
    addresses = set()
    prefixes: dict[tuple[int, int], None] = {}
    broadcasts = set()
    leaf = b""
    for line in fib_trie.splitlines():
        match line.split():
            case ["|--", text]:
                leaf = _parse_v4(text)
            case ["/32", _scope, "LOCAL"] if leaf:
                addresses.add(leaf)
            case [length, _scope, "LOCAL"] if leaf and (mask := _parse_mask(length)):
                prefixes[int.from_bytes(leaf, "big") & mask, mask] = None
            case [_length, _scope, "BROADCAST"] if leaf:
                broadcasts.add(leaf)
    for line in if_inet6.splitlines():
        text, *_ = line.split() or [""]
        try:
            address = bytes.fromhex(text)
        except ValueError:
            continue
        if len(address) == 16:
            addresses.add(address)
    return ProcfsAddresses(frozenset(addresses), tuple(prefixes), frozenset(broadcasts))


def _parse_v4(text: str) -> bytes:
    try:
        return socket.inet_aton(text)
    except OSError:
        return b""


def _parse_mask(text: str) -> int:
    """Return the mask of "/N" that leaves more than one address; 0 where it is none."""
    length = text.removeprefix("/")
    if not length.isdecimal() or not 1 <= int(length) < 32:
        return 0
    return 0xFFFFFFFF << (32 - int(length)) & 0xFFFFFFFF
