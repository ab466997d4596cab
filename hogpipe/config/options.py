"""PURE: the options of `hogpipe run` that stand for settings, applied to tables of TOML.

An option replaces the value of the file; `--set` is applied after the options. A section that is
not a table stays as it is, so that the conversion reports it.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was given on the command line; None or empty where nothing was."""

    interface: tuple[str, ...] = ()
    """`capture.interfaces`."""
    only: tuple[str, ...] = ()
    """`aggregation.only`."""
    group_by: tuple[str, ...] = ()
    """`aggregation.group_by`; each may hold several dimensions, separated by commas."""
    source: str | None = None
    """`capture.source`."""
    read: Path | None = None
    """`capture.path`, an absolute path, with the source "savefile"."""
    interval: str | None = None
    """`aggregation.interval`, as text."""
    format: str | None = None
    """`format` of each sink of the type stdout."""


def apply_options(tables: Mapping[str, object], options: RunOptions) -> dict[str, object]:
    """Return `tables` with the values of `options`. Raises ValueError with the option in it."""
    capture: dict[str, object] = {}
    if options.interface:
        capture["interfaces"] = list(options.interface)
    if options.source is not None:
        capture["source"] = options.source
    if options.read is not None:
        capture |= {"source": "savefile", "path": str(options.read)}
    aggregation: dict[str, object] = {}
    if options.only:
        aggregation["only"] = list(options.only)
    if options.group_by:
        names = [name.strip() for text in options.group_by for name in text.split(",")]
        aggregation["group_by"] = [name for name in names if name]
    if options.interval is not None:
        aggregation["interval"] = options.interval
    changed = {**tables}
    _update(changed, "capture", capture)
    _update(changed, "aggregation", aggregation)
    if options.format is not None:
        changed["sinks"] = _with_format(tables.get("sinks", [{"type": "stdout"}]), options.format)
    return changed


def _update(tables: dict[str, object], section: str, values: Mapping[str, object]) -> None:
    table = tables.get(section, {})
    if values and isinstance(table, dict):
        tables[section] = {**table, **values}


def _with_format(sinks: object, chosen: str) -> object:
    if not isinstance(sinks, list):
        return sinks
    if not any(map(_is_stdout, sinks)):
        raise ValueError("--format: the configuration has no sink of the type stdout")
    return [{**one, "format": chosen} if _is_stdout(one) else one for one in sinks]


def _is_stdout(sink: object) -> bool:
    return isinstance(sink, dict) and sink.get("type") == "stdout"
