"""The parts of a pipeline, made as the settings ask: source, resolver, aggregator, sinks, run id.

No source, resolver or sink is opened here. Each function raises ConfigurationError where its part
cannot be made on this host.
"""

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.aggregation.dimensions import RowField, list_row_fields
from hogpipe.aggregation.selectors import list_selected_fields, parse_selector
from hogpipe.aggregation.window_aggregator import WindowAggregator
from hogpipe.aggregation.windows import ClockWindows
from hogpipe.attribution.ledger.kernel_ledger import KernelLedger
from hogpipe.attribution.ledger.ledger_resolver import LedgerResolver
from hogpipe.attribution.ledger.owner_processes import OwnerProcesses, SocketOwners
from hogpipe.attribution.ledger.socket_ledger import OpenLedger, open_ledger
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import Resolver
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.attribution.tracked_connections import TrackedConnections
from hogpipe.attribution.translation_resolver import TranslationResolver
from hogpipe.capture.dns.dns_capture import DnsCapture
from hogpipe.capture.ebpf.ebpf_source import EbpfSource
from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.frame_tap import FrameTap
from hogpipe.capture.live.health_reader import HealthReader
from hogpipe.capture.live.link_selection import selects_new_links
from hogpipe.capture.live.live_source import LiveSource
from hogpipe.capture.live.open_handles import LiveOptions
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.savefile import SavefileSource
from hogpipe.capture.source import PacketSource
from hogpipe.config.settings import ConfiguredSink, Settings
from hogpipe.enrichment.peer_naming import PeerNaming
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.enrichment.reverse_lookups import PointerQueries, ReverseLookups
from hogpipe.errors import ConfigurationError
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.netns.namespace_addresses import NamespaceAddresses
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.procfs import shows_live_processes
from hogpipe.linux.procfs_addresses import read_local_addresses
from hogpipe.model import Process, ServicePorts, make_networks
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.stamp import make_run_id
from hogpipe.sinks.contract import Sink, SinkSettings
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.sinks.stdout import StdoutSettings, prints_table
from hogpipe.threads import SerialExecutor

FIRST_TABLE_NS = NANOSECONDS // 10
"""How soon the first table is shown."""
_HASHED_BYTES = 1 << 20

AggregatorFactory = Callable[[Settings, Callable[[Process], Process]], WindowAggregator]
"""Makes the aggregator of a run from its settings; the second argument returns the latest
description of a process."""


class Input(NamedTuple):
    """Where flows, their owners and the names of their peers come from."""

    source: PacketSource
    resolver: Resolver
    processes: ProcessReader
    """The cache from which the resolver and the source describe processes."""
    naming: PeerNaming | None = None
    """What names peers; None where that is not asked for."""


def make_input(
    settings: Settings,
    table: FlowTable,
    clock: Callable[[], float],
    stale: StaleFlows,
    service_ports: Callable[[], ServicePorts],
    *,
    limit_events: Callable[[], None],
    tap: FrameTap | None = None,
) -> Input:
    """Return the source that `[capture]` describes and the resolver that `[attribution]` describes.

    A source of packets counts in `table`, whose times are those of `clock`. Of a savefile with a
    recorded /proc, the table has the attributions that follow from it. The resolver's ledger,
    if there is one, adds invalidated flows to `stale`. `service_ports` returns what is known of
    this host's ports; any thread may call it. `limit_events` is called by each thread that reads
    events of BPF programs, to drop rights. A source of packets shows them to `tap`.
    """
    procfs_resolver = _make_procfs_resolver(settings)
    naming = _make_naming(settings)
    if settings.capture.source == "savefile":
        source: PacketSource = _make_savefile_source(settings, table, tap)
        resolver: Resolver = procfs_resolver
        if not shows_live_processes(settings.attribution.procfs):
            table.recorded = procfs_resolver.recorded
    elif settings.capture.source == "pcap":
        health = HealthReader(table, interval_of(settings), limit_events)
        resolver = _make_resolver(settings, stale, procfs_resolver, limit_events, health)
        processes = procfs_resolver.namespaces
        source, resolver = _make_live_source(
            settings, table, clock, resolver, processes, tap=tap, health=health
        )
    else:
        source, resolver = _make_ebpf_source(
            settings,
            table,
            clock,
            procfs_resolver,
            service_ports,
            naming=naming,
            limit_events=limit_events,
        )
    # The source "ebpf" names flows before they reach the table.
    table.records_begins = naming is not None and not source.closes_windows
    return Input(source, resolver, procfs_resolver.processes, naming)


