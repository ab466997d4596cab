"""Packet sockets (AF_PACKET) of this thread's network namespace: sock_diag or /proc/net/packet.

Out: a `PacketSocket` for each. Malformed answers and rows are skipped. Where the kernel has no
packet_diag, the text table is read, which does not show rings. Raises OSError if neither is there.

Sources: include/uapi/linux/packet_diag.h, net/packet/diag.c, packet_seq_show of af_packet.c.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hogpipe.linux.netlink_messages import parse_attributes, parse_messages
from hogpipe.linux.sock_diag import open_link

_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_SHOW = 0x1 | 0x4  # PACKET_SHOW_INFO, with the user, and PACKET_SHOW_RING_CFG
_INFO, _RX_RING, _TX_RING, _UID = 0, 2, 3, 5
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIII")
_MESSAGE = struct.Struct("=BBHIII")  # family, type, ethertype, inode, cookie
_RECEIVE_BYTES = 1 << 16


class PacketSocket(msgspec.Struct, frozen=True):
    """A packet socket."""

    inode: int
    interface: int
    """The index of the interface that it is bound to, 0 for none."""
    ethertype: int
    """What it receives; 0 for nothing."""
    user_id: int
    only_receives: bool = False
    """Whether it has a ring for what it receives and none for what it sends, as a capture has."""


def read_packet_sockets(procfs: Path) -> list[PacketSocket]:
    """Return the packet sockets; `procfs` is that of this namespace. Raises OSError."""
    try:
        return _read_dump()
    except OSError:
        return parse_packet_table((procfs / "net" / "packet").read_bytes())


def parse_packet_table(data: bytes) -> list[PacketSocket]:
    """Return the rows of /proc/net/packet: address, references, type, ethertype, interface, …."""
    found = []
    for line in data.splitlines()[1:]:
        fields = line.split()
        try:
            ethertype, interface, user_id, inode = (
                int(fields[3], 16), int(fields[4]), int(fields[7]), int(fields[8]),
            )  # fmt: skip
        except (IndexError, ValueError):
            continue
        found.append(PacketSocket(inode, interface, ethertype, user_id))
    return found


def parse_packet_message(payload: bytes) -> PacketSocket | None:
    """Return the socket of an answer of packet_diag, None if that is malformed."""
    if len(payload) < _MESSAGE.size:
        return None
    family, _, ethertype, inode, _, _ = _MESSAGE.unpack_from(payload)
    attributes = parse_attributes(payload[_MESSAGE.size :])
    info = attributes.get(_INFO, b"")
    if family != socket.AF_PACKET or len(info) < 4:
        return None
    return PacketSocket(
        inode,
        int.from_bytes(info[:4], sys.byteorder),
        ethertype,
        int.from_bytes(attributes.get(_UID, b""), sys.byteorder),
        _RX_RING in attributes and _TX_RING not in attributes,
    )


def _read_dump() -> list[PacketSocket]:
    request = _REQUEST.pack(socket.AF_PACKET, 0, 0, 0, _SHOW, 0, 0)
    header = _HEADER.pack(
        _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0
    )
    with open_link() as link:
        link.send(header + request)
        return [one for one in map(parse_packet_message, _receive(link)) if one is not None]


def _receive(link: socket.socket) -> Iterator[bytes]:
    while True:
        for kind, payload in parse_messages(link.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                raise OSError(code or errno.EIO, os.strerror(code or errno.EIO))
            yield payload
