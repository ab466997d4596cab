"""The settings of a run, one struct for each table of the file (docs/configuration.md)."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hogpipe.sinks.contract import SinkSettings, SinkType

Dimension = Literal[
    "process", "transport", "network_type", "interface", "user", "cgroup", "container", "remote",
    "flow",
]  # fmt: skip

_NotEmpty = Annotated[str, Meta(min_length=1)]


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[capture]`: where packets come from."""

    source: Literal["pcap", "savefile", "ebpf"] = "pcap"
    """Live interfaces, a capture file, or the sockets of the host, at which the kernel counts."""
    interfaces: Annotated[tuple[_NotEmpty, ...], Meta(min_length=1)] = ("auto",)
    """Names or globs; "auto" is each interface that is up, loopback aside, and of those that stand
    upon one another the one that shows each packet once."""
    filter: str = ""
    """A BPF expression (pcap-filter(7)); all packets where empty."""
    snaplen: Annotated[int, Meta(ge=96, le=262144)] = 128
    """How many bytes of each frame are looked at."""
    buffer_mib: Annotated[int, Meta(ge=1, le=1024)] = 16
    """The kernel's buffer for each interface, in MiB."""
    promiscuous: bool = False
    """Whether frames for other hosts are taken too."""
    path: Path | None = None
    """The pcap or pcapng file of the source "savefile"."""
    max_flows: Annotated[int, Meta(ge=16, le=1 << 20)] = 65_536
    """How many connections, and how many other flows, the source "ebpf" tells apart at a time."""


class AttributionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[attribution]`: how owners are found."""

    procfs: Path = Path("/proc")
    """The process file system, such as /host/proc in a container."""
    socket_table: Literal["procfs", "sock_diag", "auto"] = "auto"
    """What sockets are read from: /proc/net, sock_diag, or the cheaper."""
    ledger: Literal["auto", "on", "off"] = "auto"
    """The eBPF socket ledger: "on" ends the run where it cannot be had."""
    hold: Annotated[float, Meta(ge=0, le=60)] = 2.0
    """How long a flow's bytes may wait for an owner, in seconds."""
    cpu_budget: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The share of one core that reading /proc may take."""


class AggregationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[aggregation]`: windows, dimensions, and whom to follow."""

    interval: Annotated[float, Meta(ge=0.05, le=86400)] = 1.0
    """The length of a window, in seconds."""
    group_by: tuple[Dimension, ...] = ("process",)
    """What tells records apart."""
    only: tuple[str, ...] = ()
    """Selectors, of which one must match for records of its own; the rest is summed up."""
    max_records: Annotated[int, Meta(ge=1)] = 100_000
    """The most records of a window; the rest is summed up."""


class EnrichmentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[enrichment]`: what is told of a process beyond its identity."""

    command_line: bool = False
    """Whether records hold `process.command_args`, which may hold secrets."""


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[plugins]`: where sink types come from, beside installed packages."""

    paths: tuple[Path, ...] = ()
    """Files of single-file plugins, or folders of such."""
    disabled: tuple[str, ...] = ()
    """Names of plugins that are not loaded."""


class SinkChoice(msgspec.Struct, frozen=True):
    """A `[[sinks]]` table with the type that it named."""

    type: SinkType[SinkSettings]
    settings: SinkSettings


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration."""

    capture: CaptureSettings = CaptureSettings()
    attribution: AttributionSettings = AttributionSettings()
    aggregation: AggregationSettings = AggregationSettings()
    enrichment: EnrichmentSettings = EnrichmentSettings()
    plugins: PluginSettings = PluginSettings()
    sinks: tuple[SinkChoice, ...] = ()
