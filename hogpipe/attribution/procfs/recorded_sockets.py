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
    unmap,
)
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.flows.row_order import find_heads
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow, parse_table
from hogpipe.model import OWN_NAMESPACE, FlowKey
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

NO_SOCKET = 0
"""The class of flows that match no socket."""

_TABLES = [f"{name}{version}" for name in ("tcp", "udp", "udplite", "raw", "icmp")
           for version in ("", "6")]  # fmt: skip
_BY_PORT = np.isin(np.arange(256), [TCP, UDP, UDPLITE])
_BY_IDENTIFIER = np.isin(np.arange(256), [ICMP, ICMPV6])
_HAS_NUMBER = _BY_PORT | _BY_IDENTIFIER
_FAMILY_SHIFT, _PROTOCOL_SHIFT, _END_SHIFT = 16, 24, 32
_MAX_CLASSES = 1 << 31
_LOCAL_ADDRESS = 16  # the place of its first byte in the words of a flow


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
        self._is_bound = np.zeros((256, 1 << 16), np.bool_)
        """By protocol and port: whether a socket without a remote endpoint is there."""
        self._has_raw = np.zeros((2, 256), np.bool_)
        """By address family, the one of IPv6 last, and protocol."""
        self._has_identifier = np.zeros((2, 1 << 16), np.bool_)
        self._connected_rows: list[FlowKey] = []
        self._ends: set[tuple[bytes, int]] = set()
        """Addresses of rows, each with what `_number_ends` makes of protocol and port."""
        self._remotes: set[tuple[bytes, int]] = set()
        for name, rows in tables.items():
            if has_ports(name):
                self._add_ports(protocol_of(name), rows)
            else:
                self._add_numbers(name, rows)
        words = FlowPacker().pack(self._connected_rows)
        self._connected = KeyIndex(WORDS, max(1, len(words)))
        if len(words):
            self._connected.add(words.take(find_heads(words), axis=0))
        self._local_ends, self._remote_ends = _index_ends(self._ends), _index_ends(self._remotes)
        self._classes = KeyIndex(2, _MAX_CLASSES)
        """The slot of a class is its number less one."""

    def find(self, words: Keys, packer: FlowPacker) -> tuple[Integers, dict[FlowKey, Match]]:
        """Return the class of each flow, as FLOW_WORDS of `packer`, ABSENT for one without.

        The second result has a flow of each class that had none before, in the order of their
        numbers, and its match.
        """
        parts = words.copy().view(FLOW_WORDS)[:, 0]
        is_own = parts["namespace"] == packer.namespaces.number(OWN_NAMESPACE)
        parts["interface"] = parts["namespace"] = 0  # as in the words of `_connected`
        connected = self._connected.find(parts.view(np.uint64).reshape(len(words), WORDS))
        found = np.where(is_own, np.int64(NO_SOCKET), ABSENT)
        rows = np.flatnonzero(is_own & self._may_match(parts, connected))
        begun: dict[FlowKey, Match] = {}
        if len(rows):
            keys = self._make_keys(parts[rows], connected[rows])
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

    def _may_match(self, parts: NDArray[np.void], connected: NDArray[np.int32]) -> Flags:
        """Return which flows of this namespace may match a socket."""
        protocols, ports = parts["protocol"], parts["local_port"].astype(np.int64)
        families = (parts["address_size"] != 4).astype(np.int64)
        by_port = self._is_bound[protocols, ports] | (connected != ABSENT)
        by_number = self._has_raw[families, protocols] & (protocols != SCTP)
        by_number |= self._has_identifier[families, ports] & _BY_IDENTIFIER[protocols]
        may_match: Flags = np.where(_BY_PORT[protocols], by_port, by_number)
        return may_match

    def _make_keys(self, parts: NDArray[np.void], connected: NDArray[np.int32]) -> Keys:
        """Return the key of each flow's class: what its match depends on."""
        protocols, words = parts["protocol"], parts.view(np.uint64).reshape(len(parts), WORDS)
        families = (parts["address_size"] != 4).astype(np.int64)
        is_by_port, number = _BY_PORT[protocols], protocols.astype(np.int64) << _PROTOCOL_SHIFT
        ports = parts["local_port"].astype(np.int64)
        number |= families << _FAMILY_SHIFT | np.where(_HAS_NUMBER[protocols], ports, 0)
        ends = np.where(is_by_port, number, families << _FAMILY_SHIFT)
        local = self._local_ends.find(_pack_ends(words[:, 2:4], ends)) + np.int64(2)
        is_group = _are_groups(words, families)
        local = np.where(local == ABSENT + 2, is_group.astype(np.int64), local)
        remotes = _pack_ends(words[:, 4:6], families << _FAMILY_SHIFT)
        remote = np.where(is_by_port, 0, self._remote_ends.find(remotes) + np.int64(1))
        keys = np.empty((len(parts), 2), np.uint64)
        keys[:, 0] = number | local << _END_SHIFT
        keys[:, 1] = connected + np.int64(1) | remote << _END_SHIFT
        return keys

    def _add_ports(self, protocol: int, rows: Sequence[SocketRow]) -> None:
        for row in rows:
            local = unmap(row.local_address)
            if row.remote_port or any(row.remote_address):
                remote, ports = unmap(row.remote_address), (row.local_port, row.remote_port)
                self._connected_rows.append(
                    FlowKey(protocol, local, ports[0], remote, ports[1], "", OWN_NAMESPACE)
                )
            else:
                self._is_bound[protocol, row.local_port] = True
                number = protocol << _PROTOCOL_SHIFT | row.local_port
                self._ends.add((local, number | _family(local)))

    def _add_numbers(self, name: str, rows: Sequence[SocketRow]) -> None:
        numbers = [row.local_port for row in rows]
        if name.startswith("icmp"):
            self._has_identifier[int(name == "icmp6"), numbers] = True
        else:
            protocols = [number for number in numbers if number < 256]
            self._has_raw[int(name == "raw6"), protocols] = True
        for row in rows:
            self._ends.add((row.local_address, _family(row.local_address)))
            self._remotes.add((row.remote_address, _family(row.remote_address)))


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


def _are_groups(words: Keys, families: Integers) -> Flags:
    """Return which local addresses are those of groups, as `matching` sees them."""
    octets = words.view(np.uint8).reshape(len(words), -1)[:, _LOCAL_ADDRESS : _LOCAL_ADDRESS + 4]
    first = octets[:, 0]
    is_group4 = (first & 0xF0 == 0xE0) | (octets == 0xFF).all(axis=1)
    are_groups: Flags = np.where(families == 0, is_group4, first == 0xFF)
    return are_groups
