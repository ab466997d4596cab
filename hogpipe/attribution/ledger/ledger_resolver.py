"""From flows to their owners: first what the kernel told (the ledger), then what /proc shows.

What the ledger is not sure of is put to /proc, and what that does not know either to the ledger
again: a socket that was still open at the first question, its port untold, may have been released
by then. Which of the two is believed is for `weighing` to say. Where several had a flow in turn
meanwhile, only the ledger can tell whose the pieces were; /proc shows none but the last one.

Without a ledger, because it cannot be had and need not, all flows are put to /proc.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hogpipe.attribution.ledger.ledger_access import LedgerAccess
from hogpipe.attribution.ledger.precedence import Owners, choose, is_enough
from hogpipe.attribution.ledger.socket_snapshot import inodes_of, make_seeds, read_sockets
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import (
    FlowSpans,
    Resolution,
)
from hogpipe.errors import HogpipeError
from hogpipe.linux.cgroups import in_initial_cgroup_namespace
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import (
    MOST_SOCKETS,
    UNATTRIBUTED,
    Attribution,
    Contested,
    FlowKey,
    Owner,
    Process,
    ResolverCounts,
    Span,
)

log = logging.getLogger(__name__)

_GONE_KEPT = 4096
_SEEDS_PAUSE = 5.0  # seconds between two readings of all sockets, at some 10 us each


class LedgerResolver:
    """Asks a ledger and `resolver`, of the same procfs; `prepare` opens it by `open_access`.

    Where that fails and the ledger is `required`, `prepare` raises HogpipeError; else it logs why.
    Blocking; for one thread at a time, but for `infer` and `recall`.
    """

    def __init__(
        self,
        resolver: ProcfsResolver,
        procfs: Path,
        *,
        required: bool,
        open_access: Callable[[Path], LedgerAccess],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = resolver
        self._processes = resolver.processes
        self._procfs = procfs
        self._required = required
        self._open_access = open_access
        self._clock = clock
        self._ledger: LedgerAccess | None = None
        self._seeds_due = 0.0
        self._gone: dict[Owner, Process] = {}
        """Equal answers are the same object."""

    def prepare(self) -> None:
        """Open the ledger, then read what was there: of a socket made meanwhile one tells."""
        try:
            self._ledger = self._open_access(self._procfs)
        except HogpipeError as error:
            if self._required:
                raise
            log.info("owners come from %s, not from the ledger: %s", self._procfs, error)
        else:
            where = (
                "" if in_initial_cgroup_namespace() else ", of this container's control groups only"
            )
            log.info("owners come from the ledger (eBPF%s), and from %s", where, self._procfs)
        self._begin()

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        """Return what is known of `flows`; one without a socket may be absent, to be asked again.

        A UDP socket that is gone and has not been told yet may be told when it is released.
        """
        if self._ledger is None:
            return self._resolver.resolve(flows)
        now = self._clock()
        if now >= self._seeds_due and self._ledger.needs_snapshot():
            self._seeds_due = now + _SEEDS_PAUSE
            with suppress(OSError):  # it stays in doubt, and is tried again
                self._seed_again(self._ledger, now)
        owners = Owners(self._processes, self._describe_gone, now)
        told = self._ledger.ask(flows, now)
        in_turn = told.in_turn
        found = {
            flow: owners.resolve(flow, entry)
            for flow, entry in told.known.items()
            if is_enough(flow, entry, owners)
        }
        rest = {
            flow: pieces
            for flow, pieces in flows.items()
            if flow not in found and flow not in in_turn
        }
        if rest:
            shown = self._resolver.resolve(rest)
            again = self._ledger.ask(rest, now)
            found |= choose(rest, shown, again, owners)
            in_turn |= again.in_turn
        for flow, entries in in_turn.items():
            found[flow] = owners.resolve_by_span(entries)
        return found

    def _begin(self) -> None:
        """Read ahead, and let the ledger know the sockets that are there already."""
        if self._ledger is None:
            self._resolver.prepare()
            return
        sockets = read_sockets(self._ledger.namespaces, self._clock(), MOST_SOCKETS)
        self._resolver.prepare()
        holders = self._resolver.recall_owners(inodes_of(sockets))
        self._ledger.ingest_snapshot(make_seeds(sockets, holders))

    def _seed_again(self, ledger: LedgerAccess, now: float) -> None:
        """Let the ledger know the sockets that were made while events were lost."""
        ledger.begin_snapshot()
        sockets = read_sockets(ledger.namespaces, now, MOST_SOCKETS)
        holders = self._resolver.recall_owners(inodes_of(sockets))
        missing = {one.inode: one.user_id for one in sockets if one.inode not in holders}
        ledger.ingest_snapshot(make_seeds(sockets, holders | self._resolver.find_owners(missing)))

    def infer(self, flow: FlowKey) -> Attribution:
        """Return what follows from what was seen in /proc; from any thread."""
        return self._resolver.infer(flow)

    def recall(self, flow: FlowKey, span: Span | None) -> Attribution | None:
        """Return what the ledger knows of a flow of our own namespace; from any thread."""
        entry = None if self._ledger is None else self._ledger.recall(flow, span)
        if entry is None:
            return None
        if isinstance(entry, Contested):
            return UNATTRIBUTED
        return Attribution(entry.quality, self._remember(entry.owner))

    def counts(self) -> ResolverCounts:
        """Return the counters as they stand."""
        counts = self._resolver.counts()
        if self._ledger is not None:
            counts.ledger = self._ledger.counts()
        return counts

    def close(self) -> None:
        """Close the ledger: nothing stays attached to the kernel."""
        if self._ledger is not None:
            self._ledger.close()
        self._resolver.close()

    def _remember(self, owner: Owner) -> Process:
        """Return an owner as it was described last, or without what it would take a wait to know.

        From any thread: the event loop must not wait for the name of a user.
        """
        process = None
        if owner.start is not None:
            process = self._processes.cached(ProcessIdentity(owner.pid, owner.start))
        return process or self._gone.get(owner) or self._describe(owner, waits=False)

    def _describe_gone(self, owner: Owner) -> Process:
        if owner not in self._gone:
            if len(self._gone) >= _GONE_KEPT:
                self._gone.clear()
            self._gone[owner] = self._describe(owner, waits=True)
        return self._gone[owner]

    def _describe(self, owner: Owner, *, waits: bool) -> Process:
        return self._processes.describe_exited(
            owner.pid, owner.start, owner.command, owner.user_id, owner.cgroup_path, may_block=waits
        )
