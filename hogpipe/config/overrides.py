"""PURE: `--set KEY=VALUE` applied to the tables of a configuration file.

The key is a path of bare keys and indices: `aggregation.interval`, `sinks[0].path` or
`sinks.0.path`. The value is parsed as a TOML value. Text that is not TOML stands for itself, and
where an array is expected, for an array with that text as its only item (`BareText`).
Missing tables are created, and an array grows by its next free index.
"""

import re
import tomllib
from collections.abc import Mapping

from hogpipe.config.problems import quote, shorten
from hogpipe.text import printable


class BareText(str):
    """A value that is not TOML."""

    __slots__ = ()


_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+|\[[0-9]+\])*")
_STEP = re.compile(r"[A-Za-z0-9_-]+")
_INDEX = re.compile(r"[0-9]{1,9}")


def apply_override(tables: Mapping[str, object], override: str) -> dict[str, object]:
    """Return `tables` with one override; raises ValueError with a line that names its key."""
    key, equals, value = override.partition("=")
    key = key.strip()
    try:
        return _apply(tables, key, value if equals else None)
    except ValueError as error:
        raise ValueError(printable(f"--set {shorten(key)}: {error}")) from error


def _apply(tables: Mapping[str, object], key: str, value: str | None) -> dict[str, object]:
    if value is None:
        raise ValueError("expected KEY=VALUE")
    if not _KEY.fullmatch(key):
        raise ValueError("the key is not a path such as sinks[0].path")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the value is not UTF-8") from error
    first, *rest = _STEP.findall(key)
    return {**tables, first: _replace(tables.get(first), first, rest, _parse_value(value))}


def _replace(node: object, path: str, steps: list[str], value: object) -> object:
    """Return `node` with the value at the end of `steps` replaced.

    `path` is the path of `node` itself, for messages; a `node` that does not exist is None.
    """
    if not steps:
        return value
    step, *rest = steps
    if node is None:
        node = [] if _INDEX.fullmatch(step) else {}
    if isinstance(node, list):
        return _replace_item(node, path, steps, value)
    if isinstance(node, dict):
        return {**node, step: _replace(node.get(step), f"{path}.{step}", rest, value)}
    raise ValueError(f"{path} is neither a table nor an array")


def _replace_item(node: list[object], path: str, steps: list[str], value: object) -> list[object]:
    step, *rest = steps
    if not _INDEX.fullmatch(step):
        raise ValueError(f"{path} is an array: expected an index, got {quote(step)}")
    index = int(step)
    if index > len(node):
        raise ValueError(f"{path} has {len(node)} items, so the next free index is {len(node)}")
    item = node[index] if index < len(node) else None
    replaced = _replace(item, f"{path}[{index}]", rest, value)
    return [*node[:index], replaced, *node[index + 1 :]]


def _parse_value(text: str) -> object:
    try:
        # An inline table cannot contain a comment or a second line, so neither is ignored.
        tables = tomllib.loads(f"inline = {{value = {text}}}")
    except ValueError:
        return BareText(text)
    match tables:
        case {"inline": {"value": value, **others}, **outside} if not others and not outside:
            return value
    return BareText(text)
