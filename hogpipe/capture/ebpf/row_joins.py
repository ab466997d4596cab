"""PURE: entries that belong to connections are added to them.

The packets by which a connection begins are those of the listening socket, and the last ones may be
the kernel's own. They are added to the connection of the same ends, if that moved in the same turn.
"""

from functools import reduce

import numpy as np

from hogpipe.capture.decode.columns import hash_rows
from hogpipe.linux.bpf.traffic_rows import PROTOCOL_BYTE, Rows, join_rows, pick_rows
from hogpipe.protocols import TCP


def assign_loose(other_flows: Rows, connections: Rows) -> Rows:
    """Add what belongs to connections to them, and return the rest."""
    words = np.ascontiguousarray(other_flows["endpoints"][:, PROTOCOL_BYTE // 8])
    is_tcp = words.view(np.uint8)[PROTOCOL_BYTE % 8 :: 8] == TCP
    if not is_tcp.any() or not len(connections):
        return other_flows
    loose = pick_rows(other_flows, is_tcp)
    ends = np.ascontiguousarray(connections["endpoints"])
    loose_ends = np.ascontiguousarray(loose["endpoints"])
    hashes = hash_rows(ends)
    order = hashes.argsort()
    place = np.searchsorted(hashes[order], hash_rows(loose_ends))
    owner = order[np.minimum(place, len(order) - 1)]
    namespace = loose["namespace"]
    fits = reduce(np.logical_and, (ends[owner] == loose_ends).T)
    fits &= (namespace == 0) | (namespace == connections["namespace"][owner])
    np.add.at(connections["counts"], owner[fits], loose["counts"][fits])
    return join_rows(pick_rows(other_flows, ~is_tcp), pick_rows(loose, ~fits))


def add_held(before: Rows, connections: Rows) -> Rows:
    """Add what connections moved before, and return them, with those that moved nothing since."""
    if not len(connections):
        return before
    order = connections["cookie"].argsort()
    cookies = connections["cookie"][order]
    place = order[np.searchsorted(cookies, before["cookie"]).clip(max=len(order) - 1)]
    again = connections["cookie"][place] == before["cookie"]
    np.add.at(connections["counts"], place[again], before["counts"][again])
    return join_rows(pick_rows(before, ~again), connections)
