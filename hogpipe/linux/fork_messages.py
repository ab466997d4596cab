"""PURE: messages of the kernel's process connector (NETLINK_CONNECTOR), of which forks are used.

In: datagrams. Out: a `Fork` for each new process. Any bytes parse: what is malformed, a new thread
or another event is skipped.

Numbers are in the host's byte order. Sources: include/uapi/linux/connector.h and cn_proc.h,
drivers/connector/cn_proc.c.
"""

import struct

import msgspec

PROCESS_GROUP = 1  # CN_IDX_PROC, the multicast group of process events
_VALUE = 1  # CN_VAL_PROC
_LISTEN, _IGNORE = 1, 2  # PROC_CN_MCAST_LISTEN, PROC_CN_MCAST_IGNORE
_FORK = 1  # PROC_EVENT_FORK
_DONE = 3  # NLMSG_DONE, the type of every message of a connector

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_CONNECTOR = struct.Struct("=IIIIHH")  # index, value, sequence, acknowledgement, length, flags
_OPERATION = struct.Struct("=I")
# proc_event: what, CPU, time; of a fork then thread and process of the parent, and of the child
_EVENT = struct.Struct("=IIQIIII")
_EVENT_OFFSET = _HEADER.size + _CONNECTOR.size


class Fork(msgspec.Struct, frozen=True, gc=False):
    """A process was made."""

    parent_pid: int
    child_pid: int
    boot_ns: int
    """When, nanoseconds since boot."""


def build_request(*, listen: bool) -> bytes:
    """Return the request that makes the kernel report events to the group, or that ends it.

    The kernel counts both: it reports as long as one more has asked for it.
    """
    operation = _OPERATION.pack(_LISTEN if listen else _IGNORE)
    message = _CONNECTOR.pack(PROCESS_GROUP, _VALUE, 0, 0, len(operation), 0) + operation
    return _HEADER.pack(_HEADER.size + len(message), _DONE, 0, 0, 0) + message


def parse_fork(datagram: bytes, suspended_ns: int = 0) -> Fork | None:
    """Return the fork that a datagram reports, None if it reports anything else.

    Reports have the monotonic time, which leaves out what the host was suspended for.
    """
    if len(datagram) < _EVENT_OFFSET + _EVENT.size:
        return None
    index, value, *_ = _CONNECTOR.unpack_from(datagram, _HEADER.size)
    if (index, value) != (PROCESS_GROUP, _VALUE):
        return None
    what, _cpu, time_ns, _thread, parent, child_thread, child = _EVENT.unpack_from(
        datagram, _EVENT_OFFSET
    )
    is_process = what == _FORK and child_thread == child
    return Fork(parent, child, time_ns + suspended_ns) if is_process else None
