"""The last two packets of connections that were closed here first, which pass no hook.

A socket that nobody holds does not wait for its peer to close: once the peer has acknowledged our
FIN, the kernel keeps only what it takes to answer the peer's (struct tcp_timewait_sock), and does
that beside the socket. sock_diag shows what it keeps, by the number of the socket: in FIN_WAIT2
until the peer's FIN has come and was acknowledged, and for a minute more in TIME_WAIT. So what is
told has passed. Both packets are bare, since a FIN with data is refused, and have the headers that
all of the connection have.

Not told: what was sent again, and the answer (RST) to what a peer sends that does not close.

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

_FIN_WAIT2, _TIME_WAIT = 5, 6  # include/net/tcp_states.h
_UNKNOWN = 0xFF
# What is in FIN_WAIT2 is gone after a minute (tcp_fin_timeout), what came to TIME_WAIT a minute
# later: so there is always time to ask again.
_LIFETIME = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_HEADERS = {4: 40, 16: 60}  # of IP and TCP, by the length of an address
_TIMESTAMPS_BYTES = 12  # with their padding


class TimeWaitTracker:
    """The connections whose peers have yet to close. For one thread at a time; blocks shortly.

    Of more than `most` those that wait longest are forgotten. Times are seconds of one clock.
    """

    def __init__(self, namespaces: NetworkNamespaces, most: int = 65_536) -> None:
        self._namespaces = namespaces
        self._most = most
        self._waiting = np.zeros(0, TRAFFIC_ROW)
        self._since = np.zeros(0)
        self._ask_at = np.zeros(0)

    def note(self, entries: Rows, now: float) -> None:
        """Take in connections that the kernel let go of."""
        if not len(entries):
            return
        times = np.full(len(entries), now)
        self._waiting = join_rows(self._waiting, entries)[-self._most :]
        self._since = np.concatenate([self._since, times])[-self._most :]
        self._ask_at = np.concatenate([self._ask_at, times])[-self._most :]

    def find_ended(self, now: float, *, last: bool = False) -> Rows:
        """Return those whose peers have closed since, each with the two packets.

        Not all are asked for each time, but with `last`.
        """
        if not len(self._waiting):
            return self._waiting
        due = np.flatnonzero(self._ask_at <= (np.inf if last else now))
        if not len(due):
            return self._waiting[:0]
        states = self._read_states(self._waiting[due], now)
        age = now - self._since[due]
        self._ask_at[due] = now + age.clip(_FIRST_PAUSE, _LONGEST_PAUSE)
        ended = pick_rows(self._waiting, due[states == _TIME_WAIT])
        stays = (states == _FIN_WAIT2) | ((states == _UNKNOWN) & (age < _LIFETIME))
        self._keep_all_but(due[~stays])
        return _with_counts(ended)

    def _keep_all_but(self, places: NDArray[np.intp]) -> None:
        self._waiting = np.delete(self._waiting, places)
        self._since = np.delete(self._since, places)
        self._ask_at = np.delete(self._ask_at, places)

    def _read_states(self, entries: Rows, now: float) -> NDArray[np.uint8]:
        """Return the state of each, 0 for what is gone."""
        states = np.full(len(entries), _UNKNOWN, np.uint8)
        for namespace in np.unique(entries["namespace"]).tolist():
            places = np.flatnonzero(entries["namespace"] == namespace)
            ends = decode_endpoints(entries[places])
            # None where the namespace cannot be entered now, or the kernel has no sock_diag.
            answers = self._namespaces.call_in(namespace, partial(_ask, ends), now)
            if answers is not None:
                cookies, found = np.array(answers, np.uint64).T
                states[places] = np.where(cookies == entries["cookie"][places], found, 0)
        return states


def _ask(ends: Sequence[Endpoints]) -> list[tuple[int, int]]:
    return read_socket_states(
        [(one.local_address, one.local_port, one.remote_address, one.remote_port) for one in ends]
    )


def _with_counts(entries: Rows) -> Rows:
    """Return entries with a packet each way, without a payload."""
    for place, ends in enumerate(decode_endpoints(entries)):
        size = _HEADERS[len(ends.local_address)]
        if entries["flags"][place] & TIMESTAMPS:
            size += _TIMESTAMPS_BYTES
        entries["counts"][place] = size, 1, size, 1
    return entries
