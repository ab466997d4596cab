"""From flows to their owners: first what the kernel told (the ledger), then what /proc shows.

What the ledger knows exactly is taken, and datagrams by their port while who bound it lives; but
not where the owner is gone and may have left an open socket to another process, as daemons do that
connect before they fork. All else is put to /proc, and what that does not know either to the ledger
again: a socket that was still open at the first question, its port untold, may have been released
by then. Of an accepted connection /proc knows more where it finds the connection itself, or where
who bound the port is gone and another serves it; else the ledger's word is taken, which holds for
the time when the packets passed.

Without a ledger, because it cannot be had and need not, all flows are put to /proc.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache, lru_cache
from pathlib import Path
from socket import IPPROTO_UDP

from hogpipe.attribution.contract import ResolverCounts
from hogpipe.attribution.kinship import Identity
from hogpipe.attribution.ledger_access import LedgerAccess, open_ledger
from hogpipe.attribution.processes import ProcessReader
from hogpipe.attribution.resolver import ProcfsResolver
from hogpipe.attribution.seeding import inodes_of, make_seeds, read_sockets
from hogpipe.bpf.cgroup_tree import sees_whole_host
from hogpipe.errors import HogpipeError
from hogpipe.ledger.contract import MOST_SOCKETS, LedgerEntry, Owner
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Process, Quality

log = logging.getLogger(__name__)

_GONE_KEPT = 4096
_DATAGRAMS = frozenset({IPPROTO_UDP, 136})  # the latter is UDP-Lite


class LedgerResolver:
    """Asks a ledger and `resolver`, of the same procfs; `prepare` opens the ledger.

    Where that fails and the ledger is `required`, `prepare` raises HogpipeError; else it logs why.
    Blocking; for one thread at a time, but for `infer`, `recall` and `take_stale`.
    """

    def __init__(
        self,
        resolver: ProcfsResolver,
        procfs: Path,
        *,
        required: bool,
        open_access: Callable[[Path], LedgerAccess] = open_ledger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = resolver
        self._processes = resolver.processes
        self._procfs = procfs
        self._required = required
        self._open_access = open_access
        self._clock = clock
        self._ledger: LedgerAccess | None = None
        self._told: Mapping[FlowKey, LedgerEntry] = {}
        """What the ledger knew in the last look-up."""
        self._describe_gone = lru_cache(maxsize=_GONE_KEPT)(self._describe)

    def prepare(self) -> None:
        """Open the ledger, then read what was there: of a socket made meanwhile one tells."""
        try:
            self._ledger = self._open_access(self._procfs)
        except HogpipeError as error:
            if self._required:
                raise
            log.info("owners come from %s, not from the ledger: %s", self._procfs, error)
        else:
            where = "" if sees_whole_host() else ", of this container's control groups only"
            log.info("owners come from the ledger (eBPF%s), and from %s", where, self._procfs)
        self._begin()

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Attribution]:
        """Return what is known of `flows`; one without a socket may be absent, to be asked again.

        A UDP socket that is gone and has not been told yet may be told when it is released.
        """
        if self._ledger is None:
            return self._resolver.resolve(flows)
        now = self._clock()
        owners = _Owners(self._processes, self._describe_gone, now)
        known = self._ledger.ask(flows, now)
        found = {
            flow: Attribution(entry.quality, owners.describe(entry.owner))
            for flow, entry in known.items()
            if _is_enough(flow, entry, owners)
        }
        rest = [flow for flow in flows if flow not in found]
        if rest:
            shown = self._resolver.resolve(rest)
            told = self._ledger.ask(rest, now)
            found |= _choose(rest, shown, told, owners)
            known |= told
        self._told = known
        return found

    def _begin(self) -> None:
        """Read ahead, and let the ledger know the sockets that are there already."""
        if self._ledger is None:
            self._resolver.prepare()
            return
        sockets = read_sockets(self._ledger.names, self._clock(), MOST_SOCKETS)
        self._resolver.prepare()
        holders = self._resolver.recall_owners(inodes_of(sockets))
        self._ledger.seed(make_seeds(sockets, holders))

    def infer(self, flow: FlowKey) -> Attribution:
        """Return what follows from what was seen in /proc; from any thread."""
        return self._resolver.infer(flow)

    def recall(self, flow: FlowKey) -> Attribution | None:
        """Return what the ledger knows of a flow of our own namespace; from any thread."""
        entry = None if self._ledger is None else self._ledger.recall(flow)
        if entry is None:
            return None
        process = None
        if entry.owner.start is not None:
            process = self._processes.remember(Identity(entry.owner.pid, entry.owner.start))
        return Attribution(entry.quality, process or self._describe_gone(entry.owner))

    def can_wait(self, flow: FlowKey, answer: Attribution) -> bool:
        """Return whether the ledger told of `flow` just now, as it would have done later.

        Also whether /proc would have shown the same later. From any thread.
        """
        return flow in self._told or self._resolver.can_wait(flow, answer)

    def may_pass_on(self, flow: FlowKey) -> bool:
        """Return whether the ledger told of this exchange of datagrams by its own socket."""
        entry = self._told.get(flow)
        exact = entry is not None and entry.quality is Quality.EXACT
        return exact and flow.protocol in _DATAGRAMS

    def take_stale(self) -> Collection[FlowKey]:
        """Return the flows whose sockets have passed to others, or were released; any thread."""
        return () if self._ledger is None else self._ledger.take_stale()

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

    def _describe(self, owner: Owner) -> Process:
        return self._processes.describe_gone(
            owner.pid, owner.start, owner.command, owner.user_id, owner.cgroup_path
        )


class _Owners:
    """The processes that a ledger has named, each looked at once; made anew for each look."""

    def __init__(
        self, processes: ProcessReader, describe_gone: Callable[[Owner], Process], now: float
    ) -> None:
        self._processes = processes
        self._describe_gone = describe_gone
        self._now = now
        self.describe = cache(self._describe)
        """Return an owner as /proc shows it, or as the kernel told it where it is gone."""
        self.is_there = cache(self._is_there)
        """Tell whether an owner lives."""

    def _describe(self, owner: Owner) -> Process:
        process = None
        if owner.start is not None:
            process = self._processes.find(Identity(owner.pid, owner.start), self._now)
        return process or self._describe_gone(owner)

    def _is_there(self, owner: Owner) -> bool:
        start = owner.start
        return start is not None and self._processes.is_there(Identity(owner.pid, start))


def _choose(
    flows: Collection[FlowKey],
    shown: Mapping[FlowKey, Attribution],
    told: Mapping[FlowKey, LedgerEntry],
    owners: _Owners,
) -> dict[FlowKey, Attribution]:
    """Return the better of what /proc has shown and what the ledger has told.

    A UDP flow without a socket is left out: its port may be told only when that is released.
    """
    chosen = {}
    for flow in flows:
        entry, answer = told.get(flow), shown.get(flow)
        if entry is not None and not _is_better(answer, entry, owners):
            chosen[flow] = Attribution(entry.quality, owners.describe(entry.owner))
        elif answer is not None and (answer != UNATTRIBUTED or flow.protocol not in _DATAGRAMS):
            chosen[flow] = answer
    return chosen


def _is_enough(flow: FlowKey, entry: LedgerEntry, owners: _Owners) -> bool:
    """Tell whether /proc cannot know more than the ledger."""
    if entry.quality is Quality.EXACT:
        return not entry.lasting or owners.is_there(entry.owner)
    return flow.protocol in _DATAGRAMS and owners.is_there(entry.owner)


def _is_better(answer: Attribution | None, entry: LedgerEntry, owners: _Owners) -> bool:
    """Tell whether /proc knows more than the ledger."""
    if answer is None or answer.process is None or answer.quality is Quality.INFERRED:
        return False
    if entry.quality is Quality.EXACT:
        # Who connected is gone, and may have left the socket to a child.
        was_left = entry.lasting and not owners.is_there(entry.owner)
        return was_left and answer.quality is Quality.EXACT
    return answer.quality is Quality.EXACT or not owners.is_there(entry.owner)
