"""Links and addresses of the thread's network namespace over rtnetlink, and change notifications.

Out: `LinkTable`, one snapshot of links and addresses, and a descriptor that becomes readable after
a change. Functions that read raise OSError if the kernel refuses.

pyroute2 offers the same, but it starts its own event loop under its socket and takes longer to
import than the rest of hogpipe; the capture thread needs one descriptor to poll and two dumps.
Sources: rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

import msgspec

from hogpipe.linux.netlink_messages import MESSAGE, parse_attributes, parse_messages

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 3, 5, 10
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_LINK_NETNSID = 18, 1, 2, 37
# IFLA_VXLAN_PORT, IFLA_GENEVE_PORT, IFLA_BAREUDP_PORT; in network byte order
_TUNNEL_PORTS = {"vxlan": 15, "geneve": 5, "bareudp": 1}
# IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE
_PACKET_LIMITS = (41, 58, 63, 64)
_LEGACY_LIMIT = 65536
VETH_KINDS = frozenset({"veth", "netkit"})
"""Kinds of links that are created in pairs: each end receives the frames sent on the other."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8

_LINK = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RECEIVE_BYTES = 1 << 17


class Link(msgspec.Struct, frozen=True):
    """A network interface. `lower` is the link that it is stacked on (VLAN, macvlan, tunnel)."""

    index: int
    name: str
    up: bool
    loopback: bool
    hardware: int
    """ARPHRD_*, include/uapi/linux/if_arp.h."""
    kind: str | None = None
    master: int | None = None
    """Index of the bridge or bond that has this link as a port."""
    lower: int | None = None
    big_tcp: bool = False
    """Whether it is configured for packets that exceed the length field of IP."""
    tunnel_port: int | None = None
    """The UDP port at which a tunnel (VXLAN, GENEVE, bareudp) receives, here and at its peers."""
    peer: int | None = None
    """Index of the other end of a veth, if that end is in this network namespace."""
    peer_netns: int | None = None
    """The id (ip-netns(8)) of the network namespace of its peer or lower link, if that is another
    namespace; -1 if the kernel has assigned no id."""


class Address(msgspec.Struct, frozen=True):
    """An address of a link, in network byte order, 4 or 16 bytes."""

    link: int
    address: bytes
    prefix_length: int
    broadcast: bytes | None = None


class LinkTable(msgspec.Struct, frozen=True):
    """A snapshot of all links and addresses of a network namespace."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()

    def without_addresses_of(self, links: AbstractSet[int]) -> "LinkTable":
        """Return the table without the addresses of these links, given by index."""
        kept = tuple(entry for entry in self.addresses if entry.link not in links)
        return LinkTable(self.links, kept)


def _number(attribute: bytes | None) -> int:
    return int.from_bytes(attribute or b"", sys.byteorder)


def parse_link(payload: bytes) -> Link | None:
    """Return the link of an RTM_NEWLINK message; None if it is malformed or has no name."""
    if len(payload) < _LINK.size:
        return None
    _family, hardware, index, flags, _change = _LINK.unpack_from(payload)
    attributes = parse_attributes(payload[_LINK.size :])
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")
    if not name:
        return None
    info = parse_attributes(attributes.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace") or None
    master = attributes.get(_IFLA_MASTER)
    netns = attributes.get(_IFLA_LINK_NETNSID)
    # An index of another namespace is meaningless here; zero is a tunnel that is bound to no link.
    linked = _number(attributes.get(_IFLA_LINK)) if netns is None else 0
    is_end = kind in VETH_KINDS
    return Link(
        index=index,
        name=name,
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        hardware=hardware,
        kind=kind,
        master=_number(master) or None,
        lower=None if is_end else linked or None,
        big_tcp=any(_number(attributes.get(limit)) > _LEGACY_LIMIT for limit in _PACKET_LIMITS),
        tunnel_port=_read_tunnel_port(kind, info.get(_IFLA_INFO_DATA, b"")),
        peer=linked or None if is_end else None,
        peer_netns=None if netns is None else int.from_bytes(netns, sys.byteorder, signed=True),
    )


def _read_tunnel_port(kind: str | None, data: bytes) -> int | None:
    attribute = _TUNNEL_PORTS.get(kind or "")
    if attribute is None:
        return None
    return int.from_bytes(parse_attributes(data).get(attribute, b""), "big") or None


def parse_address(payload: bytes) -> Address | None:
    """Return the address of an RTM_NEWADDR message; None if it is malformed or has none."""
    if len(payload) < _ADDRESS.size:
        return None
    _family, prefix_length, _flags, _scope, index = _ADDRESS.unpack_from(payload)
    attributes = parse_attributes(payload[_ADDRESS.size :])
    # On a point-to-point link IFA_ADDRESS is the address of the peer, IFA_LOCAL the local one.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if address is None or len(address) not in (4, 16):
        return None
    return Address(index, address, prefix_length, attributes.get(_IFA_BROADCAST))


class LinkMonitor:
    """Reads the links and addresses of this network namespace, and reports changes.

    Raises OSError if the kernel refuses. It keeps its sockets open, so that reading also works
    when no descriptor can be opened.
    """

    def __init__(self) -> None:
        with ExitStack() as opened:
            self._requests = opened.enter_context(_open_rtnetlink())
            self._events = opened.enter_context(_open_rtnetlink())
            self._events.bind((0, _GROUPS))
            self._events.setblocking(False)
            opened.pop_all()

    def read_table(self) -> LinkTable:
        """Return the current links and addresses; raises OSError."""
        _discard(self._requests)  # answers to an earlier dump that failed half-way
        return _read_table(self._requests)

    def fileno(self) -> int:
        """Return the descriptor that is readable after a change."""
        return self._events.fileno()

    def drain(self) -> None:
        """Discard the change notifications received so far."""
        _discard(self._events)

    def close(self) -> None:
        """Close the sockets."""
        self._events.close()
        self._requests.close()


def read_link_table() -> LinkTable:
    """Return all links and addresses of this namespace; raises OSError if the kernel refuses."""
    with _open_rtnetlink() as requests:
        return _read_table(requests)


def _open_rtnetlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def _discard(messages: socket.socket) -> None:
    """Read and drop all pending messages, the rest of a dump included."""
    while True:
        try:
            messages.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            # ENOBUFS: messages were lost. Any change causes a full read, so no message matters.
            if error.errno != errno.ENOBUFS:
                return  # the next request or poll reports the error again


def _read_table(requests: socket.socket) -> LinkTable:
    links = map(parse_link, _read_dump(requests, _RTM_GETLINK, _RTM_NEWLINK))
    addresses = map(parse_address, _read_dump(requests, _RTM_GETADDR, _RTM_NEWADDR))
    return LinkTable(tuple(filter(None, links)), tuple(filter(None, addresses)))


def _read_dump(requests: socket.socket, request: int, answer: int) -> list[bytes]:
    header = MESSAGE.pack(MESSAGE.size + 4, request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    payloads: list[bytes] = []
    requests.send(header + bytes(4))  # a struct rtgenmsg of AF_UNSPEC, padded
    while True:
        for kind, payload in parse_messages(requests.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_DONE:
                return payloads
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code))
            if kind == answer:
                payloads.append(payload)
