"""The configuration: from a TOML file to the settings of a run (docs/configuration.md).

    load.py        reads the file, and calls the others in this order:
    options.py     applies the options of `hogpipe run`                          (pure)
    overrides.py   applies `--set KEY=VALUE`                                     (pure)
    renamed_keys.py  gives keys with a former name the present one                (pure)
    references.py  reads the values that `{env = ...}` and `{file = ...}` stand for
    convert.py     makes structs of the tables, with leaves.py for single values (pure)
    durations.py   parses "30s" or "1h30m"                                       (pure)
    changes.py     compares settings with those of a run                         (pure)
    checks.py      checks what depends on several values or on the host
    problems.py    collects what is wrong, so that one error reports all of it   (pure)
    settings.py    the structs, with types, bounds and defaults

A library user may build `Settings` directly; bounds and checks do not apply then.
"""

from hogpipe.aggregation.dimensions import DimensionName
from hogpipe.config.load import load_config
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    ConfiguredSink,
    EnrichmentSettings,
    LogSettings,
    PluginSettings,
    SecuritySettings,
    Settings,
)

__all__ = [
    "AggregationSettings",
    "AttributionSettings",
    "CaptureSettings",
    "ConfiguredSink",
    "DimensionName",
    "EnrichmentSettings",
    "LogSettings",
    "PluginSettings",
    "SecuritySettings",
    "Settings",
    "load_config",
]
