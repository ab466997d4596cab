"""PURE: a series as a chart of characters.

In: a series, the width and the encoding of the terminal. Out: lines: bytes of all groups in each
step as columns, with an axis of bytes and one of time, and below it a row for each group, whose
shades compare it with the largest step of any group. Where there are more steps than columns, a
column is the sum of neighbouring steps. Where an encoding has no block elements, ASCII characters
take their place.
"""

from collections.abc import Sequence

from hogpipe.report.question import Series, merge_steps
from hogpipe.report.text_table import name_group
from hogpipe.report.times import format_time
from hogpipe.sinks.table import format_size
from hogpipe.sinks.table_layout import encode, fit, replace_ellipsis

HEIGHT = 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"
_AXIS_WIDTH = 9
_MOST_NAME = 24
_MOST_SPREAD = 6  # characters of a step
LEAST_WIDTH = 40


def most_steps(width: int) -> int:
    """Return how many steps a chart of this width has room for."""
    return max(10, max(width, LEAST_WIDTH) - _AXIS_WIDTH - 1)


def render_series(series: Series, width: int, encoding: str) -> list[str]:
    """Return the lines of a chart; none for a series without steps."""
    if not series.total:
        return []
    levels = _BLOCKS if encode(_BLOCKS, encoding) == _BLOCKS else _ASCII
    columns = most_steps(width)
    series = merge_steps(series, columns)
    spread = max(1, min(_MOST_SPREAD, columns // len(series.total)))
    lines = _draw_columns(series.total, spread, levels)
    lines.append(" " * (_AXIS_WIDTH + 1) + _label_times(series, spread * len(series.total)))
    lines += _draw_rows(series, width, levels)
    lines = replace_ellipsis(map(str.rstrip, lines), encoding)
    return [encode(line, encoding) for line in lines]


def _draw_columns(sizes: Sequence[int], spread: int, levels: str) -> list[str]:
    largest = max(*sizes, 1)
    full = len(levels) - 1
    heights = [round(size / largest * HEIGHT * full) or (1 if size else 0) for size in sizes]
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        filled = (levels[min(max(height - row * full, 0), full)] * spread for height in heights)
        mark = format_size(largest * (row + 1) / HEIGHT) if row % 2 else ""
        lines.append(f"{mark:>{_AXIS_WIDTH}} {''.join(filled)}")
    return lines


def _label_times(series: Series, width: int) -> str:
    """Return an axis with both ends of a span, or with its start alone where there is no room."""
    start = format_time(series.start)
    end = format_time(series.start + series.step * len(series.total))
    return start + end.rjust(width - len(start)) if width > len(start) + len(end) else start


def _draw_rows(series: Series, width: int, levels: str) -> list[str]:
    columns = series.answer.columns
    if not columns:
        return []
    names = [name_group(columns, row.values) for row in series.answer.rows]
    name_width = min(_MOST_NAME, max([*map(len, names), 1]))
    room = max(10, width - name_width - _AXIS_WIDTH - 4)
    sums = [_merge_steps([one.bytes for one in row], room) for row in series.rows]
    largest = max([1, *(size for row in sums for size in row)])
    full = len(levels) - 1
    return [
        ""
    ] + [
        f"{fit(name, name_width)}  {''.join(levels[-(-size * full // largest)] for size in row)}"
        f"  {format_size(one.totals.bytes):>{_AXIS_WIDTH}}"
        for name, row, one in zip(names, sums, series.answer.rows, strict=True)
    ]  # fmt: skip


def _merge_steps(sizes: Sequence[int], most: int) -> list[int]:
    """Return at most `most` sums of neighbouring steps."""
    each = -(-len(sizes) // most)
    return [sum(sizes[start : start + each]) for start in range(0, len(sizes), each)]
