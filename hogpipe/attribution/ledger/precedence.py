"""Whether the kernel's word (the ledger) or that of /proc tells more of whose a flow is.

What the ledger knows exactly is taken, and datagrams by their port while who bound it lives or when
its socket is known to be gone; but not where the owner is gone and may have left an open socket to
another process, as daemons do that connect before they fork. Of an accepted connection /proc knows
more where it finds the connection itself, or where who bound the port is gone and another serves
it; else the ledger's word is taken, which holds for the time when the packets passed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache

from hogpipe.attribution.ledger.ledger_access import Told
from hogpipe.attribution.resolver import Resolution
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    LedgerEntry,
    Owner,
    Process,
    Quality,
)
from hogpipe.protocols import DATAGRAMS


class Owners:
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

    def resolve(self, flow: FlowKey, entry: LedgerEntry) -> Resolution:
        """Return what an answer of the ledger says of a flow."""
        return Resolution(
            self._attribute(entry), is_final=True, may_be_reused=_may_be_reused(flow, entry)
        )

    def resolve_by_span(self, entries: Iterable[LedgerEntry | None]) -> Resolution:
        """Return what the ledger says of a flow that several had in turn, span by span."""
        by_span = tuple(map(self._attribute, entries))
        return Resolution(UNATTRIBUTED, is_final=True, owners_by_span=by_span)

    def _attribute(self, entry: LedgerEntry | None) -> Attribution:
        if entry is None:
            return UNATTRIBUTED
        return Attribution(entry.quality, self.describe(entry.owner))

    def _describe(self, owner: Owner) -> Process:
        process = None
        if owner.start is not None:
            process = self._processes.find(ProcessIdentity(owner.pid, owner.start), self._now)
        return process or self._describe_gone(owner)

    def _is_there(self, owner: Owner) -> bool:
        start = owner.start
        return start is not None and self._processes.is_alive(ProcessIdentity(owner.pid, start))


def choose(
    flows: Collection[FlowKey],
    shown: Mapping[FlowKey, Resolution],
    told: Told,
    owners: Owners,
) -> dict[FlowKey, Resolution]:
    """Return the better of what /proc has shown and what the ledger has told.

    A UDP flow without a socket is left out: its port may be told only when that is released.
    """
    chosen = {}
    for flow in flows:
        entry, resolution = told.known.get(flow), shown.get(flow)
        answer = None if resolution is None else resolution.attribution
        if entry is not None and not _is_better(flow, answer, entry, owners):
            chosen[flow] = owners.resolve(flow, entry)
        elif resolution is not None and (answer != UNATTRIBUTED or flow.protocol not in DATAGRAMS):
            chosen[flow] = resolution if entry is None else _as_recorded(flow, resolution, entry)
    return chosen


def is_enough(flow: FlowKey, entry: LedgerEntry, owners: Owners) -> bool:
    """Tell whether /proc cannot know more than the ledger."""
    if entry.quality is Quality.EXACT:
        return not entry.lasting or owners.is_there(entry.owner)
    return flow.protocol in DATAGRAMS and (entry.over or owners.is_there(entry.owner))


def _may_be_reused(flow: FlowKey, entry: LedgerEntry) -> bool:
    """Tell whether the port of an exchange of datagrams passes on with its own socket."""
    return entry.quality is Quality.EXACT and flow.protocol in DATAGRAMS


def _as_recorded(flow: FlowKey, shown: Resolution, entry: LedgerEntry) -> Resolution:
    """Return the attribution of /proc, which is final where the ledger knows the socket."""
    return Resolution(shown.attribution, is_final=True, may_be_reused=_may_be_reused(flow, entry))


def _is_better(
    flow: FlowKey, answer: Attribution | None, entry: LedgerEntry, owners: Owners
) -> bool:
    """Tell whether /proc knows more than the ledger."""
    if entry.over and flow.protocol in DATAGRAMS:
        return False  # who has the port now is another
    if answer is None or answer.process is None or answer.quality is Quality.INFERRED:
        return False
    if entry.quality is Quality.EXACT:
        # Who connected is gone, and may have left the socket to a child.
        was_left = entry.lasting and not owners.is_there(entry.owner)
        return was_left and answer.quality is Quality.EXACT
    return answer.quality is Quality.EXACT or not owners.is_there(entry.owner)
