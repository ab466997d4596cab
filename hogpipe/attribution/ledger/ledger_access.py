"""The ledger as attribution asks it: by flows, whose namespaces are known by their inodes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from hogpipe.attribution.ledger.kernel_ledger import (
    KernelLedger,
)
from hogpipe.attribution.resolver import (
    FlowSpans,
)
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.errors import ConfigurationError
from hogpipe.linux.bpf.obstacles import KERNEL_NEEDED, BpfUnavailableError, Obstacle
from hogpipe.linux.bpf.programs import attach_ledger_programs
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.linux.procfs import shows_live_processes
from hogpipe.model import (
    OWN_NAMESPACE,
    Contested,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    SnapshotSocket,
    Span,
)

T = TypeVar("T")
Answer = LedgerEntry | Contested


class Told(NamedTuple):
    """What a ledger knows of flows that it was asked for; of others nothing."""

    known: dict[FlowKey, LedgerEntry]
    in_turn: dict[FlowKey, list[LedgerEntry | None]]
    """Those that several had one after the other: whose each piece was, as far as it was one's."""


class SocketLedger(Protocol):
    """What is needed of a ledger; `ledger.kernel.KernelLedger` is one."""

    def refresh(self) -> None:
        """Take in all that has happened until now; from any thread."""

    def owner_of(self, flow: FlowKey, namespace: int | None, span: Span | None, /) -> Answer | None:
        """Return whose a flow is in the namespace of a cookie, None for any.

        `span` is when its packets passed, None for now.
        """

    def needs_snapshot(self) -> bool:
        """Return whether events were lost, so that the sockets are to be read anew."""

    def begin_snapshot(self) -> None:
        """Get ready for `ingest_snapshot` after a loss; the sockets are read after this."""

    def ingest_snapshot(self, seeds: Iterable[SnapshotSocket]) -> None:
        """Take in the sockets that are there, read after the ledger was made."""

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand."""

    def close(self) -> None:
        """Detach from the kernel. May be called again."""


class LedgerAccess:
    """A ledger that is asked by one thread at a time. It takes the ledger over."""

    def __init__(self, ledger: SocketLedger, namespaces: NetworkNamespaces) -> None:
        self._ledger = ledger
        self._namespaces = namespaces

    def ask(self, flows: FlowSpans, now: float) -> Told:
        """Return what is known of each flow after all that has happened.

        Raises OSError if the processes of other namespaces cannot be listed.
        """
        self._ledger.refresh()
        asked = {flow.namespace for flow in flows if flow.namespace is not None}
        cookies = self._namespaces.find_cookies(asked, now)
        told = Told({}, {})
        for flow, pieces in flows.items():
            if flow.namespace is not None and flow.namespace not in cookies:
                continue
            cookie = None if flow.namespace is None else cookies[flow.namespace]
            entry = self._ledger.owner_of(flow, cookie, _whole(pieces))
            if isinstance(entry, LedgerEntry):
                told.known[flow] = entry
            elif entry is not None:
                told.in_turn[flow] = self._ask_each(flow, cookie, pieces)
        return told

    def _ask_each(
        self, flow: FlowKey, cookie: int | None, pieces: Sequence[Span]
    ) -> list[LedgerEntry | None]:
        if len(pieces) < 2:
            return [None for _ in pieces]
        each = (self._ledger.owner_of(flow, cookie, piece) for piece in pieces)
        return [one if isinstance(one, LedgerEntry) else None for one in each]

    @property
    def namespaces(self) -> NetworkNamespaces:
        """Return the namespaces, for the thread that asks."""
        return self._namespaces

    def needs_snapshot(self) -> bool:
        """Return whether events were lost, so that the sockets are to be read anew."""
        return self._ledger.needs_snapshot()

    def begin_snapshot(self) -> None:
        """Get ready for `ingest_snapshot` after a loss; the sockets are read after this."""
        self._ledger.begin_snapshot()

    def ingest_snapshot(self, seeds: Iterable[SnapshotSocket]) -> None:
        """Tell the ledger of the sockets that are there, read after it was opened."""
        self._ledger.ingest_snapshot(seeds)

    def recall(self, flow: FlowKey, span: Span | None) -> Answer | None:
        """Return what is known by now of a flow of our own namespace in `span`; any thread."""
        if flow.namespace != OWN_NAMESPACE:
            return None
        return self._ledger.owner_of(flow, self._namespaces.own_cookie, span)

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand."""
        counts = self._ledger.counts()
        counts.namespaces_not_entered = self._namespaces.not_entered
        return counts

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def _whole(pieces: Sequence[Span]) -> Span | None:
    """Return the time from the first of the pieces to the last."""
    if not pieces:
        return None
    return Span(min(one.start_ns for one in pieces), max(one.end_ns for one in pieces))


def open_ledger(procfs: Path, stale: StaleFlows | None = None) -> LedgerAccess:
    """Return access to the ledger of the running kernel.

    It adds the flows whose answers may be others now to `stale`.

    Raises BpfUnavailableError where that cannot be, and ConfigurationError where the pids of
    `procfs` are not those that the kernel tells.
    """
    if not shows_live_processes(procfs) or not shows_host_pids(procfs):
        raise ConfigurationError(
            f"attribution.ledger: {procfs} does not show the processes of this host by the pids "
            "that its kernel tells; use the host's /proc, or no ledger"
        )
    try:
        namespaces = NetworkNamespaces(procfs)
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.KERNEL,
            f"eBPF: the kernel does not name network namespaces ({error.strerror}); "
            f"{KERNEL_NEEDED}",
        ) from error
    try:
        return LedgerAccess(KernelLedger(attach_ledger_programs(), procfs, stale), namespaces)
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.LIMITS, f"eBPF: no room for the ledger ({error.strerror}); raise the limits"
        ) from error