def _make_naming(settings: Settings) -> PeerNaming | None:
    """Return what names peers, if records depend on it."""
    if not settings.needs_peer_names:
        return None
    flows = settings.attribution.max_flows + settings.capture.max_flows
    thread, lookups = SerialExecutor("names"), None
    if settings.enrichment.peer_names == "reverse":
        lookups = ReverseLookups(PointerQueries(thread))
    return PeerNaming(DnsCapture(), flows, thread, lookups=lookups)


def interval_of(settings: Settings) -> int:
    """Return the length of a window in nanoseconds."""
    return round(settings.aggregation.interval * NANOSECONDS)


def _make_ebpf_source(
    settings: Settings,
    table: FlowTable,
    clock: Callable[[], float],
    procfs_resolver: ProcfsResolver,
    service_ports: Callable[[], ServicePorts],
    *,
    naming: PeerNaming | None,
    limit_events: Callable[[], None],
) -> tuple[PacketSource, Resolver]:
    procfs, flow_sockets = settings.attribution.procfs, FlowSockets()
    source = EbpfSource(
        procfs,
        flow_sockets,
        table,
        clock,
        procfs_resolver.processes,
        start_windows=partial(ClockWindows, interval_of(settings)),
        group_by=list_source_fields(settings),
        service_ports=service_ports,
        networks=make_networks(settings.networks),
        max_flows=settings.capture.max_flows,
        names=naming,
        limit_events=limit_events,
    )

    def open_flow_sockets(procfs: Path) -> OpenLedger:
        return OpenLedger(flow_sockets, NetworkNamespaces(procfs))

    resolver = LedgerResolver(procfs_resolver, procfs, required=True, open_ledger=open_flow_sockets)
    return source, resolver


def make_aggregator(
    settings: Settings, recall_process: Callable[[Process], Process]
) -> WindowAggregator:
    """Return the aggregator that makes records as `[aggregation]` describes them."""
    networks = make_networks(settings.networks)
    return Aggregator(
        settings.aggregation.group_by,
        [parse_selector(text, networks) for text in settings.aggregation.only],
        settings.aggregation.max_records,
        recall_process=recall_process,
        networks=networks,
    )


def choose_first_window(settings: Settings) -> int | None:
    """Return the length of the first window where a person waits for its table, else None.

    The source "ebpf" gets owners of older sockets only after its first epoch, so that a short first
    window would show nothing of them.
    """
    return FIRST_TABLE_NS if any(map(_shows_table, settings.sinks)) else None


def _shows_table(sink: ConfiguredSink) -> bool:
    """Return whether a sink shows tables to a person."""
    return isinstance(sink.settings, StdoutSettings) and prints_table(sink.settings, os.isatty(1))


def list_source_fields(settings: Settings) -> list[RowField]:
    """Return the fields by which the source keeps traffic apart; settings may be unchecked.

    A source that passes every flow on has none.
    """
    aggregation = settings.aggregation
    if settings.capture.source != "ebpf":
        return []
    try:
        by_dimension = list_row_fields(aggregation.group_by)
    except ValueError as error:
        raise ConfigurationError(f"aggregation.group_by: {error}") from error
    return by_dimension + list_selected_fields(aggregation.only)


def _make_savefile_source(
    settings: Settings, table: FlowTable, tap: FrameTap | None
) -> PacketSource:
    capture = settings.capture
    assert capture.path is not None  # load_config checks it
    return SavefileSource(
        capture.path,
        table,
        expression=capture.filter,
        local=LocalAddresses.from_procfs(read_local_addresses(settings.attribution.procfs)),
        interval_ns=interval_of(settings),
        tap=tap,
    )


