"""PURE: conversion of a single value (a leaf of the tables) by msgspec, with readable errors.

`_rephrase` turns the texts of msgspec.ValidationError into the project's own; a text that it does
not recognize is passed on with only its quotes removed.
"""

import enum
import math
import re
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec

from hogpipe.config.durations import is_duration, parse_seconds
from hogpipe.config.problems import format_value, list_choices
from hogpipe.config.references import ReferencedText

_BOUND = re.compile(r"Expected `\w+` (>=|>|<=|<) (\S+)")
_LENGTH = re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)")
_LIMITS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


class LeafError(ValueError):
    """A value that does not fit its type; `redacted` is the message without the value."""

    def __init__(self, text: str, redacted: str) -> None:
        super().__init__(text)
        self.redacted = redacted


def convert_leaf(raw: object, target: object) -> object:
    """Return `raw` as the type `target`, one that msgspec knows; raises LeafError.

    An int is accepted for a float, a bool is not accepted for an int, and numbers must be finite
    and fit into 64 bits. A duration may be text with units (durations.py). References give text, so
    numbers and booleans are parsed from theirs.
    """
    value = _replace_references(raw)
    if isinstance(value, str) and is_duration(target):
        value = _parse_duration(value)
    try:
        _check_number(value)
        converted = msgspec.convert(value, target, strict=not _contains_reference(raw))
        _check_number(converted)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, target) from error
    return converted


def _parse_duration(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise LeafError(f"{error}, not {format_value(text)}", str(error)) from error


def strip_annotations(annotated: object) -> object:
    """Return a type without `Annotated` and without `| None`: TOML has no null."""
    arguments = get_args(annotated)
    if get_origin(annotated) is Annotated:
        return strip_annotations(arguments[0])
    if get_origin(annotated) in {Union, UnionType}:
        some = [argument for argument in arguments if argument is not NoneType]
        return strip_annotations(some[0]) if len(some) == 1 else annotated
    return annotated


def name_type(value: object) -> str:
    """Return TOML's name for the type of `value`, or Python's name if TOML has no such type."""
    names: dict[type, str] = {dict: "table", list: "array", ReferencedText: "str"}
    return names.get(type(value), type(value).__name__)


def _replace_references(raw: object) -> object:
    match raw:
        case ReferencedText(text):
            return text
        case str():
            return str(raw)  # of a `BareText`
        case dict():
            return {key: _replace_references(item) for key, item in raw.items()}
        case list():
            return [_replace_references(item) for item in raw]
        case _:
            return raw


def _contains_reference(raw: object) -> bool:
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return isinstance(raw, ReferencedText) or any(map(_contains_reference, parts))


def _check_number(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise msgspec.ValidationError("must be a finite number")
    if isinstance(value, int) and value.bit_length() > 63:  # the sign is the 64th
        raise msgspec.ValidationError("must fit into 64 bits")


def _list_choices_of(target: object) -> list[object]:
    bare = strip_annotations(target)
    if get_origin(bare) is Literal:
        return list(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return [member.value for member in bare]
    return []


def _explain(message: str, value: object, target: object) -> LeafError:
    if not message.startswith("Invalid "):
        text = _rephrase(message)
        return LeafError(text, text)
    # Of msgspec's messages only those that begin with "Invalid" quote the value.
    if choices := _list_choices_of(target):
        text = f"must be {list_choices(choices)}"
        return LeafError(f"{text}, not {format_value(value)}", text)
    return LeafError(_rephrase(message), "not a valid value")


def _rephrase(message: str) -> str:
    text, _, inside = message.partition(" - at `$")
    if bound := _BOUND.fullmatch(text):
        text = f"must be {_LIMITS[bound[1]]} {bound[2].removesuffix('.0')}"
    elif length := _LENGTH.fullmatch(text):
        unit = "characters" if length[1] == "str" else "items"
        text = f"must have {_LIMITS[length[2]]} {length[3]} {unit}"
        if length.group(2, 3) == (">=", "1"):
            text = "must not be empty"
    else:
        text = text.replace(" | null", "").replace("`object`", "table").replace("`", "")
        text = text[:1].lower() + text[1:]
    return f"{text} (at {inside.rstrip('`')})" if inside else text
