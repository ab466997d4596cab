"""The settings of a run, one struct for each table of the file (docs/configuration.md)."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hogpipe.sinks.protocol import SinkSettings, SinkType

Dimension = Literal[
    "process", "transport", "network_type", "interface", "user", "cgroup", "container", "remote",
    "flow",
]  # fmt: skip


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[capture]`: where packets come from."""

    source: Literal["pcap", "savefile", "ebpf"] = "pcap"
    interfaces: tuple[str, ...] = ("auto",)
    filter: str = ""
    snaplen: Annotated[int, Meta(ge=96, le=262144)] = 128
    buffer_mib: Annotated[int, Meta(ge=1, le=1024)] = 16
    promiscuous: bool = False
    path: Path | None = None


class AttributionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[attribution]`: how owners are found."""

    procfs: Path = Path("/proc")
    socket_table: Literal["procfs", "sock_diag", "auto"] = "auto"
    ledger: Literal["auto", "on", "off"] = "auto"
    hold: Annotated[float, Meta(ge=0, le=60)] = 2.0
    cpu_budget: Annotated[float, Meta(gt=0, le=1)] = 0.2


class AggregationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[aggregation]`: windows, dimensions, and whom to follow."""

    interval: Annotated[float, Meta(ge=0.05, le=86400)] = 1.0
    group_by: tuple[Dimension, ...] = ("process",)
    only: tuple[str, ...] = ()
    max_records: Annotated[int, Meta(ge=1)] = 100_000


class EnrichmentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[enrichment]`: what is told of a process beyond its identity."""

    command_line: bool = False


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[plugins]`: where sink types come from, beside installed packages."""

    paths: tuple[Path, ...] = ()
    disabled: tuple[str, ...] = ()


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
