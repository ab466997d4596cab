"""PURE: durations as people write them: 1.5, "1.5", "500ms", "30s", "5m", "1h30m", "1d".

A setting is a duration if its type is `Seconds` (hogpipe.sinks.contract), with further bounds or
not. Text without a unit is a number of seconds, as in a number of TOML.
"""

import re
from typing import Annotated, get_args, get_origin

from msgspec import Meta

from hogpipe.sinks.contract import DURATION

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_PARTS = re.compile(f"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
EXPECTED = 'expected seconds, or text such as "500ms", "30s", "5m" or "1h30m"'


def is_duration(target: object) -> bool:
    """Return whether `target`, the type of a setting, is `Seconds`, optional or with bounds."""
    arguments = get_args(target)
    if get_origin(target) is Annotated:
        return any(isinstance(one, Meta) and one.extra == DURATION for one in arguments[1:])
    return any(is_duration(argument) for argument in arguments)


def parse_seconds(text: str) -> float:
    """Return the seconds that `text` means. Raises ValueError."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _PARTS.fullmatch(text):
        raise ValueError(EXPECTED)
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