def _make_live_source(
    settings: Settings,
    table: FlowTable,
    clock: Callable[[], float],
    resolver: Resolver,
    processes: NamespaceProcesses,
    *,
    tap: FrameTap | None,
    health: HealthReader,
) -> tuple[PacketSource, Resolver]:
    """Return the source of live packets, and a `resolver` that recognises translated ones."""
    capture = settings.capture
    source = LiveSource(
        LiveOptions(
            interfaces=capture.interfaces,
            filter=capture.filter,
            snaplen=capture.snaplen,
            buffer_mib=capture.buffer_mib,
            promiscuous=capture.promiscuous,
            procfs=settings.attribution.procfs,
        ),
        table,
        clock,
        tap,
        health,
    )
    procfs = settings.attribution.procfs
    return source, TranslationResolver(
        resolver,
        TrackedConnections(procfs, processes),
        source.namespaces_of,
        NamespaceAddresses(procfs, processes).find,
        # A filter may select one copy of a translated packet and not the other.
        leaves_out_copies=not capture.filter,
        follows_links=selects_new_links(capture.interfaces),
    )


def _make_resolver(
    settings: Settings,
    stale: StaleFlows,
    procfs_resolver: ProcfsResolver,
    limit_events: Callable[[], None],
    health: HealthReader,
) -> Resolver:
    choice = settings.attribution
    if choice.ledger == "off":
        return procfs_resolver

    def open_health(ledger: KernelLedger) -> None:
        owners = OwnerProcesses(procfs_resolver.processes)
        health.open_programs(SocketOwners(ledger.owners_of_sockets, owners).attribute)

    return LedgerResolver(
        procfs_resolver,
        choice.procfs,
        required=choice.ledger == "on",
        open_ledger=partial(
            open_ledger,
            stale=stale,
            processes=procfs_resolver.processes,
            limit_events=limit_events,
            open_beside=open_health,
        ),
    )


def _make_procfs_resolver(settings: Settings) -> ProcfsResolver:
    return ProcfsResolver(
        settings.attribution.procfs,
        command_line=settings.enrichment.command_line,
        ancestors=settings.enrichment.ancestors,
        container_names=settings.enrichment.container_names,
        socket_table=settings.attribution.socket_table,
        # Half of what lookups may take, so that the other half is left to the host's own.
        container_budget=settings.attribution.cpu_budget / 2,
    )


def make_sink(choice: ConfiguredSink, *, live: bool) -> tuple[Sink, SinkSettings]:
    """Return a sink, and the settings of its queue and retries."""
    settings = choice.settings
    if not live:  # the records of a replay must not depend on how fast its sinks are
        settings = msgspec.structs.replace(settings, when_full="block")
    if _shows_table(choice):  # which shows what was dropped in each window
        settings = msgspec.structs.replace(settings, stats=True)
    name = settings.name or settings.type
    try:
        return choice.type.create(settings), settings
    except ConfigurationError as error:
        problems = [f"sink {name}: {problem}" for problem in error.problems]
        raise ConfigurationError(problems) from error
    except (Exception, SystemExit) as error:  # a plugin's factory may raise anything
        raise ConfigurationError(f"sink {name}: cannot be made: {describe_bug(error)}") from error


def make_run_id_for(settings: Settings) -> str:
    """Return the id of a new run.

    The records of a replay with a recorded /proc follow from the savefile and the settings alone.
    So does its id: a repeated replay has the same id, and its records can be deduplicated.
    """
    path = settings.capture.path
    live_processes = shows_live_processes(settings.attribution.procfs)
    if settings.capture.source != "savefile" or path is None or live_processes:
        return make_run_id(time.time_ns())
    digest = hashlib.sha256(
        msgspec.json.encode((settings.capture.filter, settings.aggregation, settings.networks))
    )
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(size.to_bytes(8, "big"))
            for start in (0, max(0, size - _HASHED_BYTES)):
                file.seek(start)
                digest.update(file.read(_HASHED_BYTES))
    except OSError as error:
        raise ConfigurationError(f"capture.path: {path}: {error.strerror}") from error
    return make_run_id(0, digest.digest()[:10])
