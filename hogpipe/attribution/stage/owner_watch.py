"""Notices the exits of owners of flows without connections.

In: owners, once a flow of theirs goes on, and the exits of processes. Out: when an owner has
exited. The flow table records which owners are watched, so that flows of one that has exited leave
the fast lane.

Bounds: `_MAX_OWNERS` owners, more than `ProcessExits` watches; the one watched longest ago is
dropped. It is watched again when one of its flows is judged, and its exit is noticed then.

Threads: the thread of the source polls, the event loop watches and asks; both hold the lock of the
table.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

import msgspec

from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import Attribution

_MAX_OWNERS = 1024


class OwnerLifetime(Protocol):
    """When the owner of a flow has exited."""

    exited_ns: int | None
    """Nanoseconds since the epoch, at the latest; None while it lives."""


class OwnerExits(Protocol):
    """Notices the exits of processes, as `linux.process_exits.ProcessExits` does."""

    def watch(self, process: ProcessIdentity, /) -> OwnerLifetime:
        """Return when a process has exited; `poll` updates what is returned."""

    def poll(self) -> Iterable[ProcessIdentity]:
        """Record the exits until now, and return the processes that have exited."""


class _Watched(msgspec.Struct, eq=False, gc=False):
    lifetime: OwnerLifetime
    attributions: list[Attribution]
    """Those that name the process."""


class OwnerWatch:
    """Watches owners by `exits`."""

    def __init__(self, exits: OwnerExits, table: FlowTable) -> None:
        self._exits = exits
        self._table = table
        self._owners: OrderedDict[ProcessIdentity, _Watched] = OrderedDict()
        """The owner watched longest ago comes first."""

    def poll(self) -> None:
        """Take the flows of owners that have exited off the fast lane."""
        with self._table.lock:
            for process in self._exits.poll():
                watched = self._owners.get(process)
                for attribution in () if watched is None else watched.attributions:
                    self._table.set_watched(attribution, is_watched=False)

    def exited_ns(self, attribution: Attribution) -> int | None:
        """Return when the owner was seen to have exited; None if it lives or is not watched."""
        process = attribution.process
        if process is None or process.start is None:
            return None
        watched = self._owners.get(ProcessIdentity(process.pid, process.start))
        return None if watched is None else watched.lifetime.exited_ns

    def watch(self, attribution: Attribution) -> None:
        """Watch an owner, of which a flow goes on; one without a start time never exits."""
        process = attribution.process
        with self._table.lock:
            if process is None or process.start is None:
                self._table.set_watched(attribution, is_watched=True)
                return
            identity = ProcessIdentity(process.pid, process.start)
            watched = self._owners.pop(identity, None)
            if watched is None or watched.lifetime.exited_ns is None:
                # Whoever was dropped there, as others are watched, is watched again.
                lifetime = self._exits.watch(identity)
                watched = _Watched(lifetime, [] if watched is None else watched.attributions)
            self._owners[identity] = watched
            if attribution not in watched.attributions:
                # A process may be described otherwise again and again: only those in use are kept.
                in_use = filter(self._table.has_owner, watched.attributions)
                watched.attributions = [*in_use, attribution]
            is_watched = watched.lifetime.exited_ns is None
            self._table.set_watched(attribution, is_watched=is_watched)
            if len(self._owners) > _MAX_OWNERS:
                self._owners.popitem(last=False)
