"""From a configuration file to the settings of a run; the only module that reads the file.

`load_config` returns settings that passed every check, or raises one ConfigurationError that holds
all problems. Plugins are loaded on the way, because they define sink types.
"""

import logging
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from hogpipe.config import checks
from hogpipe.config.convert import ConvertedSink, Converter
from hogpipe.config.options import RunOptions, apply_options
from hogpipe.config.overrides import apply_override
from hogpipe.config.problems import Problems, quote
from hogpipe.config.references import ReferenceReader, expand_path
from hogpipe.config.renamed_keys import RENAMED_KEYS, rename_keys
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
from hogpipe.errors import ConfigurationError
from hogpipe.files import read_regular
from hogpipe.sinks.registry import PluginInfo, Registry, load_plugins
from hogpipe.text import describe_error, printable

log = logging.getLogger(__name__)

_LARGEST_FILE = 4 << 20

FindDistrust = Callable[[Path], str | None]
"""Returns why a file is not to be used, None if it may be."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of the file at `path` after the `overrides`, each `KEY=VALUE`.

    Loads the plugins that the configuration names or that are installed. A plugin that fails to
    load is logged, or is a problem if the file names its path. Raises ConfigurationError, whose
    `problems` are all that was found.
    """
    return load_settings(path, RunOptions(), overrides)


def load_settings(path: Path | None, options: RunOptions, overrides: Sequence[str]) -> Settings:
    """Return the settings that `options`, then `overrides`, make of those of the file.

    Without a path they change the defaults, and relative paths start from the current folder. The
    rest is as for `load_config`.
    """
    return convert_tables(read_tables(path, options, overrides))


@dataclass(frozen=True, slots=True)
class ReadTables:
    """A configuration as it was read, with its references; no value is checked."""

    tables: Mapping[str, object]
    folder: Path
    """Where relative paths start."""
    origin: str
    refused: Sequence[str]
    """A line for each change that could not be made."""
    problems: Problems
    """Those of the references."""
    find_distrust: FindDistrust


def read_tables(
    path: Path | None,
    options: RunOptions,
    overrides: Sequence[str],
    find_distrust: FindDistrust = lambda _path: None,
) -> ReadTables:
    """Read what `load_settings` converts; all files but plugins and those of sinks are read here.

    Raises ConfigurationError if the file cannot be read, or `find_distrust` returns a reason not to
    use it. A plugin for which it does fails later.
    """
    if path is not None and (reason := find_distrust(path)):
        raise ConfigurationError(f"{printable(str(path))}: {reason}")
    problems, origin = Problems(), str(path) if path else "command line"
    folder = path.absolute().parent if path else Path.cwd()
    try:
        read = _read_file_tables(path) if path else {}
        tables, refused = _apply_changes(read, options, overrides)
        tables, warnings = rename_keys(tables, RENAMED_KEYS, problems)
        for warning in warnings:
            log.warning("%s", printable(warning))
        tables = ReferenceReader(folder, os.environ, problems).read_references(tables)
    except RecursionError as error:
        raise ConfigurationError(f"{printable(origin)}: nested too deeply") from error
    return ReadTables(tables, folder, origin, refused, problems, find_distrust)


def convert_tables(
    read: ReadTables, before_plugins: Callable[[Settings], None] = lambda _settings: None
) -> Settings:
    """Return the settings of tables, which are converted once; the rest is as for `load_config`.

    `before_plugins` is called with the settings except those of sinks, before any code of a plugin
    runs. They may have problems, which are raised later.
    """
    try:
        settings = _convert(read, before_plugins)
    except RecursionError as error:
        raise ConfigurationError(f"{printable(read.origin)}: nested too deeply") from error
    if lines := [*read.refused, *read.problems.format_lines(read.origin)]:
        raise ConfigurationError(lines)
    return settings


