"""PURE: flows by their endpoints alone, for what is known of a socket and not of its packets.

In: the endpoints of TCP sockets, and what is known of their network namespaces; the TCP flows of a
table. Out: the flow of each socket. The interface does not matter: of several flows with the same
endpoints, that which was used last is taken. Of flows in several other namespaces none is taken:
nothing says which of them is that of the socket.

Algorithm: the endpoints of both sides are brought together by `find_groups`, which is exact. Flows
with ports that no socket has are left out before.
"""

from enum import IntEnum

import numpy as np

from hogpipe.flows.flow_words import FLOW_WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, Keys
from hogpipe.flows.packet_rows import Integers, Times
from hogpipe.flows.row_order import find_groups
from hogpipe.model import OWN_NAMESPACE
from hogpipe.protocols import TCP

_PORTS = 1 << 16


class Reach(IntEnum):
    """What is known of a network namespace."""

    OWN = 0
    """It is ours."""
    OTHER = 1
    """It is another one."""
    ANY = 2
    """Nothing."""


_TRIED = np.array(
    [
        [Reach.OWN, Reach.ANY, Reach.ANY],
        [Reach.OTHER, Reach.ANY, Reach.ANY],
        [Reach.OWN, Reach.OTHER, Reach.ANY],
    ]
)
"""For what is known of a socket's namespace: that of the flows which may be its own, best first."""


def match_endpoints(
    words: Keys, reach: Integers, flows: Keys, used_at: Times, packer: FlowPacker
) -> Integers:
    """Return the row in `flows` of each socket, ABSENT where it has none.

    `words` are those of flows of sockets, without names; `reach` is of Reach. `flows` are words of
    a table with this `packer`, which were used at these times.
    """
    rows = _find_candidates(words, flows)
    rows = rows[used_at[rows].argsort(kind="stable")]
    namespaces = flows[rows].view(FLOW_WORDS)["namespace"][:, 0].astype(np.int64)
    reached = _find_reach(namespaces, packer)
    tried = _TRIED[reach]
    keys = np.concatenate(
        [
            _make_keys(flows[rows], reached),
            _make_keys(np.repeat(words, tried.shape[1], axis=0), tried.ravel()),
        ]
    )
    first, groups = find_groups(keys)
    of_flows, of_sockets = groups[: len(rows)], groups[len(rows) :]
    row_of = np.full(len(first), ABSENT, np.int64)
    row_of[of_flows] = rows  # of several, the last one stays
    seen = np.full(len(first), ABSENT, np.int64)
    seen[of_flows] = namespaces
    row_of[of_flows[seen[of_flows] != namespaces]] = ABSENT
    found = row_of[of_sockets].reshape(tried.shape)
    return np.asarray(found[np.arange(len(words)), (found != ABSENT).argmax(axis=1)])


def _find_candidates(words: Keys, flows: Keys) -> Integers:
    """Return the rows of TCP flows that have the local port of a socket and the remote of one."""
    parts = flows.view(FLOW_WORDS)[:, 0]
    wanted = words.view(FLOW_WORDS)[:, 0]
    is_candidate = (parts["protocol"] == TCP) & (parts["remote_size"] != 0)
    for name in ("local_port", "remote_port"):
        has_port = np.zeros(_PORTS, np.bool_)
        has_port[wanted[name]] = True
        is_candidate &= has_port[parts[name]]
    return np.flatnonzero(is_candidate)


def _find_reach(namespaces: Integers, packer: FlowPacker) -> Integers:
    """Return what is known of namespaces with these numbers."""
    reached = np.full(len(namespaces), int(Reach.OTHER), np.int64)
    for name, reach in ((OWN_NAMESPACE, Reach.OWN), (None, Reach.ANY)):
        if (number := packer.namespaces.find(name)) is not None:
            reached[namespaces == number] = reach
    return reached


def _make_keys(words: Keys, reached: Integers) -> Keys:
    """Return the endpoints of flows, with what is known of namespaces in place of their numbers."""
    keys = words.copy()
    parts = keys.view(FLOW_WORDS)[:, 0]
    parts["interface"] = 0
    parts["namespace"] = reached
    return keys
