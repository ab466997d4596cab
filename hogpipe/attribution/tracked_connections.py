"""Asks conntrack about connections, in this network namespace and in those of containers.

In: tuples by namespace. Out: the connection of each tuple that the kernel tracks there. Nothing is
raised but OSError if /proc cannot be listed: a namespace that cannot be asked has no connections,
and the log says so once, of this namespace and of others.

The kernel keeps connections apart by network namespace, and ctnetlink answers for the namespace
that its socket was opened in. Of another namespace a short-lived thread opens one there. No such
socket stays open: it would keep the namespace of a removed container alive.

Cost. A namespace without tuples is not entered. Entering one takes 0.15 ms of CPU, a query 16 us;
where the kernel tracks no connection, none is sent. A lookup enters at most `_MAX_ENTERED`
namespaces, those first that were asked the longest time ago; the others are left to the next one.

Rights: CAP_NET_ADMIN in the namespace that is asked, and CAP_SYS_ADMIN to enter another one.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hogpipe.linux import ctnetlink
from hogpipe.linux.ctnetlink_messages import Connection, ConnectionTuple
from hogpipe.linux.netns.cookies import call_inside
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.model import OWN_NAMESPACE
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

_MAX_ENTERED = 32  # namespaces in a lookup

Connections = Sequence[Connection | None]
ReadConnections = Callable[[Sequence[ConnectionTuple]], Connections]


def read_tracked(tuples: Sequence[ConnectionTuple]) -> Connections:
    """Return the connection of each tuple, without a query if the kernel tracks none."""
    if not ctnetlink.has_connections():
        return [None] * len(tuples)
    return ctnetlink.read_connections(tuples)


class TrackedConnections:
    """Asks the namespaces of the processes that `processes` finds. For one thread at a time.

    `clock` returns seconds; `read` asks the namespace of the thread that calls it.
    """

    def __init__(
        self,
        procfs: Path,
        processes: NamespaceProcesses,
        *,
        clock: Callable[[], float] = time.monotonic,
        read: ReadConnections = read_tracked,
        max_entered: int = _MAX_ENTERED,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._read = read
        self._max_entered = max_entered
        self._lookup = 0
        self._asked_in: dict[int, int] = {}
        """By namespace: the number of the lookup that asked it last."""
        self._logged: set[bool] = set()
        """Failures that have been logged: of this namespace (True), of another one (False)."""

    def find(self, tuples: Mapping[int, Sequence[ConnectionTuple]]) -> dict[int, Connections]:
        """Return the connections of tuples by namespace; those left to the next lookup are absent.

        Raises OSError if the processes of other namespaces cannot be listed.
        """
        others = [namespace for namespace in tuples if namespace != OWN_NAMESPACE]
        asked = self._choose(others) if others else []
        if OWN_NAMESPACE in tuples:
            asked.append(OWN_NAMESPACE)
        return {namespace: self._ask(namespace, tuples[namespace]) for namespace in asked}

    def _choose(self, namespaces: Sequence[int]) -> list[int]:
        """Return which other namespaces this lookup asks."""
        if any(self._processes.find_process(namespace) is None for namespace in namespaces):
            self._processes.refresh(self._clock())
        present = self._processes.by_namespace().keys()
        self._asked_in = {one: number for one, number in self._asked_in.items() if one in present}
        self._lookup += 1
        asked = sorted(namespaces, key=lambda one: self._asked_in.get(one, 0))[: self._max_entered]
        self._asked_in |= dict.fromkeys(asked, self._lookup)
        return asked

    def _ask(self, namespace: int, tuples: Sequence[ConnectionTuple]) -> Connections:
        """Return the connections of tuples in a namespace; none if it cannot be asked."""
        is_own = namespace == OWN_NAMESPACE
        nothing = [None] * len(tuples)
        try:
            found = self._read(tuples) if is_own else self._read_inside(namespace, tuples)
        except OSError as error:
            self._log_failure(error, is_own=is_own)
            return nothing
        return nothing if found is None else found

    def _read_inside(self, namespace: int, tuples: Sequence[ConnectionTuple]) -> Connections | None:
        """Return the connections of tuples in another namespace; None if no process is in it."""
        pid = self._processes.find_process(namespace)
        if pid is None:
            return None
        return call_inside(pid, namespace, partial(self._read, tuples), self._procfs)

    def _log_failure(self, error: OSError, *, is_own: bool) -> None:
        if is_own in self._logged:
            return
        self._logged.add(is_own)
        if is_own:
            log.warning(
                "conntrack cannot be asked (CAP_NET_ADMIN is needed): %s; traffic that this host "
                "translates (NAT) is recorded a second time, without an owner",
                describe_error(error),
            )
        else:
            log.warning(
                "conntrack of containers cannot be asked (CAP_SYS_ADMIN and CAP_NET_ADMIN are "
                "needed): %s; traffic that a container translates (NAT) for others is recorded a "
                "second time, without an owner",
                describe_error(error),
            )
