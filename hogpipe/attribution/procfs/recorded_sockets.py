"""Flows matched to the sockets of recorded socket tables, in columns.

In: the socket tables of a recorded /proc, which never change, and flows as words. Out: for each
flow the number of a class, of which all flows match the same sockets, and one flow of each class
with its match by the rules of `matching`. Reading raises OSError.

Algorithm
    1. A flow matches no socket if no row has its five-tuple, and no row without a remote endpoint
       has its protocol and local port. Rows of the raw tables have a protocol in the place of the
       port, those of the icmp tables an identifier. Most flows of most files end here.
    2. What the match of another flow depends on is its class: the row with its five-tuple, or else
       protocol, address family and local port, the local address as far as a row has it, and
       whether that is the address of a group. Of raw and ping sockets also the remote address, as
       far as a row has it. So the number of classes follows from the tables and not from the flows.
    3. The first flow of a class is matched by `TableIndex`. Address, state or inode of a row may
       not fit then: a class may have no socket, too.

Known limits: flows of other network namespaces have no class.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hogpipe.attribution.procfs.matching import (
    Match,
    TableIndex,
    has_ports,
    protocol_of,
)
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys
from hogpipe.flows.packet_rows import Integers
from hogpipe.flows.row_order import find_heads
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow, parse_table
from hogpipe.model import OWN_NAMESPACE, FlowKey, unmap
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

NO_SOCKET = 0
"""The class of flows that match no socket."""

_TABLES = [f"{name}{version}" for name in ("tcp", "udp", "udplite", "raw", "icmp")
           for version in ("", "6")]  # fmt: skip
# What rows there are with a protocol and local port; of raw and ping sockets by address family.
_UNCONNECTED, _CONNECTED, _AT_ADDRESS, _NUMBERED4, _NUMBERED6 = (1 << bit for bit in range(5))
_NUMBERED = _NUMBERED4 | _NUMBERED6
_OTHER_FAMILY = np.array([_NUMBERED6, _NUMBERED4], np.uint8)
_PORT_BITS, _FAMILY_SHIFT, _GROUP_SHIFT, _PLACE_SHIFT = 16, 24, 25, 32
_MAX_CLASSES = 1 << 31
_NEVER_RAW = frozenset({TCP, UDP, UDPLITE, SCTP})
"""Protocols of which no packet is matched to a raw socket."""
_LOCAL_ADDRESS = 4  # the place of its first four bytes in the words of a flow


def read_tables(procfs: Procfs, counts: ReadCounts) -> dict[str, list[SocketRow]]:
    """Return all rows of all tables, and count the reads. Raises OSError."""
    tables: dict[str, list[SocketRow]] = {}
    for name in _TABLES:
        text = procfs.read_table(name, math.inf)
        if text is not None:
            tables[name], skipped = parse_table(text.data)
            counts.procfs += 1
            counts.rows_skipped += skipped
    return tables


class RecordedSockets:
    """The sockets of recorded tables, by the name of the table."""

    def __init__(self, tables: Mapping[str, Sequence[SocketRow]]) -> None:
        self._table_index = TableIndex(tables)
        self._flags = np.zeros(1 << _FAMILY_SHIFT, np.uint8)
        """By protocol and local port."""
        connected: list[FlowKey] = []
        ends: set[tuple[bytes, int]] = set()
        remotes: set[tuple[bytes, int]] = set()
        for name, rows in tables.items():
            if has_ports(name):
                self._add_ports(protocol_of(name), rows, connected, ends)
            else:
                self._add_numbers(name, rows)
                ends |= {(row.local_address, _family(row.local_address)) for row in rows}
                remotes |= {(row.remote_address, _family(row.remote_address)) for row in rows}
        words = FlowPacker().pack(connected)
        self._connected = KeyIndex(WORDS, max(1, len(words)))
        if len(words):
            self._connected.add(words.take(find_heads(words), axis=0))
        self._ends, self._remotes = _index_ends(ends), _index_ends(remotes)
        self._classes = KeyIndex(2, _MAX_CLASSES)
        """The slot of a class is its number less one."""

    def find(self, words: Keys, packer: FlowPacker) -> tuple[Integers, dict[FlowKey, Match]]:
        """Return the class of each flow, as FLOW_WORDS of `packer`, ABSENT for one without.

        The second result has a flow of each class that had none before, in the order of their
        numbers, and its match.
        """
        parts = words.view(FLOW_WORDS)[:, 0]
        numbers = parts["protocol"].astype(np.int64) << _PORT_BITS | parts["local_port"]
        families = (parts["address_size"] != 4).astype(np.int64)
        flags = self._flags.take(numbers) & ~_OTHER_FAMILY.take(families)
        is_own = parts["namespace"] == packer.namespaces.number(OWN_NAMESPACE)
        found = np.where(is_own, np.int64(NO_SOCKET), ABSENT)
        rows = np.flatnonzero(is_own & (flags & ~np.uint8(_AT_ADDRESS) != 0))
        begun: dict[FlowKey, Match] = {}
        if len(rows):
            own = words.take(rows, axis=0)
            keys = self._make_keys(own, numbers[rows], families[rows], flags[rows])
            classes = self._classes.find(keys)
            missing = np.flatnonzero(classes == ABSENT)
            if len(missing):
                heads = missing[find_heads(keys[missing])]
                self._classes.add(keys.take(heads, axis=0))
                classes = self._classes.find(keys)
                flows = [packer.unpack(words[row]) for row in rows[heads].tolist()]
                begun = {flow: self._table_index.match(flow) for flow in flows}
            found[rows] = classes + 1
        return found, begun

    def _make_keys(
        self, words: Keys, numbers: Integers, families: Integers, flags: NDArray[np.uint8]
    ) -> Keys:
        """Return the key of each flow's class: what its match depends on."""
        keys = np.zeros((len(words), 2), np.int64)
        numbers |= families << _FAMILY_SHIFT
        keys[:, 0] = numbers | _are_groups(words, families) << _GROUP_SHIFT
        if len(rows := np.flatnonzero(flags & _AT_ADDRESS)):
            # Sockets without ports are found by their address alone.
            is_numbered = flags[rows] & _NUMBERED != 0
            ends = np.where(is_numbered, families[rows] << _FAMILY_SHIFT, numbers[rows])
            places = self._ends.find(_pack_ends(words.take(rows, axis=0)[:, 2:4], ends))
            # The place says whether the address is that of a group.
            known = numbers[rows] | (places + np.int64(1)) << _PLACE_SHIFT
            keys[rows, 0] = np.where(places == ABSENT, keys[rows, 0], known)
        if len(rows := np.flatnonzero(flags & _CONNECTED)):
            five_tuples = words.take(rows, axis=0)
            parts = five_tuples.view(FLOW_WORDS)[:, 0]
            parts["interface"] = parts["namespace"] = 0  # as in the words of `connected`
            keys[rows, 1] = self._connected.find(five_tuples) + 1
        if len(rows := np.flatnonzero(flags & _NUMBERED)):
            remotes = _pack_ends(words.take(rows, axis=0)[:, 4:6], families[rows] << _FAMILY_SHIFT)
            keys[rows, 1] = self._remotes.find(remotes) + 1
        return keys.view(np.uint64)

    def _add_ports(
        self,
        protocol: int,
        rows: Sequence[SocketRow],
        connected: list[FlowKey],
        ends: set[tuple[bytes, int]],
    ) -> None:
        """Add rows with ports: to `connected` as flows, or to `ends` by their local ends."""
        for row in rows:
            local, number = unmap(row.local_address), protocol << _PORT_BITS | row.local_port
            if row.remote_port or any(row.remote_address):
                remote, ports = unmap(row.remote_address), (row.local_port, row.remote_port)
                connected.append(
                    FlowKey(protocol, local, ports[0], remote, ports[1], "", OWN_NAMESPACE)
                )
                self._flags[number] |= _CONNECTED
                continue
            self._flags[number] |= _UNCONNECTED
            if any(local):
                self._flags[number] |= _AT_ADDRESS
                ends.add((local, number | _family(local)))

    def _add_numbers(self, name: str, rows: Sequence[SocketRow]) -> None:
        """Add rows of raw sockets, by protocol, or of ping sockets, by identifier."""
        flags = np.uint8(_AT_ADDRESS | (_NUMBERED6 if name.endswith("6") else _NUMBERED4))
        for number in {row.local_port for row in rows}:
            if name.startswith("icmp"):
                self._flags[[protocol << _PORT_BITS | number for protocol in (ICMP, ICMPV6)]] |= (
                    flags
                )
            elif number < 256 and number not in _NEVER_RAW:
                self._flags[number << _PORT_BITS : (number + 1) << _PORT_BITS] |= flags


def _family(address: bytes) -> int:
    return int(len(address) != 4) << _FAMILY_SHIFT


def _pack_ends(addresses: Keys, numbers: Integers) -> Keys:
    """Return keys of addresses, two words each, with a number."""
    return np.concatenate([addresses, numbers.astype(np.uint64)[:, None]], axis=1)


def _index_ends(ends: Collection[tuple[bytes, int]]) -> KeyIndex:
    index = KeyIndex(3, max(1, len(ends)))
    if ends:
        addresses, numbers = zip(*ends, strict=True)
        padded = b"".join(address.ljust(16, b"\0") for address in addresses)
        words = np.frombuffer(padded, np.uint64).reshape(-1, 2)
        index.add(_pack_ends(words, np.array(numbers)))
    return index


def _are_groups(words: Keys, families: Integers) -> Integers:
    """Return 1 for each local address of a group, as `matching` sees them, else 0."""
    start = words.view(">u4")[:, _LOCAL_ADDRESS]
    is_group4 = (start >> 28 == 0xE) | (start == 0xFFFFFFFF)
    is_group: Integers = np.where(families == 0, is_group4, start >> 24 == 0xFF).astype(np.int64)
    return is_group
