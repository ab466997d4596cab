"""The host's links and addresses, read over rtnetlink, and word of every change.

pyroute2 does this too, but starts an event loop of its own under its socket and takes longer to
import than the rest of hogpipe; the capture thread needs one descriptor to poll and two dumps.
Sources: rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

import msgspec

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 3, 5, 10
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_LINK_NETNSID = 18, 1, 37
# IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE
_PACKET_LIMITS = (41, 58, 63, 64)
_LEGACY_LIMIT = 65536
VETH_KINDS = frozenset({"veth", "netkit"})
"""Kinds of links that come in pairs, what is sent on one received on the other."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8

_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TYPE_MASK = 0x3FFF  # without the NESTED and BYTEORDER flags
_RECEIVE_BYTES = 1 << 17


class Link(msgspec.Struct, frozen=True):
    """A network interface. `lower` is the link that it was made upon (VLAN, macvlan, tunnel)."""

    index: int
    name: str
    up: bool
    loopback: bool
    hardware: int
    """ARPHRD_*, include/uapi/linux/if_arp.h."""
    kind: str | None = None
    master: int | None = None
    """Index of the bridge or bond that it is a port of."""
    lower: int | None = None
    big_tcp: bool = False
    """Whether it is set up for packets too long for the length field of IP."""
    peer: int | None = None
    """Index of the other end of a veth, if that is in this network namespace, too."""
    peer_netns: int | None = None
    """This namespace's id (ip-netns(8)) of the one that its peer or lower link is in, if another;
    -1 where the kernel has none."""


class Address(msgspec.Struct, frozen=True):
    """An address that a link has; in network order, 4 or 16 bytes."""

    link: int
    address: bytes
    prefix_length: int
    broadcast: bytes | None = None


class LinkTable(msgspec.Struct, frozen=True):
    """All links and addresses of a network namespace at one moment."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()

    def without_addresses_of(self, links: AbstractSet[int]) -> "LinkTable":
        """Return the table without the addresses that these links, given by index, have."""
        kept = tuple(entry for entry in self.addresses if entry.link not in links)
        return LinkTable(self.links, kept)


def parse_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of each netlink message; a cut one ends the walk."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size or at + length > len(data):
            return
        yield kind, data[at + _MESSAGE.size : at + length]
        at += (length + 3) & ~3


def _parse_attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return attributes


def _number(attribute: bytes | None) -> int:
    return int.from_bytes(attribute or b"", sys.byteorder)


def parse_link(payload: bytes) -> Link:
    """Return the link of an RTM_NEWLINK message."""
    _family, hardware, index, flags, _change = _LINK.unpack_from(payload)
    attributes = _parse_attributes(payload[_LINK.size :])
    info = _parse_attributes(attributes.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace") or None
    master = attributes.get(_IFLA_MASTER)
    netns = attributes.get(_IFLA_LINK_NETNSID)
    # An index of another namespace says nothing here; zero is a tunnel that is bound to no link.
    linked = _number(attributes.get(_IFLA_LINK)) if netns is None else 0
    is_end = kind in VETH_KINDS
    return Link(
        index=index,
        name=attributes[_IFLA_IFNAME].rstrip(b"\0").decode("utf-8", "backslashreplace"),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        hardware=hardware,
        kind=kind,
        master=_number(master) or None,
        lower=None if is_end else linked or None,
        big_tcp=any(_number(attributes.get(limit)) > _LEGACY_LIMIT for limit in _PACKET_LIMITS),
        peer=linked or None if is_end else None,
        peer_netns=None if netns is None else int.from_bytes(netns, sys.byteorder, signed=True),
    )


def parse_address(payload: bytes) -> Address | None:
    """Return the address of an RTM_NEWADDR message; None where it has none."""
    _family, prefix_length, _flags, _scope, index = _ADDRESS.unpack_from(payload)
    attributes = _parse_attributes(payload[_ADDRESS.size :])
    # On a point-to-point link IFA_ADDRESS is the peer's, IFA_LOCAL ours.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if address is None:
        return None
    return Address(index, address, prefix_length, attributes.get(_IFA_BROADCAST))


class LinkMonitor:
    """Reads the links and addresses of this network namespace, and tells when they have changed.

    Raises OSError where the kernel refuses. It keeps its sockets, so that it goes on reading when
    no more can be opened.
    """

    def __init__(self) -> None:
        with ExitStack() as opened:
            self._asking = opened.enter_context(_open_rtnetlink())
            self._events = opened.enter_context(_open_rtnetlink())
            self._events.bind((0, _GROUPS))
            self._events.setblocking(False)
            opened.pop_all()

    def read_table(self) -> LinkTable:
        """Return all links and addresses as they are now; raises OSError."""
        _discard(self._asking)  # of a dump that failed half-way
        return _read_table(self._asking)

    def fileno(self) -> int:
        """Return the descriptor that is readable when something has changed."""
        return self._events.fileno()

    def drain(self) -> None:
        """Forget the changes that were told so far."""
        _discard(self._events)

    def close(self) -> None:
        """Close the sockets."""
        self._events.close()
        self._asking.close()


def read_link_table() -> LinkTable:
    """Return all links and addresses of this namespace; raises OSError if the kernel refuses."""
    with _open_rtnetlink() as asking:
        return _read_table(asking)


def _open_rtnetlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def _discard(messages: socket.socket) -> None:
    """Read what is there, and what a dump still has to say."""
    while True:
        try:
            messages.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            # ENOBUFS: some were lost. The table is read anew after any change, so none matters.
            if error.errno != errno.ENOBUFS:
                return  # what asks or polls next meets it again


def _read_table(asking: socket.socket) -> LinkTable:
    links = [parse_link(message) for message in _read_dump(asking, _RTM_GETLINK, _RTM_NEWLINK)]
    found = map(parse_address, _read_dump(asking, _RTM_GETADDR, _RTM_NEWADDR))
    return LinkTable(tuple(links), tuple(address for address in found if address))


def _read_dump(asking: socket.socket, request: int, answer: int) -> list[bytes]:
    header = _MESSAGE.pack(_MESSAGE.size + 4, request, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    payloads: list[bytes] = []
    asking.send(header + bytes(4))  # a struct rtgenmsg of AF_UNSPEC, padded
    while True:
        for kind, payload in parse_messages(asking.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_DONE:
                return payloads
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code))
            if kind == answer:
                payloads.append(payload)
