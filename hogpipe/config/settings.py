"""The settings of a run: one struct for each table of the file (docs/configuration.md).

A field is a key; its type, bounds and default are what the file may hold, and the string below it
is its meaning. A test compares all of them with config.toml and docs/configuration.md.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hogpipe.aggregation.dimensions import DimensionName
from hogpipe.aggregation.selectors import selects_domains
from hogpipe.sinks.contract import Seconds, SinkSettings, SinkType

_NotEmpty = Annotated[str, Meta(min_length=1)]


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[capture]`: the source of traffic."""

    source: Literal["pcap", "savefile", "ebpf"] = "pcap"
    """Packets of live interfaces, packets of a capture file, or eBPF counters per socket."""
    interfaces: Annotated[tuple[_NotEmpty, ...], Meta(min_length=1)] = ("auto",)
    """Names or globs; "auto" is each interface that is up, except loopback, and of interfaces that
    are stacked the one that shows each packet once."""
    filter: str = ""
    """A BPF expression (pcap-filter(7)); all packets if empty."""
    snaplen: Annotated[int, Meta(ge=96, le=262144)] = 128
    """How many bytes of each frame are captured."""
    buffer_mib: Annotated[int, Meta(ge=1, le=1024)] = 16
    """The size of the kernel's capture buffer for each interface, in MiB."""
    promiscuous: bool = False
    """Whether frames for other hosts are captured too."""
    path: Path | None = None
    """The pcap or pcapng file of the source "savefile"."""
    max_flows: Annotated[int, Meta(ge=16, le=1 << 20)] = 65_536
    """The most connections, and the most other flows, that the source "ebpf" counts separately."""


class AttributionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[attribution]`: how flows get owners."""

    procfs: Path = Path("/proc")
    """The process file system, such as /host/proc in a container."""
    socket_table: Literal["procfs", "sock_diag", "auto"] = "auto"
    """Where sockets are read from: /proc/net, sock_diag, or whichever costs less."""
    ledger: Literal["auto", "on", "off"] = "auto"
    """The eBPF socket ledger; with "on" a run fails where the ledger cannot be loaded."""
    hold: Annotated[Seconds, Meta(ge=0, le=60)] = 2.0
    """How long the bytes of a flow may stay pending for want of an owner, in seconds."""
    cpu_budget: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The share of one core that reading /proc may take."""
    max_flows: Annotated[int, Meta(ge=16, le=1 << 20)] = 65_536
    """The most flows that are known; a quarter of them may be pending, and further ones are
    recorded unattributed, as a few sums."""


class AggregationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[aggregation]`: windows, dimensions and selectors."""

    interval: Annotated[Seconds, Meta(ge=0.05, le=86400)] = 1.0
    """The length of a window, in seconds."""
    group_by: tuple[DimensionName, ...] = ("process",)
    """The dimensions: each combination of their values has its own record."""
    only: tuple[str, ...] = ()
    """Selectors; what they do not select is summed up in one record."""
    max_records: Annotated[int, Meta(ge=1)] = 100_000
    """The most records of a window; what exceeds them is summed up in one more."""


NamedPrefixes = dict[str, tuple[_NotEmpty, ...]]
"""`[networks]`: the prefixes of each named network (model/networks.py)."""


class EnrichmentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[enrichment]`: what records say of a process beyond its identity."""

    command_line: bool = False
    """Whether records hold `process.command_args`, which may contain secrets."""
    container_names: bool = True
    """Whether the names of containers and pods are read, from what runtimes leave on disk."""
    ancestors: Annotated[int, Meta(ge=0, le=4)] = 0
    """How many ancestors beyond the parent records hold in `process.ancestors`."""
    peer_names: Literal["passive", "reverse", "off"] = "passive"
    """Where names come from if the dimension or selector `domain` is used: DNS answers that pass,
    with "reverse" also reverse DNS."""


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[security]`: the rights that a run keeps after its start."""

    sandbox: Literal["auto", "strict", "off"] = "auto"
    """Whether rights that are not needed are given up: as far as possible, all or no run, or
    none."""
    user: _NotEmpty | None = None
    """The user that a run of root becomes; who called sudo if absent, where that is possible."""
    containers: Literal["auto", "on", "off"] = "auto"
    """Whether the rights to enter containers and to ask about NAT are kept; "auto": if this host
    has containers or translates when the run starts."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: the lines of `hogpipe run` on the standard error output."""

    format: Literal["text", "json"] = "text"
    """Text, after the time unless a terminal or the journal gets it; or one JSON object a line."""


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[plugins]`: sink types beyond those of installed packages."""

    paths: tuple[Path, ...] = ()
    """Single-file plugins, or folders of them."""
    disabled: tuple[str, ...] = ()
    """Names of plugins that are not loaded."""


class ConfiguredSink(msgspec.Struct, frozen=True):
    """A `[[sinks]]` table: its sink type, and its settings converted to what that type takes."""

    type: SinkType[SinkSettings]
    settings: SinkSettings


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration."""

    capture: CaptureSettings = CaptureSettings()
    attribution: AttributionSettings = AttributionSettings()
    aggregation: AggregationSettings = AggregationSettings()
    networks: NamedPrefixes = {}
    enrichment: EnrichmentSettings = EnrichmentSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    plugins: PluginSettings = PluginSettings()
    sinks: tuple[ConfiguredSink, ...] = ()

    @property
    def needs_peer_names(self) -> bool:
        """Whether records depend on the names of peers."""
        return uses_domains(self.aggregation)


def uses_domains(aggregation: AggregationSettings) -> bool:
    """Return whether a dimension or a selector, which may be invalid, is about names of peers."""
    return "domain" in aggregation.group_by or any(map(selects_domains, aggregation.only))
