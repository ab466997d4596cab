"""From a flow to the sockets that may be its own, and how sure that is.

Pure: flows and rows in, candidates out. The order follows the kernel's own look-up, which prefers
the more closely bound socket, and the IPv4 one among wildcards (inet_lookup_listener and
udp4_lib_lookup). Only the candidates of the closest level are returned; whether they have the same
owner is for the caller to find out.

The tables do not tell whether a socket on `::` takes IPv6 only, nor which interface it is bound to,
nor which of several that share a port by SO_REUSEPORT the kernel chose.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from hogpipe.linux.socket_table import TCP_LISTEN, SocketRow
from hogpipe.model import FlowKey, Quality
from hogpipe.protocols import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

_BY_PORTS = {TCP: "tcp", UDP: "udp", UDPLITE: "udplite"}
_PROTOCOLS = {name: protocol for protocol, name in _BY_PORTS.items()}

_ANY4, _ANY6 = bytes(4), bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"

# Where a socket may be bound that takes packets to any address, the closest first: an IPv6 socket
# takes IPv4, too.
_EVERYWHERE4, _EVERYWHERE6 = (_ANY4, _ANY6), (_ANY6,)

_Ends = tuple[int, bytes, int, bytes, int]
_LocalEnd = tuple[int, bytes, int]


class Match(msgspec.Struct, frozen=True):
    """The sockets that a flow may belong to; none of them has inode 0."""

    quality: Quality
    rows: tuple[SocketRow, ...] = ()


NO_MATCH = Match(Quality.NONE)


def tables_for(flow: FlowKey) -> tuple[str, ...]:
    """Return the names of the tables that may hold a socket of `flow`, the likeliest first."""
    return tables_of(flow.protocol, flow.local_address)


def tables_of(protocol: int, address: bytes) -> tuple[str, ...]:
    """Return the names of the tables with sockets of this protocol and kind of address.

    None for SCTP, whose sockets are in no table of this shape.
    """
    version = "" if len(address) == 4 else "6"
    name = _BY_PORTS.get(protocol)
    if name is not None:
        # A socket of the IPv6 table also takes IPv4, with addresses as ::ffff:a.b.c.d.
        return (f"{name}6",) if version else (name, f"{name}6")
    if protocol in (ICMP, ICMPV6):
        return f"icmp{version}", f"raw{version}"
    return () if protocol == SCTP else (f"raw{version}",)


def has_endpoint(flow: FlowKey) -> bool:
    """Return whether sockets of the flow's protocol are found by ports, and its peer has one."""
    return flow.protocol in _BY_PORTS and flow.remote_port > 0


def protocol_of(table: str) -> int:
    """Return the protocol of a table by ports."""
    return _PROTOCOLS[table.removesuffix("6")]


def unmap(address: bytes) -> bytes:
    """Return the IPv4 address of a v4-mapped one, any other as it is."""
    return address[12:] if address.startswith(_MAPPED) else address


def port_pairs_for(flow: FlowKey) -> tuple[tuple[int, int], ...]:
    """Return the (local, remote) ports that a socket of `flow` may show in a table by ports."""
    return (flow.local_port, flow.remote_port), (flow.local_port, 0)


def has_ports(table: str) -> bool:
    """Return whether the sockets of `table` are found by pairs of ports."""
    return table.removesuffix("6") in _BY_PORTS.values()


class TableIndex:
    """The rows of one reading of the tables, ready to be matched.

    Addresses are compared as IPv4 where they are v4-mapped, so both tables of a protocol are one.
    """

    def __init__(self, tables: Mapping[str, Sequence[SocketRow]]) -> None:
        self._rows: dict[str, list[SocketRow]] = {}
        self._connected: dict[_Ends, list[SocketRow]] = {}
        self._unconnected: dict[_LocalEnd, list[SocketRow]] = {}
        for name, rows in tables.items():
            if has_ports(name):
                self.add(name, rows)
            else:
                self._rows[name] = [row for row in rows if row.inode]

    def add(self, table: str, rows: Iterable[SocketRow]) -> None:
        """Take up more rows of a table by ports."""
        protocol = protocol_of(table)
        for row in rows:
            if not row.inode:
                continue
            local = unmap(row.local_address)
            if row.remote_port or any(row.remote_address):
                ends = protocol, local, row.local_port, unmap(row.remote_address), row.remote_port
                known = self._connected.setdefault(ends, [])
            elif protocol != TCP or row.state == TCP_LISTEN:
                known = self._unconnected.setdefault((protocol, local, row.local_port), [])
            else:
                continue
            if row not in known:
                known.append(row)

    def match(self, flow: FlowKey) -> Match:
        """Return the closest candidates for `flow`, or NO_MATCH."""
        if flow.protocol in _BY_PORTS:
            return self._match_ports(flow)
        for name in tables_for(flow):
            number = flow.local_port if name.startswith("icmp") else flow.protocol
            match = _match_number(flow, number, self._rows.get(name, ()))
            # A raw socket gets a copy of ICMP that the kernel itself sends, answers and handles.
            copies_only = flow.protocol in (ICMP, ICMPV6) and name.startswith("raw")
            if match.quality is Quality.EXACT or (match.rows and not copies_only):
                return match
        return NO_MATCH

    def _match_ports(self, flow: FlowKey) -> Match:
        protocol, ours, port = flow.protocol, flow.local_address, flow.local_port
        rows = self._connected.get((protocol, ours, port, flow.remote_address, flow.remote_port))
        if rows:
            return Match(Quality.EXACT, tuple(rows))
        everywhere = _EVERYWHERE4 if len(ours) == 4 else _EVERYWHERE6
        levels = (self._unconnected.get((protocol, at, port)) for at in (ours, *everywhere))
        fitting = [rows for rows in levels if rows]
        if not fitting:
            return NO_MATCH
        closest = chain.from_iterable(fitting) if _reaches_all(ours) else fitting[0]
        return Match(Quality.LISTENER, tuple(closest))


def _reaches_all(address: bytes) -> bool:
    """Return whether each socket that fits gets its own copy: multicast, limited broadcast."""
    if len(address) == 16:
        return address[0] == 0xFF
    return 224 <= address[0] <= 239 or address == b"\xff\xff\xff\xff"


def _match_number(flow: FlowKey, number: int, rows: Sequence[SocketRow]) -> Match:
    """Match the sockets whose local port column is `number`.

    Each raw socket that fits gets a copy of what arrives, so those without a remote address are
    one level, however they are bound. Ping sockets have their identifier for themselves.
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
