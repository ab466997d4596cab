"""PURE: one value without parts of its own, by msgspec, and what is wrong with it in plain words.

The words replaced here are those of msgspec.ValidationError; what is not known stays as it is.
"""

import enum
import math
import re
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec

from hogpipe.config.problems import list_choices, show
from hogpipe.config.references import Referenced

_BOUND = re.compile(r"Expected `\w+` (>=|>|<=|<) (\S+)")
_LENGTH = re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)")
_LIMITS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


class LeafError(ValueError):
    """A value that does not fit; `discreet` says so without quoting it."""

    def __init__(self, text: str, discreet: str) -> None:
        super().__init__(text)
        self.discreet = discreet


def convert_leaf(raw: object, kind: object) -> object:
    """Return `raw` as a `kind`, a type that msgspec knows; raises LeafError.

    An int is a float too, a bool is not an int, and numbers are finite and within 64 bits. What a
    reference gave is text: from that, numbers and booleans are read.
    """
    value = _reveal(raw)
    try:
        _check_number(value)
        converted = msgspec.convert(value, kind, strict=not _holds_reference(raw))
        _check_number(converted)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, kind) from error
    return converted


def strip_kind(kind: object) -> object:
    """Return the type `kind` without its annotations, and without `| None`: TOML has no null."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return strip_kind(arguments[0])
    if get_origin(kind) in {Union, UnionType}:
        some = [argument for argument in arguments if argument is not NoneType]
        return strip_kind(some[0]) if len(some) == 1 else kind
    return kind


def name_type(value: object) -> str:
    """Return what TOML, or else Python, calls the type of `value`."""
    names: dict[type, str] = {dict: "table", list: "array", Referenced: "str"}
    return names.get(type(value), type(value).__name__)


def _reveal(raw: object) -> object:
    """Return `raw` with the texts of the references in it."""
    match raw:
        case Referenced(text):
            return text
        case dict():
            return {key: _reveal(item) for key, item in raw.items()}
        case list():
            return [_reveal(item) for item in raw]
        case _:
            return raw


def _holds_reference(raw: object) -> bool:
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return isinstance(raw, Referenced) or any(map(_holds_reference, parts))


def _check_number(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise msgspec.ValidationError("must be a finite number")
    if isinstance(value, int) and value.bit_length() > 63:  # the sign is the 64th
        raise msgspec.ValidationError("must fit into 64 bits")


def _choices(kind: object) -> list[object]:
    bare = strip_kind(kind)
    if get_origin(bare) is Literal:
        return list(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return [member.value for member in bare]
    return []


def _explain(message: str, value: object, kind: object) -> LeafError:
    if not message.startswith("Invalid "):
        text = _rephrase(message)
        return LeafError(text, text)
    # Only messages that begin so quote the value.
    if choices := _choices(kind):
        text = f"must be {list_choices(choices)}"
        return LeafError(f"{text}, not {show(value)}", text)
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
