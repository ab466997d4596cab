"""PURE: which rows of the traffic maps belong to the measured processes, and how surely.

In: the rows of an epoch (linux.bpf.traffic_rows), the scope, and the sockets that its processes
hold. Out: the rows of the scope, each with its quality.

A row belongs to the scope
1. if the kernel recorded one of its processes as the one that used the socket;
2. if the socket is one that a process of the scope held when the measurement began: it may have
   been made and connected before the programs were attached;
3. if no process is recorded yet and the connection came to a listening socket of the scope, which
   existed before the programs: with the quality `listener`, and only on the port and in the network
   namespace of that socket.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import BY_LISTENER, ENDPOINTS
from hogpipe.linux.bpf.traffic_rows import Rows, pick_rows

Includes = Callable[[int, int, int], bool]
"""Whether (pid, control group, nanoseconds since boot) belong to the scope."""
Port = tuple[int, int]
"""The cookie of a network namespace, and a port."""


class Selection(NamedTuple):
    """Rows of the scope."""

    rows: Rows
    by_listener: NDArray[np.bool_]
    """Which of them are known by the listening socket only."""


def select_rows(
    rows: Rows, includes: Includes, held: Collection[int], listening: Collection[Port]
) -> Selection:
    """Return the rows that belong to the scope; `held` are cookies."""
    if not len(rows):
        return Selection(rows, np.zeros(0, np.bool_))
    is_owned = _find_owned(rows, includes)
    is_held = np.isin(rows["cookie"], np.fromiter(held, np.uint64, len(held)))
    by_listener = rows["flags"] & BY_LISTENER != 0
    is_accepted = (rows["pid"] == 0) & ~is_held & _find_accepted(rows, listening)
    is_ours = is_owned | is_held | is_accepted
    is_by_listener = ((is_owned & by_listener) | is_accepted) & ~is_held
    return Selection(pick_rows(rows, is_ours), is_by_listener[is_ours])


def find_serving_ports(other_flows: Rows) -> set[Port]:
    """Return where handshakes came to listening sockets; their rows are among the other flows."""
    handshakes = other_flows[other_flows["flags"] & BY_LISTENER != 0]
    endpoints = np.ascontiguousarray(handshakes["endpoints"]).view(ENDPOINTS).ravel()
    ports = zip(handshakes["namespace"].tolist(), endpoints["local_port"].tolist(), strict=True)
    return set(ports)


def _find_owned(rows: Rows, includes: Includes) -> NDArray[np.bool_]:
    """Return which rows have a recorded process of the scope."""
    owners = np.zeros(len(rows), [("pid", "u8"), ("cgroup", "u8"), ("boot_ns", "u8")])
    for name in ("pid", "cgroup", "boot_ns"):
        owners[name] = rows[name]
    distinct, places = np.unique(owners, return_inverse=True)
    found = [pid != 0 and includes(pid, cgroup, when) for pid, cgroup, when in distinct.tolist()]
    return np.array(found, np.bool_)[places]


def _find_accepted(rows: Rows, listening: Collection[Port]) -> NDArray[np.bool_]:
    """Return which rows are of connections to a listening socket of the scope."""
    found = np.zeros(len(rows), np.bool_)
    if listening:
        endpoints = np.ascontiguousarray(rows["endpoints"]).view(ENDPOINTS).ravel()
        for namespace, port in listening:
            found |= (rows["namespace"] == namespace) & (endpoints["local_port"] == port)
    return found
