"""PURE: rows that belong to a connection are added to the row of that connection.

A connection has rows elsewhere in two cases:

- The packets before it is established are those of its listening socket, and its last ones may be
  the kernel's own (`join_connections`). They have the endpoints of the connection. An epoch may end
  before it is established, so a handshake is carried over to the next one (`find_handshakes`).
- It was carried over from the epoch before (`add_carried_over`). It has the same socket cookie.
"""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.row_order import hash_rows
from hogpipe.linux.bpf.shapes import BY_LISTENER, PACKET_SOCKET
from hogpipe.linux.bpf.traffic_rows import PROTOCOL_BYTE, Rows, join_rows, pick_rows
from hogpipe.protocols import TCP


def join_connections(other_flows: Rows, connections: Rows) -> Rows:
    """Add rows of other flows to the connections with their endpoints, and return the rest.

    Network namespaces may use the same addresses, so both rows must be of one namespace if it is
    known. What was written to a packet socket is its sender's, whichever connection it imitates.
    """
    is_tcp = _are_tcp(other_flows) & (other_flows["flags"] & PACKET_SOCKET == 0)
    if not is_tcp.any() or not len(connections):
        return other_flows
    rows = pick_rows(other_flows, is_tcp)
    keys = np.ascontiguousarray(connections["endpoints"])
    row_keys = np.ascontiguousarray(rows["endpoints"])
    hashes = hash_rows(keys)
    order = hashes.argsort()
    place = np.searchsorted(hashes[order], hash_rows(row_keys))
    found = order[np.minimum(place, len(order) - 1)]
    namespace = rows["namespace"]
    fits = reduce(np.logical_and, (keys[found] == row_keys).T)  # hashes may collide
    fits &= (namespace == 0) | (namespace == connections["namespace"][found])
    np.add.at(connections["counts"], found[fits], rows["counts"][fits])
    return join_rows(pick_rows(other_flows, ~is_tcp), pick_rows(rows, ~fits))


def find_handshakes(other_flows: Rows) -> NDArray[np.bool_]:
    """Return which rows are of listening TCP sockets: handshakes, complete or not."""
    return np.asarray(_are_tcp(other_flows) & (other_flows["flags"] & BY_LISTENER != 0))


def _are_tcp(rows: Rows) -> NDArray[np.bool_]:
    words = np.ascontiguousarray(rows["endpoints"][:, PROTOCOL_BYTE // 8])
    return np.asarray(words.view(np.uint8)[PROTOCOL_BYTE % 8 :: 8] == TCP)


def add_carried_over(carried_over: Rows, connections: Rows) -> Rows:
    """Return connections with the counts of the epoch before, and those that are not among them."""
    if not len(connections):
        return carried_over
    order = connections["cookie"].argsort()
    cookies = connections["cookie"][order]
    place = np.searchsorted(cookies, carried_over["cookie"]).clip(max=len(order) - 1)
    found = order[place]
    fits = connections["cookie"][found] == carried_over["cookie"]
    np.add.at(connections["counts"], found[fits], carried_over["counts"][fits])
    return join_rows(pick_rows(carried_over, ~fits), connections)
