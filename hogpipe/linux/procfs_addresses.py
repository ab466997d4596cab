"""The local addresses of a network namespace, from procfs: for replays and for containers.

Addresses come from net/fib_trie and net/if_inet6 (net/ipv4/fib_trie.c, net/ipv6/addrconf.c). A
recorded tree must hold both files; /proc/PID/net shows those of the process's network namespace.
"""

import socket
from pathlib import Path

import msgspec

from hogpipe.linux.limits import SHORTAGES


class ProcfsAddresses(msgspec.Struct, frozen=True):
    """The addresses at which a network namespace receives packets, in network byte order."""

    addresses: frozenset[bytes]
    prefixes: tuple[tuple[int, int], ...]
    """IPv4 networks of which every address is local (127.0.0.0/8): (network, mask)."""
    broadcasts: frozenset[bytes]


def read_local_addresses(procfs: Path, pid: int | None = None) -> ProcfsAddresses:
    """Return the local addresses of the namespace of `procfs/net`, or of a process's namespace.

    A missing file contributes no addresses. Raises OSError if descriptors or memory are exhausted.
    """
    net = procfs / "net" if pid is None else procfs / str(pid) / "net"
    return parse_local_addresses(_read(net / "fib_trie"), _read(net / "if_inet6"))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        if error.errno in SHORTAGES:
            raise  # without addresses every packet would count as not local
        # A host without IPv6 has no if_inet6, a recording may lack either, a process may have
        # exited.
        return ""


def parse_local_addresses(fib_trie: str, if_inet6: str) -> ProcfsAddresses:
    """Return the addresses in the texts of the two files; malformed rows are skipped."""
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
    """Return the mask of "/N" for 1 <= N < 32; 0 for anything else."""
    length = text.removeprefix("/")
    if not length.isdecimal() or not 1 <= int(length) < 32:
        return 0
    return 0xFFFFFFFF << (32 - int(length)) & 0xFFFFFFFF
