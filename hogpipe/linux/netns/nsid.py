"""The nsids of network namespaces, as rtnetlink reports them (ip-netns(8)).

An nsid names another namespace as seen from this thread's. A link whose peer is in another
namespace carries the nsid of that one (IFLA_LINK_NETNSID); the kernel assigns it when the link is
listed. In: paths of /proc/PID/ns/net. Out: the nsid of each, or NOT_ASSIGNED.

Sources: rtnl_net_getid in net/core/net_namespace.c, include/uapi/linux/net_namespace.h.
"""

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from hogpipe.linux.limits import SHORTAGES
from hogpipe.linux.netlink_messages import parse_messages

_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NLM_F_REQUEST = 0x1
_NETNSA_NSID, _NETNSA_FD = 1, 3
NOT_ASSIGNED = -1
"""NETNSA_NSID_NOT_ASSIGNED: the namespace has no nsid, so no link of this thread's leads there."""
# struct nlmsghdr; struct rtgenmsg, padded; one attribute that holds a number.
_REQUEST = struct.Struct("=IHHII 4x HHI")
_ATTRIBUTE = struct.Struct("=HHi")
_RECEIVE_BYTES = 8192


def read_nsids(paths: Sequence[Path]) -> list[int | None]:
    """Return the nsid of each namespace that one of `paths` (/proc/PID/ns/net) leads to.

    None where the path cannot be opened: the process is gone, or the kernel refuses. Raises OSError
    if the kernel has no rtnetlink, or if descriptors or memory are short.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as rtnetlink:
        return [_read_nsid(rtnetlink, path) for path in paths]


def _read_nsid(rtnetlink: socket.socket, path: Path) -> int | None:
    try:
        # By descriptor: the pid may name another process in this thread's pid namespace.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return None
    try:
        rtnetlink.send(
            _REQUEST.pack(
                *(_REQUEST.size, _RTM_GETNSID, _NLM_F_REQUEST, 1, 0),
                *(_ATTRIBUTE.size, _NETNSA_FD, descriptor),
            )
        )
        return parse_nsid(rtnetlink.recv(_RECEIVE_BYTES))
    finally:
        os.close(descriptor)


def parse_nsid(answer: bytes) -> int | None:
    """Return the nsid (or NOT_ASSIGNED) of an answer to RTM_GETNSID; None if it holds none."""
    for kind, payload in parse_messages(answer):
        if kind == _RTM_NEWNSID and len(payload) >= 4 + _ATTRIBUTE.size:
            _length, attribute, number = _ATTRIBUTE.unpack_from(payload, 4)
            return number if attribute == _NETNSA_NSID and number >= NOT_ASSIGNED else None
    return None
