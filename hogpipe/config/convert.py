"""PURE: from untyped tables to the structs of settings.py, with all that is wrong reported.

msgspec stops at the first error, so the walk over tables and arrays is here and only the leaves are
left to it. A wrong field gets its default, so that what depends on others can still be checked; the
result is of use only if the report stays empty.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import EllipsisType
from typing import TypeVar, get_args, get_origin

import msgspec

from hogpipe.config.leaves import LeafError, convert_leaf, name_type, strip_kind
from hogpipe.config.problems import Place, Report, list_known, quote, suggest
from hogpipe.config.settings import Settings, SinkChoice
from hogpipe.sinks.contract import SinkSettings, SinkType

SinkTypes = Mapping[str, SinkType[SinkSettings]]
S = TypeVar("S", bound=msgspec.Struct)

_DEFAULT_SINK = {"type": "stdout"}
_SEQUENCES = {tuple, list, set, frozenset}


class ConvertedSink(msgspec.Struct, frozen=True):
    """What could be made of a `[[sinks]]` table: what all sinks have, and the whole of it."""

    common: SinkSettings | None = None
    choice: SinkChoice | None = None


class Converter:
    """Converts the parts of one configuration.

    `locate` makes a path of what the file holds for one; it raises ValueError.
    """

    def __init__(self, locate: Callable[[str], Path], report: Report) -> None:
        self._locate = locate
        self._report = report

    def check_sections(self, tables: Mapping[str, object]) -> None:
        """Report the top-level keys that are not known."""
        self._check_keys(tables, Settings.__struct_encode_fields__, ())

    def section(self, tables: Mapping[str, object], name: str, struct: type[S]) -> S:
        """Return the section `name` of `tables` as a `struct`, whose fields all have defaults."""
        return self._struct(tables.get(name, {}), struct, (name,)) or struct()

    def sinks(self, tables: Mapping[str, object], types: SinkTypes) -> list[ConvertedSink]:
        """Return the sinks of `tables`; one for stdout if that says nothing of sinks."""
        sinks = tables.get("sinks", [_DEFAULT_SINK])
        if not isinstance(sinks, list):
            expected = f"expected array of tables, got {name_type(sinks)}"
            self._report.add(("sinks",), f"{expected}; write [[sinks]]")
            return []
        return [self._sink(table, types, ("sinks", index)) for index, table in enumerate(sinks)]

    def _sink(self, table: object, types: SinkTypes, place: Place) -> ConvertedSink:
        """Convert what all sinks have first: that can be checked whatever becomes of the rest."""
        common = self._struct(table, SinkSettings, place, strict_keys=False)
        if common is None:
            return ConvertedSink()
        if common.type not in types:
            self._report.add(
                (*place, "type"),
                f"unknown sink type {quote(common.type)}{suggest(common.type, types)}",
                discreet=f"unknown sink type{list_known(types)}",
            )
            return ConvertedSink(common)
        sink_type = types[common.type]
        settings = self._struct(table, sink_type.settings, place)
        return ConvertedSink(common, SinkChoice(sink_type, settings) if settings else None)

    def _check_keys(self, table: Mapping[str, object], known: Collection[str], at: Place) -> None:
        for key in table:
            if key not in known:
                self._report.add((*at, key), f"unknown key{suggest(key, known)}")

    def _struct(
        self, table: object, struct: type[S], place: Place, *, strict_keys: bool = True
    ) -> S | None:
        """Return None if what has no default is missing or wrong, or the struct itself objects."""
        if not isinstance(table, dict):
            self._report.add(place, f"expected table, got {name_type(table)}")
            return None
        fields = msgspec.structs.fields(struct)
        if strict_keys:
            self._check_keys(table, [field.encode_name for field in fields], place)
        values: dict[str, object] = {}
        for field in fields:
            at = (*place, field.encode_name)
            if field.encode_name in table:
                value = self._value(table[field.encode_name], field.type, at)
                if not self._report.is_wrong(at):
                    values[field.name] = value
            elif field.required:
                self._report.add(at, "required")
        if any(field.required and field.name not in values for field in fields):
            return None
        try:
            return struct(**values)
        except (TypeError, ValueError) as error:  # from __post_init__, as msgspec takes them
            self._report.add(place, str(error), discreet="these values do not go together")
            return None

    def _value(self, raw: object, kind: object, place: Place) -> object:
        """Return `raw` as a `kind`; what is returned means nothing if `place` is wrong then."""
        bare = strip_kind(kind)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            return self._struct(raw, bare, place)
        if bare is Path:
            return self._path(raw, place)
        return self._leaf(self._parts(raw, bare, place), kind, place)

    def _parts(self, raw: object, bare: object, place: Place) -> object:
        """Return an array or table with its items converted, and anything else as it is."""
        match get_origin(bare), get_args(bare), raw:
            case (builtin, (item,) | (item, EllipsisType()), list()) if builtin in _SEQUENCES:
                return [self._value(value, item, (*place, i)) for i, value in enumerate(raw)]
            case (builtin, (_, item), dict()) if builtin is dict:
                return {key: self._value(v, item, (*place, key)) for key, v in raw.items()}
            case _:
                return raw

    def _path(self, raw: object, place: Place) -> Path | None:
        text = self._leaf(raw, str, place)
        if not isinstance(text, str):
            return None
        try:
            return self._locate(text)
        except ValueError as error:
            self._report.add(place, str(error))
            return None

    def _leaf(self, raw: object, kind: object, place: Place) -> object:
        """Convert what has no parts, or whose parts are converted: their number may have bounds."""
        if self._report.is_wrong(place):
            return None
        try:
            return convert_leaf(raw, kind)
        except LeafError as error:
            self._report.add(place, str(error), discreet=error.discreet)
            return None
