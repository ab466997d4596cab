"""The ids that our network namespace has for others, asked over rtnetlink.

A link whose other end is elsewhere names that namespace by such an id (IFLA_LINK_NETNSID), which
the kernel makes up when the link is listed; here a namespace is asked for its id. Sources:
rtnl_net_getid in net/core/net_namespace.c, include/uapi/linux/net_namespace.h.
"""

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from hogpipe.linux.limits import SHORTAGES
from hogpipe.linux.rtnetlink import parse_messages

_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NLM_F_REQUEST = 0x1
_NETNSA_NSID, _NETNSA_FD = 1, 3
NOT_ASSIGNED = -1
"""NETNSA_NSID_NOT_ASSIGNED: the namespace has no id, so that no link of ours leads there."""
# Lengths, types and flags of netlink(7); a struct rtgenmsg, padded; one attribute of a number.
_REQUEST = struct.Struct("=IHHII 4x HHI")
_ATTRIBUTE = struct.Struct("=HHi")
_RECEIVE_BYTES = 8192


def read_namespace_ids(paths: Sequence[Path]) -> list[int | None]:
    """Return the id of each namespace that one of `paths` (/proc/PID/ns/net) leads to.

    None where that could not be asked: the process is gone, or may not be looked at. Raises OSError
    if the kernel has no rtnetlink, or no descriptor or memory for it now.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        return [_read_id(asking, path) for path in paths]


def _read_id(asking: socket.socket, path: Path) -> int | None:
    try:
        # By descriptor and not by pid, which may be another one where we are.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return None
    try:
        asking.send(
            _REQUEST.pack(
                *(_REQUEST.size, _RTM_GETNSID, _NLM_F_REQUEST, 1, 0),
                *(_ATTRIBUTE.size, _NETNSA_FD, descriptor),
            )
        )
        return parse_namespace_id(asking.recv(_RECEIVE_BYTES))
    finally:
        os.close(descriptor)


def parse_namespace_id(answer: bytes) -> int | None:
    """Return the id in an answer to RTM_GETNSID or NOT_ASSIGNED; None where it tells neither."""
    for kind, payload in parse_messages(answer):
        if kind == _RTM_NEWNSID and len(payload) >= 4 + _ATTRIBUTE.size:
            _length, attribute, number = _ATTRIBUTE.unpack_from(payload, 4)
            return number if attribute == _NETNSA_NSID and number >= NOT_ASSIGNED else None
    return None
