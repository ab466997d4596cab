"""The resolver that asks the ledger first, then /proc.

In: flows with the spans in which their packets passed. Out: a Resolution for each.

Algorithm
---------
1. The ledger is asked about all flows. Conclusive entries (`precedence`) are final.
2. Flows that have no socket of their own there belong to the process that the kernel recorded as
   sending them through a packet socket, if there is one.
3. The other flows are looked up in /proc, then in the ledger once more: a socket that was open at
   the first lookup, its port unknown, may have been released meanwhile.
4. `precedence` chooses between the two sources. The ledger records whether the owner of a lasting
   socket still holds it (`SocketLedger.record_comparison`).

A contested flow (several processes used the five-tuple one after the other) is the ledger's alone,
span by span: /proc shows the last process only.

Where the ledger is not available and not required, all flows are looked up in /proc.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hogpipe.attribution.ledger.flow_lookup import FlowLookup, LedgerMatches
from hogpipe.attribution.ledger.owner_processes import (
    LookupOwners,
    OwnerProcesses,
    describe_owner,
    reports_release,
)
from hogpipe.attribution.ledger.precedence import choose, is_conclusive, is_held_by_owner
from hogpipe.attribution.ledger.socket_ledger import OpenLedger
from hogpipe.attribution.ledger.socket_snapshot import SnapshotTaker
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import FlowsInSpans, FlowSpans, Resolution
from hogpipe.errors import HogpipeError
from hogpipe.linux.cgroups import covers_host
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    Contested,
    FlowDelta,
    FlowKey,
    LedgerEntry,
    Quality,
    ResolverCounts,
)


class _LedgerInUse:
    """A ledger that is open, and what works on it."""

    def __init__(self, opened: OpenLedger, procfs_resolver: ProcfsResolver) -> None:
        self.ledger, self.namespaces = opened
        self.lookup = FlowLookup(self.ledger, self.namespaces)
        self.snapshots = SnapshotTaker(self.ledger, self.namespaces, procfs_resolver)


class LedgerResolver:
    """A Resolver that opens a ledger by `open_ledger` in `prepare`; `procfs` is the root of /proc.

    Where the ledger is not available, `prepare` logs why, or raises HogpipeError if the ledger is
    `required`.
    """

    def __init__(
        self,
        procfs_resolver: ProcfsResolver,
        procfs: Path,
        *,
        required: bool,
        open_ledger: Callable[[Path], OpenLedger],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs_resolver = procfs_resolver
        self._procfs = procfs
        self._required = required
        self._open_ledger = open_ledger
        self._clock = clock
        self._processes = OwnerProcesses(procfs_resolver.processes)
        self._in_use: _LedgerInUse | None = None
        self._refusal = ""
        """Why the ledger is not used."""
        self._covers_host = False

    def prepare(self) -> None:
        """Open the ledger, then read the sockets and fds that exist already.

        In this order no socket is missed: events report those that are made meanwhile.
        """
        try:
            opened = self._open_ledger(self._procfs)
        except HogpipeError as error:
            if self._required:
                raise
            self._refusal = f"{error}"
            self._procfs_resolver.prepare()
            return
        self._in_use = _LedgerInUse(opened, self._procfs_resolver)
        self._covers_host = covers_host()
        self._in_use.snapshots.take_first(self._clock())

    def describe(self) -> str:
        """Return where owners come from, and why not from the ledger."""
        if self._in_use is None:
            return f"{self._procfs_resolver.describe()} (no ledger: {self._refusal})"
        where = "" if self._covers_host else ", of this container's control groups only"
        return f"owners come from the ledger (eBPF{where}), and from {self._procfs}"

    def describe_reading(self) -> str:
        """Return what is being read; see `Resolver`."""
        return self._procfs_resolver.describe_reading()

    @property
    def has_history(self) -> bool:
        """Whether owners are recorded: where the ledger is in use."""
        return self._in_use is not None

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        """Return what the ledger and /proc know of `flows`.

        A datagram flow without a socket is absent where its owner may be recorded later, when its
        socket is released.
        """
        if self._in_use is None:
            return self._procfs_resolver.resolve(flows)
        now = self._clock()
        self._in_use.snapshots.take_if_needed(now)
        owners = LookupOwners(self._processes, now)
        first = self._in_use.lookup.find(flows, now)
        contested = first.contested
        resolved = {
            flow: owners.resolve(flow, entry)
            for flow, entry in first.entries.items()
            if is_conclusive(flow, entry, owners)
        }
        resolved |= self._resolve_sent(flows, first, owners)
        if len(resolved) + len(contested) < len(flows):
            rest = {
                flow: spans
                for flow, spans in flows.items()
                if flow not in resolved and flow not in contested
            }
            shown = self._procfs_resolver.resolve(rest)
            again = self._in_use.lookup.find(rest, now)
            chosen = choose(rest, shown, again, owners)
            self._record_comparisons(chosen, again.entries)
            resolved |= chosen
            contested |= again.contested
        for flow, entries in contested.items():
            resolved[flow] = owners.resolve_by_span(entries)
        return resolved

    def _resolve_sent(
        self, flows: FlowSpans, matches: LedgerMatches, owners: LookupOwners
    ) -> dict[FlowKey, Resolution]:
        """Return the resolutions of flows that processes send through packet sockets."""
        assert self._in_use is not None
        without_socket = {
            flow: spans
            for flow, spans in flows.items()
            if flow not in matches.contested and not _has_own_socket(matches.entries.get(flow))
        }
        sent = self._in_use.lookup.find_packet_senders(without_socket)
        return {flow: owners.resolve_sender(entry) for flow, entry in sent.items()}

    def _record_comparisons(
        self, chosen: Mapping[FlowKey, Resolution], entries: Mapping[FlowKey, LedgerEntry]
    ) -> None:
        assert self._in_use is not None
        for flow, resolution in chosen.items():
            entry = entries.get(flow)
            process = resolution.attribution.process
            held = None if entry is None else is_held_by_owner(entry, resolution)
            if entry is not None and process is not None and held is not None:
                holder = None if held else describe_owner(process)
                self._in_use.ledger.record_comparison(entry.cookie, holder=holder)

    def recall(self, flows: FlowsInSpans) -> Sequence[Resolution | None]:
        """Return the owners that the ledger recorded for flows of our own namespace."""
        if self._in_use is None:
            return [None] * len(flows)
        found = self._in_use.lookup.recall(flows)
        return [
            self._name_owner(flow, entry) for (flow, _span), entry in zip(flows, found, strict=True)
        ]

    def _name_owner(
        self, flow: FlowKey, entry: LedgerEntry | Contested | None
    ) -> Resolution | None:
        if entry is None:
            return None
        if isinstance(entry, Contested):
            return Resolution(UNATTRIBUTED)
        attribution = Attribution(entry.quality, self._processes.recall(entry.owner))
        open_for = math.inf if reports_release(flow, entry) else 0.0
        return Resolution(attribution, open_for=open_for)

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic to what /proc has shown."""
        return self._procfs_resolver.infer(flow)

    def infer_sender(self, flow: FlowKey, moved: FlowDelta) -> Attribution:
        """Infer the sender of a flow, unless the kernel would have named it."""
        if self._in_use is not None and self._in_use.ledger.names_packet_senders:
            return UNATTRIBUTED
        return self._procfs_resolver.infer_sender(flow, moved)

    def counts(self) -> ResolverCounts:
        """Return the counters of /proc and of the ledger."""
        counts = self._procfs_resolver.counts()
        if self._in_use is not None:
            counts.ledger = self._in_use.ledger.counts()
            counts.ledger.namespaces_not_entered = self._in_use.namespaces.not_entered
        return counts

    def close(self) -> None:
        """Close the ledger, so that nothing stays attached to the kernel."""
        if self._in_use is not None:
            self._in_use.ledger.close()
        self._procfs_resolver.close()


def _has_own_socket(entry: LedgerEntry | None) -> bool:
    return entry is not None and entry.quality is Quality.EXACT
