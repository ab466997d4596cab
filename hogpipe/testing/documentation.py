"""PURE: whether a page of documentation agrees with the settings of a sink type."""

import re
from collections.abc import Sequence

import orjson
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from hogpipe.sinks.contract import SinkSettings
from hogpipe.sinks.encoding import JsonSettings

_HEAD = "| key | default |"
_ROW = re.compile(r"^\| (?P<keys>`\w+`(?:, `\w+`)*) \| (?P<default>.*?) ?\|", re.MULTILINE)
_INHERITED = {field.name for field in fields(JsonSettings)}


def find_code_blocks(page: str, language: str) -> Sequence[str]:
    """Return the code of the blocks of one language in a Markdown page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def check_key_table(page: str, settings: type[SinkSettings]) -> None:
    """Raise AssertionError unless the page has a table with each key and its default.

    The table begins with `| key | default |`. A row names one key, or several with their defaults.
    The default is empty where the key is required, and may be empty or `none` where it is None. The
    keys of `SinkSettings` and `JsonSettings` need no row.
    """
    known = {field.name: field for field in fields(settings)}
    table = page.partition(_HEAD)[2].partition("\n\n")[0]
    rows = [(re.findall(r"\w+", row["keys"]), row["default"]) for row in _ROW.finditer(table)]
    named = {key for keys, _default in rows for key in keys}
    if missing := known.keys() - _INHERITED - named:
        raise AssertionError(f"no row for {', '.join(sorted(missing))}")
    if unknown := named - known.keys():
        raise AssertionError(f"a row for {', '.join(sorted(unknown))}, which is no key")
    for keys, default in rows:
        wanted = [_show_default(known[key]) for key in keys]
        shown = default.replace("`", "").removesuffix("none")
        if shown != ", ".join(filter(None, wanted)):
            raise AssertionError(f"the default of {', '.join(keys)} is not {default}")


def _show_default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not NODEFAULT:
        default = field.default_factory()
    return "" if default is NODEFAULT or default is None else _as_toml(default)


def _as_toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_toml, value))}]"
    return str(value) if isinstance(value, float) else orjson.dumps(value).decode()
