"""PURE: what a run can take over of a changed configuration, and what needs a restart.

In: the settings of a run, and those of its file by now. Out: a `Change`.

- `[aggregation]`, `[networks]`, `[enrichment]` and the sinks are taken over, except by a replay,
  whose records follow from its first settings. `[plugins]` has effect by the sinks alone.
- `enrichment.peer_names` and all other keys take effect at the next start. So does `group_by` if
  the present source has no data for it: the file may name another source by now. And so do
  `group_by` and `only` with `domain` if nothing in the run reads DNS answers yet.
- A sink stays if its type, name and settings are the same, whatever its position. The code of a
  plugin is not compared.
"""

from collections.abc import Collection, Sequence
from typing import TypeVar, cast

import msgspec

from hogpipe.aggregation.dimensions import list_row_fields
from hogpipe.aggregation.selectors import selects_domains
from hogpipe.config.problems import KeyPath, format_key_path
from hogpipe.config.settings import (
    AggregationSettings,
    ConfiguredSink,
    EnrichmentSettings,
    Settings,
)

_Section = TypeVar("_Section", AggregationSettings, EnrichmentSettings)
_TAKEN_OVER = ("aggregation", "networks", "enrichment")
_GROUP_BY, _ONLY = ("aggregation", "group_by"), ("aggregation", "only")
_PEER_NAMES = ("enrichment", "peer_names")


class Change(msgspec.Struct, frozen=True):
    """The difference between two configurations of a run."""

    settings: Settings
    """Those of the run after the change."""
    keys: tuple[str, ...]
    """Keys outside of `[[sinks]]` that are taken over."""
    kept_sinks: tuple[int | None, ...]
    """For each sink after the change, its number before; None for a new one."""
    sinks: tuple[str, ...]
    """What happens to each sink that does not stay, in words for the user."""
    at_next_start: tuple[str, ...]
    """Keys that differ, and take effect at the next start."""


def compare_settings(present: Settings, wanted: Settings) -> Change:
    """Return what changes in a run with the settings `present` if those are `wanted`."""
    is_live = present.capture.source != "savefile"
    changed = _list_changed_keys(present, wanted)
    late = _list_late(present, wanted)
    taken = [key for key in changed if is_live and key[0] in _TAKEN_OVER and key not in late]
    settings = msgspec.structs.replace(present, plugins=wanted.plugins, sinks=wanted.sinks)
    if is_live:
        settings = msgspec.structs.replace(
            settings,
            aggregation=_keep("aggregation", present.aggregation, wanted.aggregation, late),
            networks=wanted.networks,
            enrichment=_keep("enrichment", present.enrichment, wanted.enrichment, late),
        )
    kept = _match_sinks(present.sinks, wanted.sinks)
    return Change(
        settings,
        tuple(format_key_path(key) for key in taken),
        kept,
        tuple(_describe_sinks(present.sinks, wanted.sinks, kept)),
        tuple(format_key_path(key) for key in changed if key not in taken),
    )


def _list_changed_keys(present: Settings, wanted: Settings) -> list[KeyPath]:
    """Return the paths of keys that differ, but for those of plugins and sinks."""
    before, after = msgspec.structs.asdict(present), msgspec.structs.asdict(wanted)
    return [
        (section, key)
        for section in before
        if section not in {"plugins", "sinks"}
        for key in _list_keys(before[section], after[section])
    ]


def _list_keys(present: object, wanted: object) -> list[str]:
    """Return the keys of a section that differ."""
    before, after = (
        one if isinstance(one, dict) else msgspec.structs.asdict(cast("msgspec.Struct", one))
        for one in (present, wanted)
    )
    keys = dict.fromkeys([*before, *after])
    return [key for key in keys if before.get(key) != after.get(key)]


def _list_late(present: Settings, wanted: Settings) -> set[KeyPath]:
    """Return keys of sections that are taken over, which take effect at the next start."""
    late: set[KeyPath] = {_PEER_NAMES}
    if not _can_be_grouped(present, wanted):
        late.add(_GROUP_BY)
    if not present.needs_peer_names:
        late |= {_GROUP_BY} if "domain" in wanted.aggregation.group_by else set()
        late |= {_ONLY} if any(map(selects_domains, wanted.aggregation.only)) else set()
    return late


def _keep(section: str, present: _Section, wanted: _Section, late: Collection[KeyPath]) -> _Section:
    """Return a section with the present values of keys that are late."""
    values = msgspec.structs.asdict(present)
    kept = {key: value for key, value in values.items() if (section, key) in late}
    return msgspec.structs.replace(wanted, **kept)


def _can_be_grouped(present: Settings, wanted: Settings) -> bool:
    """Return whether the present source has data for the dimensions that are wanted."""
    if present.capture.source != "ebpf":
        return True
    try:
        list_row_fields(wanted.aggregation.group_by)
    except ValueError:
        return False
    return True


def _match_sinks(
    present: Sequence[ConfiguredSink], wanted: Sequence[ConfiguredSink]
) -> tuple[int | None, ...]:
    free = dict(enumerate(map(_describe_values, present)))
    matches = []
    for values in map(_describe_values, wanted):
        number = next((number for number, one in free.items() if one == values), None)
        if number is not None:
            del free[number]
        matches.append(number)
    return tuple(matches)


def _describe_values(sink: ConfiguredSink) -> object:
    """Return what identifies a sink: plain values, as a plugin that is loaded again has new types.

    What is no plain value, such as a path, counts by its representation.
    """
    return msgspec.to_builtins(sink.settings, enc_hook=repr)


def _describe_sinks(
    present: Sequence[ConfiguredSink],
    wanted: Sequence[ConfiguredSink],
    kept: Sequence[int | None],
) -> list[str]:
    leaving = [_name(sink) for number, sink in enumerate(present) if number not in kept]
    new = [_name(sink) for sink, number in zip(wanted, kept, strict=True) if number is None]
    return [
        *(f"sink {name} {'changed' if name in leaving else 'added'}" for name in new),
        *(f"sink {name} removed" for name in leaving if name not in new),
    ]


def _name(sink: ConfiguredSink) -> str:
    return sink.settings.name or sink.settings.type
