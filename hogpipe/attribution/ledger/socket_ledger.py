"""What attribution needs of a ledger, and how the ledger of the running kernel is opened.

A ledger records which process used a socket, and when. Two classes are ledgers:

- `KernelLedger`: ingests the socket events of the BPF programs.
- `capture.ebpf.flow_sockets.FlowSockets`: the flows that the `ebpf` source counted at a socket and
  that are still to be resolved.

A ledger identifies network namespaces by cookie, flows by inode. So a ledger is opened together
with the `NetworkNamespaces` that translate one into the other.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from hogpipe.attribution.ledger.kernel_ledger import KernelLedger
from hogpipe.attribution.resolver import FlowsInSpans
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.errors import ConfigurationError
from hogpipe.linux.bpf.obstacles import explain_failed_open
from hogpipe.linux.bpf.programs import attach_ledger_programs
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.linux.procfs import shows_live_processes
from hogpipe.model import (
    Contested,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    SnapshotSocket,
    SocketOwner,
    Span,
)


class SocketLedger(Protocol):
    """A ledger; its methods are safe from any thread."""

    def refresh(self) -> None:
        """Ingest all that has happened until now."""

    def owner_of(
        self,
        flow: FlowKey,
        namespace: int | None,
        span: Span | None,
        /,
        *,
        is_divisible: bool = False,
    ) -> LedgerEntry | Contested | None:
        """Return the owner of a flow as recorded by the last `refresh`, None if unknown.

        `namespace` is the cookie of the flow's network namespace, None for any; `span` is when the
        packets passed, None for now. Contested: several processes used the flow in `span`. That is
        counted unless the span is divisible: then the caller asks for each of its parts.
        """

    def owners_of(
        self, flows: FlowsInSpans, namespace: int | None, /
    ) -> Sequence[LedgerEntry | Contested | None]:
        """Return the same for several flows of one namespace, as of one moment."""

    @property
    def names_packet_senders(self) -> bool:
        """Whether whatever is sent through packet sockets has its sender here."""

    def packet_senders_of(self, flows: FlowsInSpans, /) -> Sequence[LedgerEntry | None]:
        """Return the process that sends each flow through a packet socket, None where none does.

        The flows are of our own network namespace.
        """

    def record_comparison(self, cookie: int, /, *, holder: SocketOwner | None) -> None:
        """Record the holder of a lasting socket, as /proc shows; None: the recorded owner."""

    def needs_snapshot(self) -> bool:
        """Return whether events were lost, so that the open sockets must be read again."""

    def begin_snapshot(self) -> None:
        """Prepare for `ingest_snapshot` after a loss; the sockets are read after this call."""

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket]) -> None:
        """Add the open sockets; they were read after the ledger was opened."""

    def counts(self) -> LedgerCounts:
        """Return the counters."""

    def close(self) -> None:
        """Detach from the kernel. May be called again."""


class OpenLedger(NamedTuple):
    """A ledger that is open, with the namespaces of the procfs that it belongs to."""

    ledger: SocketLedger
    namespaces: NetworkNamespaces


def open_ledger(
    procfs: Path,
    stale: StaleFlows | None = None,
    processes: ProcessReader | None = None,
    *,
    limit_events: Callable[[], None] = lambda: None,
    open_beside: Callable[[KernelLedger], None] = lambda _ledger: None,
) -> OpenLedger:
    """Open the ledger of the running kernel.

    It adds invalidated flows to `stale`, and new processes to `processes`. Its threads call
    `limit_events` to drop rights. `open_beside` opens what else needs the rights of this thread.

    Raises BpfUnavailableError where the kernel does not permit it, and ConfigurationError where
    the pids that `procfs` shows are not those of the kernel's events.
    """
    if not shows_live_processes(procfs) or not shows_host_pids(procfs):
        raise ConfigurationError(
            f"attribution.ledger: {procfs} does not show the processes of this host by the pids "
            "that its kernel reports; use the host's /proc, or no ledger"
        )
    try:
        namespaces = NetworkNamespaces(procfs)
        programs = attach_ledger_programs()
        ledger = KernelLedger(
            programs, procfs, stale, processes=processes, limit_events=limit_events
        )
        open_beside(ledger)
        return OpenLedger(ledger, namespaces)
    except OSError as error:
        raise explain_failed_open(error, "the ledger") from error
