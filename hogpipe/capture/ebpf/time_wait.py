"""The last two packets of connections that were closed here first, which pass no hook.

In: rows of connections that the kernel freed while the peer's FIN was still to come. Out: the same
rows, each once, with the peer's FIN and this host's ACK of it as their counters. sock_diag is
queried; nothing raises.

Background
----------
When no process has the socket any more and the peer has acknowledged our FIN, the kernel replaces
the socket by a struct tcp_timewait_sock, which answers the peer's FIN itself. sock_diag reports it
under the socket's cookie: in FIN_WAIT2 until the FIN was received and acknowledged, and for a
minute more in TIME_WAIT. So a connection in TIME_WAIT has had both packets. Neither has a payload,
since the kernel refuses a FIN with data here, and both have the headers of the connection's other
packets.

Algorithm
---------
A connection is queried at the end of its epoch. The pause before each further query is its age, but
at least half a second and at most 30 s. A connection in neither state is dropped: the peer has
reset it, or the minute that the kernel waits for a FIN (tcp_fin_timeout) is over. While its network
namespace cannot be entered, a connection is kept for up to a minute.

Known limits: retransmissions of the FIN, and RSTs in answer to a peer that sends data, are not
counted.

Sources: tcp_timewait_state_process of net/ipv4/tcp_minisocks.c, inet_twsk_diag_fill of
net/ipv4/inet_diag.c, RFC 7323 (timestamps).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import TIMESTAMPS, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import Endpoints, Rows, decode_endpoints, join_rows, pick_rows
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.sock_diag import read_socket_states

_GONE, _FIN_WAIT2, _TIME_WAIT = 0, 5, 6  # include/net/tcp_states.h
_NOT_READ = 0xFF
_MAX_AGE = 60.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_HEADER_BYTES = {4: 40, 16: 60}  # of IP and TCP, by the length of an address
_TIMESTAMPS_BYTES = 12  # with their padding


class TimeWaitTracker:
    """The connections whose FIN is still to come, `max_connections` at the most.

    The oldest are evicted. For one thread at a time; blocks for 5 us a connection. Times are
    seconds of one clock.
    """

    def __init__(self, namespaces: NetworkNamespaces, max_connections: int = 65_536) -> None:
        self._namespaces = namespaces
        self._max_connections = max_connections
        # One element of each for each connection.
        self._rows = np.zeros(0, TRAFFIC_ROW)
        self._since = np.zeros(0)
        self._next_query = np.zeros(0)

    def add(self, rows: Rows, now: float) -> None:
        """Add connections that the kernel freed."""
        if not len(rows):
            return
        times = np.full(len(rows), now)
        most = self._max_connections
        self._rows = join_rows(self._rows, rows)[-most:]
        self._since = np.concatenate([self._since, times])[-most:]
        self._next_query = np.concatenate([self._next_query, times])[-most:]

    def take_closed(self, now: float, *, last: bool = False) -> Rows:
        """Return and remove the connections that the peer has closed, with their two packets.

        Only connections whose next query is due are examined; with `last`, all.
        """
        if not len(self._rows):
            return self._rows
        due = np.flatnonzero(self._next_query <= (np.inf if last else now))
        if not len(due):
            return self._rows[:0]
        states = self._read_states(self._rows[due], now)
        age = now - self._since[due]
        self._next_query[due] = now + age.clip(_SHORTEST_PAUSE, _LONGEST_PAUSE)
        closed = pick_rows(self._rows, due[states == _TIME_WAIT])
        stays = (states == _FIN_WAIT2) | ((states == _NOT_READ) & (age < _MAX_AGE))
        self._remove(due[~stays])
        return _with_two_packets(closed)

    def _remove(self, positions: NDArray[np.intp]) -> None:
        self._rows = np.delete(self._rows, positions)
        self._since = np.delete(self._since, positions)
        self._next_query = np.delete(self._next_query, positions)

    def _read_states(self, rows: Rows, now: float) -> NDArray[np.uint8]:
        """Return the TCP state of each connection, _GONE or _NOT_READ."""
        states = np.full(len(rows), _NOT_READ, np.uint8)
        for namespace in np.unique(rows["namespace"]).tolist():
            positions = np.flatnonzero(rows["namespace"] == namespace)
            query = partial(_read_states, decode_endpoints(rows[positions]))
            # None if the namespace cannot be entered now, or the kernel has no sock_diag.
            answers = self._namespaces.call_in(namespace, query, now)
            if answers is not None:
                cookies, found = np.array(answers, np.uint64).T
                is_same = cookies == rows["cookie"][positions]
                states[positions] = np.where(is_same, found, _GONE)
        return states


def _read_states(endpoints: Sequence[Endpoints]) -> list[tuple[int, int]]:
    return read_socket_states(
        [
            (one.local_address, one.local_port, one.remote_address, one.remote_port)
            for one in endpoints
        ]
    )


def _with_two_packets(rows: Rows) -> Rows:
    """Set the counters of rows to a packet without payload in each direction."""
    for position, endpoints in enumerate(decode_endpoints(rows)):
        size = _HEADER_BYTES[len(endpoints.local_address)]
        if rows["flags"][position] & TIMESTAMPS:
            size += _TIMESTAMPS_BYTES
        rows["counts"][position] = size, 1, size, 1
    return rows
