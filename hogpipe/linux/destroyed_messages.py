"""PURE: messages of sock_diag about TCP sockets that are destroyed, with their last tcp_info.

In: messages of the groups SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY. Out: the
endpoints of each connection and its health as far as tcp_info has it. Any bytes parse: what is
malformed, or of no connection, is None.

What tcp_info does not have: how a connection began and ended, so that these counters are 0. Bytes
that were transmitted are those sent once, but no more than were acknowledged; SYN and FIN count
among these, so that a connection that was reset may have two bytes too many. A FIN that was
received counts as a byte and is subtracted, so that without one a byte is missing.

Sources: include/uapi/linux/inet_diag.h and tcp.h. A kernel before Linux 4.19 has no `bytes_sent`.
"""

import struct

import msgspec

from hogpipe.linux.netlink_messages import parse_attributes, parse_messages
from hogpipe.model import TcpHealth, unmap

_SOCKET = struct.Struct("=BBxx2s2s16s16sIII20x")  # inet_diag_msg
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_INFO = 2
# The fields of struct tcp_info that are read, in the order of `_parse_info`.
_INFO = struct.Struct("=68xI28xI16xQQ12xII44xQQ")
_NO_TIME = 0xFFFFFFFF
_AF_INET, _AF_INET6 = 2, 10


class DestroyedSocket(msgspec.Struct, frozen=True, gc=False):
    """A connection whose socket was destroyed. Addresses have 4 bytes or 16."""

    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    cookie: int
    health: TcpHealth


def parse_destroyed(message: bytes) -> DestroyedSocket | None:
    """Return what a message reports, None if it is not that of a connection."""
    kind, payload = next(parse_messages(message), (None, b""))
    if kind != _SOCK_DIAG_BY_FAMILY or len(payload) < _SOCKET.size:
        return None
    family, _, local_port, remote_port, local, remote, _, low, high = _SOCKET.unpack_from(payload)
    attributes = parse_attributes(payload[_SOCKET.size :], until=_INET_DIAG_INFO)
    info = attributes.get(_INET_DIAG_INFO, b"")
    if len(info) < _INFO.size or remote_port == bytes(2):
        return None
    if family == _AF_INET:
        local, remote = local[:4], remote[:4]
    elif family != _AF_INET6:
        return None
    return DestroyedSocket(
        unmap(local),
        int.from_bytes(local_port, "big"),
        unmap(remote),
        int.from_bytes(remote_port, "big"),
        high << 32 | low,
        _parse_info(info),
    )


def _parse_info(info: bytes) -> TcpHealth:
    rtt, retransmits, acked, received, least, data_segments, sent, sent_again = _INFO.unpack_from(
        info
    )
    health = TcpHealth(
        transmit_payload_bytes=max(0, min(acked, sent - sent_again)),
        receive_payload_bytes=max(0, received - 1) if data_segments else 0,
        retransmits=retransmits,
    )
    if rtt:  # else no segment of the peer came
        health.rtt_samples, health.rtt_sum_us = 1, rtt
        health.rtt_min_us = rtt if least in {0, _NO_TIME} else min(least, rtt)
    return health