def _read_file_tables(path: Path) -> dict[str, object]:
    try:
        content = read_regular(path, _LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ConfigurationError(printable(f"{path}: larger than {_LARGEST_FILE} bytes"))
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        reason = f"cannot read it: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (at byte {error.start})"
    except ValueError as error:  # TOMLDecodeError, or a number that has too many digits
        reason = str(error)
    raise ConfigurationError(printable(f"{path}: {reason}"))


def _apply_changes(
    tables: Mapping[str, object], options: RunOptions, overrides: Sequence[str]
) -> tuple[Mapping[str, object], list[str]]:
    """Return the changed tables, and a line for each change that could not be made."""
    refused = []
    try:
        tables = apply_options(tables, options)
    except ValueError as error:
        refused.append(str(error))
    for override in overrides:
        try:
            tables = apply_override(tables, override)
        except ValueError as error:
            refused.append(str(error))
    return tables, refused


def _convert(read: ReadTables, before_plugins: Callable[[Settings], None]) -> Settings:
    """Return the settings, which may be used only if no problem was added."""
    tables, problems = read.tables, read.problems
    converter = Converter(partial(expand_path, read.folder), problems)
    converter.check_section_names(tables)
    settings = Settings(
        capture=converter.convert_section(tables, "capture", CaptureSettings),
        attribution=converter.convert_section(tables, "attribution", AttributionSettings),
        aggregation=converter.convert_section(tables, "aggregation", AggregationSettings),
        networks=converter.convert_networks(tables),
        enrichment=converter.convert_section(tables, "enrichment", EnrichmentSettings),
        security=converter.convert_section(tables, "security", SecuritySettings),
        log=converter.convert_section(tables, "log", LogSettings),
        plugins=converter.convert_section(tables, "plugins", PluginSettings),
    )
    before_plugins(settings)
    registry = _load_plugins(settings.plugins, problems, read.find_distrust)
    sinks = converter.convert_sinks(tables, registry.sink_types)
    checks.check_capture(settings.capture, problems)
    checks.check_attribution(settings.attribution, problems)
    checks.check_ledger(settings.capture, settings.attribution, problems)
    networks = checks.check_networks(settings.networks, problems)
    checks.check_peer_names(settings.capture, settings.aggregation, settings.enrichment, problems)
    checks.check_aggregation(settings.capture, settings.aggregation, networks, problems)
    checks.check_security(settings.security, problems)
    checks.check_sinks([sink.common for sink in sinks], problems)
    run_sink_checks([sink.configured for sink in sinks], problems)
    _add_plugin_failures(sinks, registry, settings.plugins, problems)
    named = _name_sinks([sink.configured for sink in sinks if sink.configured])
    return msgspec.structs.replace(settings, sinks=named)


def _load_plugins(
    plugins: PluginSettings, problems: Problems, find_distrust: FindDistrust
) -> Registry:
    """Load plugins; a failed one is a problem if the file names its path, otherwise a warning."""
    paths = checks.check_plugin_paths(plugins, problems)
    registry = load_plugins(paths, plugins.disabled, find_distrust)
    for name in sorted(set(plugins.disabled) - {plugin.name for plugin in registry.plugins}):
        log.warning("plugins.disabled: there is no plugin %s", quote(name))
    index_of = _index_origins(plugins)
    secret = problems.is_secret(("plugins", "paths"))
    for plugin in registry.failures:
        if plugin.origin in index_of:
            at = ("plugins", "paths", index_of[plugin.origin])
            text = f"{quote(plugin.origin)} failed to load"
            problems.add(at, f"{text}: {plugin.error}", redacted="failed to load")
        else:
            reason = "" if secret else f" ({plugin.origin}): {plugin.error}"
            log.warning("plugin %s failed to load and is left out%s", plugin.name, reason)
    return registry


def _index_origins(plugins: PluginSettings) -> dict[str, int]:
    """Return the index of each configured path by the `origin` of a plugin loaded from it.

    A plugin found in a folder has its own file as origin, so it is not in this index.
    """
    return {printable(str(path)): index for index, path in enumerate(plugins.paths)}


def run_sink_checks(sinks: Sequence[ConfiguredSink | None], problems: Problems) -> None:
    """Run the `check` of each sink's type; None stands for a sink that could not be converted."""
    for index, sink in enumerate(sinks):
        at = ("sinks", index)
        if sink is None or problems.has_problem(at):
            continue
        try:
            for found in sink.type.check(sink.settings):
                problems.add((*at, *found.key_path), found.text, redacted=found.redacted)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin may raise
            text = "cannot be checked"
            problems.add(at, f"{text}: {describe_error(error)}", redacted=text)


def _add_plugin_failures(
    sinks: Sequence[ConvertedSink], registry: Registry, plugins: PluginSettings, problems: Problems
) -> None:
    """Add the plugins that failed to load if a sink type is unknown: one may have defined it.

    A plugin whose path the file names is already a problem of that path.
    """
    types = [sink.common.type for sink in sinks if sink.common]
    if all(name in registry.sink_types for name in types):
        return
    secret = problems.is_secret(("plugins", "paths"))
    for plugin in _list_unnamed_failures(registry, plugins):
        text = "failed to load, and the unknown sink type may be its own"
        problems.add(("plugins", plugin.name), text if secret else f"{text}: {plugin.error}")


def _list_unnamed_failures(registry: Registry, plugins: PluginSettings) -> list[PluginInfo]:
    index_of = _index_origins(plugins)
    return [plugin for plugin in registry.failures if plugin.origin not in index_of]


def _name_sinks(sinks: Sequence[ConfiguredSink]) -> tuple[ConfiguredSink, ...]:
    names = checks.choose_sink_names([sink.settings for sink in sinks])
    return tuple(
        ConfiguredSink(sink.type, msgspec.structs.replace(sink.settings, name=name))
        for sink, name in zip(sinks, names, strict=True)
    )
