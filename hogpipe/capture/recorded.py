"""The local addresses that a /proc tells, for replays: of this host, or of the one recorded with.

A recorded tree needs net/fib_trie and net/if_inet6 (net/ipv4/fib_trie.c, net/ipv6/addrconf.c).
"""

import socket
from pathlib import Path

from hogpipe.capture.addresses import LocalAddresses


def read_local_addresses(procfs: Path) -> LocalAddresses:
    """Return the addresses of the host whose /proc is at `procfs`; none where it tells none."""
    return parse_local_addresses(_read(procfs / "net/fib_trie"), _read(procfs / "net/if_inet6"))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""  # a host without IPv6 has no if_inet6, a partial recording may lack either


def parse_local_addresses(fib_trie: str, if_inet6: str) -> LocalAddresses:
    """Return what the texts of the two files say; rows that make no sense are passed over."""
    addresses = set()
    prefixes: dict[tuple[int, int], None] = {}
    broadcasts = set()
    leaf = b""
    for line in fib_trie.splitlines():
        match line.split():
            case ["|--", text]:
                leaf = _parse_v4(text)
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
    return LocalAddresses(frozenset(addresses), tuple(prefixes), frozenset(broadcasts))


def _parse_v4(text: str) -> bytes:
    try:
        return socket.inet_aton(text)
    except OSError:
        return b""


def _parse_mask(text: str) -> int:
    """Return the mask of "/N"; 0 where it is none."""
    length = text.removeprefix("/")
    if not length.isdecimal() or not 1 <= int(length) <= 32:
        return 0
    return 0xFFFFFFFF << (32 - int(length)) & 0xFFFFFFFF
