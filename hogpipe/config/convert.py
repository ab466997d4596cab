"""PURE: conversion of untyped tables to the structs of settings.py.

msgspec stops at the first error, so `Converter` walks tables and arrays itself and leaves only
single values to msgspec (leaves.py). Every problem is added to one `Problems`; a field with a wrong
value gets its default, so that checks that depend on other fields can still run. The converted
settings may be used only if there are no problems.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import EllipsisType
from typing import TypeVar, cast, get_args, get_origin

import msgspec

from hogpipe.config.leaves import LeafError, convert_leaf, name_type, strip_annotations
from hogpipe.config.overrides import BareText
from hogpipe.config.problems import KeyPath, Problems, list_known, quote, suggest
from hogpipe.config.settings import ConfiguredSink, NamedPrefixes, Settings
from hogpipe.sinks.contract import SinkSettings, SinkType

SinkTypes = Mapping[str, SinkType[SinkSettings]]
S = TypeVar("S", bound=msgspec.Struct)

_DEFAULT_SINK = {"type": "stdout"}
_SEQUENCES = {tuple, list, set, frozenset}


class ConvertedSink(msgspec.Struct, frozen=True):
    """What a `[[sinks]]` table gave, as far as it could be converted."""

    common: SinkSettings | None = None
    """The settings that every sink has."""
    configured: ConfiguredSink | None = None
    """The whole table, with the settings of its own type."""


class Converter:
    """Converts the sections of one configuration.

    `expand_path` makes a path of a string in the file; it raises ValueError.
    """

    def __init__(self, expand_path: Callable[[str], Path], problems: Problems) -> None:
        self._expand_path = expand_path
        self._problems = problems

    def check_section_names(self, tables: Mapping[str, object]) -> None:
        """Add a problem for each unknown top-level key."""
        self._check_keys(tables, Settings.__struct_encode_fields__, ())

    def convert_section(self, tables: Mapping[str, object], name: str, struct: type[S]) -> S:
        """Return the section `name` of `tables` as a `struct`, whose fields all have defaults."""
        return self._convert_struct(tables.get(name, {}), struct, (name,)) or struct()

    def convert_networks(self, tables: Mapping[str, object]) -> NamedPrefixes:
        """Return the named networks of `tables`; none if there is a problem."""
        at = ("networks",)
        networks = self._convert_value(tables.get("networks", {}), NamedPrefixes, at)
        return cast("NamedPrefixes", networks) if not self._problems.has_problem(at) else {}

    def convert_sinks(self, tables: Mapping[str, object], types: SinkTypes) -> list[ConvertedSink]:
        """Return the sinks of `tables`; a single stdout sink if there is no key `sinks`."""
        sinks = tables.get("sinks", [_DEFAULT_SINK])
        if not isinstance(sinks, list):
            expected = f"expected array of tables, got {name_type(sinks)}"
            self._problems.add(("sinks",), f"{expected}; write [[sinks]]")
            return []
        return [self._convert_sink(one, types, ("sinks", index)) for index, one in enumerate(sinks)]

    def _convert_sink(self, table: object, types: SinkTypes, at: KeyPath) -> ConvertedSink:
        """Convert the common settings first, so that they are checked even if the type is wrong."""
        common = self._convert_struct(table, SinkSettings, at, strict_keys=False)
        if common is None:
            return ConvertedSink()
        if common.type not in types:
            self._problems.add(
                (*at, "type"),
                f"unknown sink type {quote(common.type)}{suggest(common.type, types)}",
                redacted=f"unknown sink type{list_known(types)}",
            )
            return ConvertedSink(common)
        sink_type = types[common.type]
        settings = self._convert_struct(table, sink_type.settings, at)
        return ConvertedSink(common, ConfiguredSink(sink_type, settings) if settings else None)

    def _check_keys(self, table: Mapping[str, object], known: Collection[str], at: KeyPath) -> None:
        for key in table:
            if key not in known:
                self._problems.add((*at, key), f"unknown key{suggest(key, known)}")

    def _convert_struct(
        self, table: object, struct: type[S], at: KeyPath, *, strict_keys: bool = True
    ) -> S | None:
        """Return None if a required field is missing or wrong, or if the struct itself raises."""
        if not isinstance(table, dict):
            self._problems.add(at, f"expected table, got {name_type(table)}")
            return None
        fields = msgspec.structs.fields(struct)
        if strict_keys:
            self._check_keys(table, [field.encode_name for field in fields], at)
        values: dict[str, object] = {}
        for field in fields:
            field_at = (*at, field.encode_name)
            if field.encode_name in table:
                value = self._convert_value(table[field.encode_name], field.type, field_at)
                if not self._problems.has_problem(field_at):
                    values[field.name] = value
            elif field.required:
                self._problems.add(field_at, "required")
        if any(field.required and field.name not in values for field in fields):
            return None
        try:
            return struct(**values)
        except (TypeError, ValueError) as error:  # what msgspec expects of __post_init__
            self._problems.add(at, str(error), redacted="these values do not go together")
            return None

    def _convert_value(self, raw: object, target: object, at: KeyPath) -> object:
        """Return `raw` as the type `target`; the result is undefined if `at` has a problem."""
        bare = strip_annotations(target)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            return self._convert_struct(raw, bare, at)
        if bare is Path:
            return self._convert_path(raw, at)
        return self._convert_leaf(self._convert_items(raw, bare, at), target, at)

    def _convert_items(self, raw: object, bare: object, at: KeyPath) -> object:
        """Return an array or table with its items converted, and anything else unchanged."""
        if isinstance(raw, BareText) and get_origin(bare) in _SEQUENCES:
            raw = [str(raw)]
        match get_origin(bare), get_args(bare), raw:
            case (builtin, (item,) | (item, EllipsisType()), list()) if builtin in _SEQUENCES:
                return [self._convert_value(v, item, (*at, index)) for index, v in enumerate(raw)]
            case (builtin, (_, item), dict()) if builtin is dict:
                return {key: self._convert_value(v, item, (*at, key)) for key, v in raw.items()}
            case _:
                return raw

    def _convert_path(self, raw: object, at: KeyPath) -> Path | None:
        text = self._convert_leaf(raw, str, at)
        if not isinstance(text, str):
            return None
        try:
            return self._expand_path(text)
        except ValueError as error:
            self._problems.add(at, str(error))
            return None

    def _convert_leaf(self, raw: object, target: object, at: KeyPath) -> object:
        """Convert a single value, or an array whose items are converted (its length has bounds)."""
        if self._problems.has_problem(at):
            return None
        try:
            return convert_leaf(raw, target)
        except LeafError as error:
            self._problems.add(at, str(error), redacted=error.redacted)
            return None
