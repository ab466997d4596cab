"""From a configuration file to the settings of a run: the one module that reads it."""

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from hogpipe.config import checks
from hogpipe.config.convert import ConvertedSink, Converter
from hogpipe.config.overrides import apply_override
from hogpipe.config.problems import Report, quote
from hogpipe.config.references import Resolver, locate
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    EnrichmentSettings,
    PluginSettings,
    Settings,
    SinkChoice,
)
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.registry import PluginInfo, Registry, load_plugins
from hogpipe.text import describe_error, printable

log = logging.getLogger(__name__)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of the file at `path` after the `overrides`, each `KEY=VALUE`.

    Plugins are loaded on the way. Those that fail are logged, unless the file names them itself.
    Raises ConfigurationError, whose `problems` are all that is wrong.
    """
    report = Report()
    try:
        tables, refused = _override(_read_tables(path), overrides)
        settings = _convert(tables, path.absolute().parent, report)
    except RecursionError as error:
        raise ConfigurationError(f"{printable(str(path))}: nested too deeply") from error
    if problems := [*refused, *report.lines(str(path))]:
        raise ConfigurationError(problems)
    return settings


def _read_tables(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = f"cannot read it: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (at byte {error.start})"
    except ValueError as error:  # TOMLDecodeError, or a number that has too many digits
        reason = str(error)
    raise ConfigurationError(printable(f"{path}: {reason}"))


def _override(
    tables: Mapping[str, object], overrides: Sequence[str]
) -> tuple[Mapping[str, object], list[str]]:
    """Return the changed tables, and a line for each override that could not be applied."""
    refused = []
    for override in overrides:
        try:
            tables = apply_override(tables, override)
        except ValueError as error:
            refused.append(str(error))
    return tables, refused


def _convert(tables: Mapping[str, object], folder: Path, report: Report) -> Settings:
    """Return the settings, which are of use only if the report stays empty."""
    tables = Resolver(folder, os.environ, report).resolve(tables)
    converter = Converter(partial(locate, folder), report)
    converter.check_sections(tables)
    settings = Settings(
        capture=converter.section(tables, "capture", CaptureSettings),
        attribution=converter.section(tables, "attribution", AttributionSettings),
        aggregation=converter.section(tables, "aggregation", AggregationSettings),
        enrichment=converter.section(tables, "enrichment", EnrichmentSettings),
        plugins=converter.section(tables, "plugins", PluginSettings),
    )
    registry = _load_plugins(settings.plugins, report)
    sinks = converter.sinks(tables, registry.sink_types)
    checks.check_capture(settings.capture, report)
    checks.check_attribution(settings.attribution, report)
    checks.check_ledger(settings.capture, settings.attribution, report)
    checks.check_aggregation(settings.aggregation, report)
    checks.check_sinks([sink.common for sink in sinks], report)
    check_choices([sink.choice for sink in sinks], report)
    unnamed = [one for one in registry.failures if one.origin not in _list_named(settings.plugins)]
    _blame_plugins(sinks, registry, unnamed, report)
    return msgspec.structs.replace(settings, sinks=_name([s.choice for s in sinks if s.choice]))


def _load_plugins(plugins: PluginSettings, report: Report) -> Registry:
    """Load plugins; one that failed is an error if the file names it, and else a warning."""
    registry = load_plugins(checks.check_plugin_paths(plugins, report), plugins.disabled)
    for name in sorted(set(plugins.disabled) - {plugin.name for plugin in registry.plugins}):
        log.warning("plugins.disabled: there is no plugin %s", quote(name))
    named = _list_named(plugins)
    secret = report.is_secret(("plugins", "paths"))
    for plugin in registry.failures:
        if plugin.origin in named:
            place = ("plugins", "paths", named[plugin.origin])
            text = f"{quote(plugin.origin)} failed to load"
            report.add(place, f"{text}: {plugin.error}", discreet="failed to load")
        else:
            reason = "" if secret else f" ({plugin.origin}): {plugin.error}"
            log.warning("plugin %s failed to load and is left out%s", plugin.name, reason)
    return registry


def _list_named(plugins: PluginSettings) -> dict[str, int]:
    """Return the index of each path that the file names, by what a plugin from there has as origin.

    Those of plugins from a folder are not among them.
    """
    return {printable(str(path)): index for index, path in enumerate(plugins.paths)}


def check_choices(choices: Sequence[SinkChoice | None], report: Report) -> None:
    """Let each sink type check the settings that are right so far; None stands for no settings."""
    for index, choice in enumerate(choices):
        place = ("sinks", index)
        if choice is None or report.is_wrong(place):
            continue
        try:
            for problem in choice.type.check(choice.settings):
                report.add((*place, *problem.place), problem.text, discreet=problem.discreet)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin may raise
            text = "cannot be checked"
            report.add(place, f"{text}: {describe_error(error)}", discreet=text)


def _blame_plugins(
    sinks: Sequence[ConvertedSink],
    registry: Registry,
    failures: Sequence[PluginInfo],
    report: Report,
) -> None:
    """Say of `failures`, not told so far, if a sink type is not known: it may be theirs."""
    types = [sink.common.type for sink in sinks if sink.common]
    if all(name in registry.sink_types for name in types):
        return
    secret = report.is_secret(("plugins", "paths"))
    for plugin in failures:
        text = "failed to load, and the unknown sink type may be its own"
        report.add(("plugins", plugin.name), text if secret else f"{text}: {plugin.error}")


def _name(choices: Sequence[SinkChoice]) -> tuple[SinkChoice, ...]:
    names = checks.choose_names([choice.settings for choice in choices])
    return tuple(
        SinkChoice(choice.type, msgspec.structs.replace(choice.settings, name=name))
        for choice, name in zip(choices, names, strict=True)
    )
