"""PURE: numbers as short text, bars and charts, in Unicode or in ASCII."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

_DECIMAL = ("", "k", "M", "G", "T", "P", "E")
_UNICODE_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#@"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def format_number(value: float) -> str:
    """Return a count in at most five columns: `0`, `999`, `12.3k`, `4.5M`."""
    for unit in _DECIMAL:
        if value < 999.5 or unit == _DECIMAL[-1]:
            break
        value /= 1000
    if not unit or value >= 99.95:
        return f"{value:.0f}{unit}"
    return f"{value:.1f}{unit}"


def format_size(size: float, *, bits: bool) -> str:
    """Return bytes with their unit: `1.2 MB`, or in bits: `9.8 Mb`."""
    return _with_unit(size, bits=bits)


def format_speed(rate: float, *, bits: bool) -> str:
    """Return bytes a second with their unit: `1.2 MB/s`, or in bits: `9.8 Mb/s`."""
    return f"{_with_unit(rate, bits=bits)}/s"


def _with_unit(value: float, *, bits: bool) -> str:
    number = format_number(8 * value if bits else value)
    digits = number.rstrip("".join(_DECIMAL))
    return f"{digits} {number[len(digits) :]}{'b' if bits else 'B'}"


def format_age(seconds: float) -> str:
    """Return a duration in at most six columns: `3s`, `4m05s`, `2h10m`, `3d04h`."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02d}h"


def format_clock(seconds: float, *, with_date: bool) -> str:
    """Return a time since the epoch in UTC, as records, tables and `--since` have it."""
    pattern = "%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S"
    return datetime.fromtimestamp(seconds, UTC).strftime(f"{pattern} UTC")


def draw_sparkline(values: Sequence[float], width: int, *, is_ascii: bool) -> str:
    """Return the last `width` values as bars of one line, the newest at the right."""
    bars = _ASCII_BARS if is_ascii else _UNICODE_BARS
    shown = values[-width:]
    highest = max(shown, default=0.0)
    drawn = "".join(bars[_scale(value, highest, len(bars) - 1)] for value in shown)
    return drawn.rjust(width)


def draw_chart(values: Sequence[float], width: int, height: int, *, is_ascii: bool) -> list[str]:
    """Return `height` lines of bars, the newest value at the right, scaled to the highest."""
    bars = _ASCII_BARS if is_ascii else _UNICODE_BARS
    steps = 1 if is_ascii else len(bars) - 1
    full = "#" if is_ascii else bars[-1]
    shown = values[-width:]
    highest = max(shown, default=0.0)
    levels = [_scale(value, highest, height * steps) for value in shown]
    lines = []
    for line in range(height - 1, -1, -1):
        parts = (max(0, min(level - line * steps, steps)) for level in levels)
        text = "".join(full if part == steps else bars[part] for part in parts)
        lines.append(text.rjust(width))
    return lines


def _scale(value: float, highest: float, steps: int) -> int:
    """Return a value as a number of steps; what is above 0 has at least one."""
    return min(steps, ceil(value / highest * steps)) if highest > 0 and value > 0 else 0
