"""Flows that surely have no socket in recorded socket tables, in columns.

In: the socket tables of a recorded /proc, which never change, and flows as words. Out: which of the
flows no socket matches by the rules of `matching`. Reading raises OSError.

Algorithm
    A flow is ruled out if no row has its five-tuple, and no row without a remote endpoint has its
    protocol and local port. That address, state and inode of such a row may not fit either is left
    to the lookup of the flow: few flows are concerned. Rows of the raw tables have a protocol in
    the place of the port, those of the icmp tables an identifier.

Known limits: flows of other network namespaces are never ruled out.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hogpipe.attribution.procfs.matching import has_ports, protocol_of, unmap
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys
from hogpipe.flows.packet_rows import Flags
from hogpipe.flows.row_order import find_heads
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow, parse_table
from hogpipe.model import OWN_NAMESPACE, FlowKey
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

_TABLES = [f"{name}{version}" for name in ("tcp", "udp", "udplite", "raw", "icmp")
           for version in ("", "6")]  # fmt: skip
_BY_PORT = np.isin(np.arange(256), [TCP, UDP, UDPLITE])
_BY_IDENTIFIER = np.isin(np.arange(256), [ICMP, ICMPV6])


def read_tables(procfs: Procfs, counts: ReadCounts) -> dict[str, list[SocketRow]]:
    """Return all rows of all tables, and count the reads. Raises OSError."""
    tables: dict[str, list[SocketRow]] = {}
    for name in _TABLES:
        text = procfs.read_table(name, math.inf)
        if text is not None:
            tables[name], skipped = parse_table(text.data, keeps_repeated=True)
            counts.procfs += 1
            counts.rows_skipped += skipped
    return tables


class RecordedSockets:
    """The sockets of recorded tables, by the name of the table."""

    def __init__(self, tables: Mapping[str, Sequence[SocketRow]]) -> None:
        self._is_bound = np.zeros((256, 1 << 16), np.bool_)
        """By protocol and port: whether a socket without a remote endpoint is there."""
        self._has_raw = np.zeros((2, 256), np.bool_)
        """By address family, the one of IPv6 last, and protocol."""
        self._has_identifier = np.zeros((2, 1 << 16), np.bool_)
        connected: list[FlowKey] = []
        for name, rows in tables.items():
            if has_ports(name):
                self._add_ports(protocol_of(name), rows, connected)
                continue
            numbers = [row.local_port for row in rows]
            if name.startswith("icmp"):
                self._has_identifier[int(name == "icmp6"), numbers] = True
            else:
                protocols = [number for number in numbers if number < 256]
                self._has_raw[int(name == "raw6"), protocols] = True
        self._connected = KeyIndex(WORDS, max(1, len(connected)))
        if connected:
            words = FlowPacker().pack(connected)
            self._connected.add(words.take(find_heads(words), axis=0))

    def rule_out(self, words: Keys, packer: FlowPacker) -> Flags:
        """Return which flows, as FLOW_WORDS of `packer`, surely have no socket."""
        parts = words.copy().view(FLOW_WORDS)[:, 0]
        is_own = parts["namespace"] == packer.namespaces.number(OWN_NAMESPACE)
        parts["interface"] = parts["namespace"] = 0  # as in the words of `connected`
        protocols, ports = parts["protocol"], parts["local_port"].astype(np.int64)
        family = (parts["address_size"] != 4).astype(np.int64)
        five_tuples = parts.view(np.uint64).reshape(len(words), WORDS)
        by_port = self._is_bound[protocols, ports] | (self._connected.find(five_tuples) != ABSENT)
        by_number = self._has_raw[family, protocols] & (protocols != SCTP)
        by_number |= self._has_identifier[family, ports] & _BY_IDENTIFIER[protocols]
        may_match = np.where(_BY_PORT[protocols], by_port, by_number)
        ruled_out: Flags = is_own & ~may_match
        return ruled_out

    def _add_ports(
        self, protocol: int, rows: Sequence[SocketRow], connected: list[FlowKey]
    ) -> None:
        for row in rows:
            if row.remote_port or any(row.remote_address):
                local, remote = unmap(row.local_address), unmap(row.remote_address)
                ports = row.local_port, row.remote_port
                connected.append(
                    FlowKey(protocol, local, ports[0], remote, ports[1], "", OWN_NAMESPACE)
                )
            else:
                self._is_bound[protocol, row.local_port] = True
