"""PURE: matches flows to the sockets that may be theirs, with the quality of the match.

In: flows, and rows of socket tables. Out: for each flow the candidate rows of the most specific
level that has any. The levels follow the kernel's own lookup (inet_lookup_listener,
udp4_lib_lookup), which prefers the more specifically bound socket, and an IPv4 socket among
wildcards. The caller determines whether the candidates have one owner.

Known limits: the tables do not show whether a socket on `::` accepts IPv6 only, which interface a
socket is bound to, and which of several sockets with SO_REUSEPORT the kernel selects.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain

import msgspec

from hogpipe.linux.socket_table import TCP_LISTEN, TCP_UNACCEPTED, SocketRow
from hogpipe.model import FlowKey, Quality, unmap
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

_PORT_TABLES = {TCP: "tcp", UDP: "udp", UDPLITE: "udplite"}
_PROTOCOLS = {name: protocol for protocol, name in _PORT_TABLES.items()}

_ANY4, _ANY6 = bytes(4), bytes(16)

# The wildcard addresses of sockets that accept packets to any address, the most specific first: an
# IPv6 socket accepts IPv4, too.
_WILDCARDS4, _WILDCARDS6 = (_ANY4, _ANY6), (_ANY6,)

_FiveTuple = tuple[int, bytes, int, bytes, int]
_LocalEnd = tuple[int, bytes, int]


class Match(msgspec.Struct, frozen=True):
    """The candidate sockets of a flow; none of them has inode 0."""

    quality: Quality
    rows: tuple[SocketRow, ...] = ()
    awaits_accept: bool = False
    """Whether the flow is a connection that no process has accepted yet; the candidates listen."""


NO_MATCH = Match(Quality.NONE)


def tables_for(flow: FlowKey) -> tuple[str, ...]:
    """Return the names of the tables that may hold a socket of `flow`, the likeliest first."""
    return tables_of(flow.protocol, flow.local_address)


def tables_of(protocol: int, address: bytes) -> tuple[str, ...]:
    """Return the names of the tables with sockets of this protocol and address family.

    Empty for SCTP, whose sockets are in no table of this format.
    """
    version = "" if len(address) == 4 else "6"
    name = _PORT_TABLES.get(protocol)
    if name is not None:
        # A socket of the IPv6 table also accepts IPv4, with addresses as ::ffff:a.b.c.d.
        return (f"{name}6",) if version else (name, f"{name}6")
    if protocol in (ICMP, ICMPV6):
        return f"icmp{version}", f"raw{version}"
    return () if protocol == SCTP else (f"raw{version}",)


def has_endpoint(flow: FlowKey) -> bool:
    """Return whether the flow has a remote port and its protocol a table by ports."""
    return flow.protocol in _PORT_TABLES and flow.remote_port > 0


def protocol_of(table: str) -> int:
    """Return the protocol of a table by ports."""
    return _PROTOCOLS[table.removesuffix("6")]


def port_pairs_for(flow: FlowKey) -> tuple[tuple[int, int], ...]:
    """Return the (local, remote) ports that the row of a socket of `flow` may have."""
    return (flow.local_port, flow.remote_port), (flow.local_port, 0)


def has_ports(table: str) -> bool:
    """Return whether the sockets of `table` are found by pairs of ports."""
    return table.removesuffix("6") in _PORT_TABLES.values()


def is_conclusive(flow: FlowKey, match: Match, incomplete: AbstractSet[str]) -> bool:
    """Return whether a flow has a socket, or none of its tables is `incomplete`."""
    return bool(match.rows) or incomplete.isdisjoint(tables_for(flow))


class TableIndex:
    """An index of the rows of one reading of the tables.

    V4-mapped addresses are indexed as IPv4, so both tables of a protocol form one index.
    """

    def __init__(self, tables: Mapping[str, Sequence[SocketRow]]) -> None:
        self._rows: dict[str, list[SocketRow]] = {}
        self._connected: dict[_FiveTuple, list[SocketRow]] = {}
        self._unconnected: dict[_LocalEnd, list[SocketRow]] = {}
        self._unaccepted: set[_FiveTuple] = set()
        for name, rows in tables.items():
            if has_ports(name):
                self.add(name, rows)
            else:
                self._rows[name] = [row for row in rows if row.inode]

    def add(self, table: str, rows: Iterable[SocketRow]) -> None:
        """Add rows of a table by ports."""
        protocol = protocol_of(table)
        for row in rows:
            is_unaccepted = protocol == TCP and row.state in TCP_UNACCEPTED
            if not row.inode and not is_unaccepted:
                continue
            local = unmap(row.local_address)
            if row.remote_port or any(row.remote_address):
                remote = unmap(row.remote_address)
                five_tuple = protocol, local, row.local_port, remote, row.remote_port
                if not row.inode:
                    self._unaccepted.add(five_tuple)
                    continue
                known = self._connected.setdefault(five_tuple, [])
            elif protocol != TCP or row.state == TCP_LISTEN:
                known = self._unconnected.setdefault((protocol, local, row.local_port), [])
            else:
                continue
            if row not in known:
                known.append(row)

    def match(self, flow: FlowKey) -> Match:
        """Return the most specific candidates for `flow`, or NO_MATCH."""
        if flow.protocol in _PORT_TABLES:
            return self._match_ports(flow)
        for name in tables_for(flow):
            number = flow.local_port if name.startswith("icmp") else flow.protocol
            match = _match_number(flow, number, self._rows.get(name, ()))
            # A raw socket receives only copies of ICMP that the kernel itself sends and answers.
            copies_only = flow.protocol in (ICMP, ICMPV6) and name.startswith("raw")
            if match.quality is Quality.EXACT or (match.rows and not copies_only):
                return match
        return NO_MATCH

    def _match_ports(self, flow: FlowKey) -> Match:
        protocol, local, port = flow.protocol, flow.local_address, flow.local_port
        five_tuple = protocol, local, port, flow.remote_address, flow.remote_port
        rows = self._connected.get(five_tuple)
        if rows:
            return Match(Quality.EXACT, tuple(rows))
        wildcards = _WILDCARDS4 if len(local) == 4 else _WILDCARDS6
        levels = (self._unconnected.get((protocol, at, port)) for at in (local, *wildcards))
        fitting = [rows for rows in levels if rows]
        if not fitting:
            return NO_MATCH
        candidates = chain.from_iterable(fitting) if _reaches_all(local) else fitting[0]
        return Match(Quality.LISTENER, tuple(candidates), five_tuple in self._unaccepted)


def _reaches_all(address: bytes) -> bool:
    """Return whether every matching socket receives a copy: multicast, limited broadcast."""
    if len(address) == 16:
        return address[0] == 0xFF
    return 224 <= address[0] <= 239 or address == b"\xff\xff\xff\xff"


def _match_number(flow: FlowKey, number: int, rows: Sequence[SocketRow]) -> Match:
    """Match the sockets whose local port column is `number`.

    Every matching raw socket receives a copy of a packet, so the sockets without a remote address
    form one level, whatever local address they are bound to. A ping socket has its own identifier.
    """
    any_address = bytes(len(flow.local_address))
    fitting = [
        row
        for row in rows
        if row.local_port == number
        and row.local_address in (flow.local_address, any_address)
        and row.remote_address in (flow.remote_address, any_address)
    ]
    connected = tuple(row for row in fitting if row.remote_address != any_address)
    if connected:
        return Match(Quality.EXACT, connected)
    return Match(Quality.LISTENER, tuple(fitting)) if fitting else NO_MATCH
