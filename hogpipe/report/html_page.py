"""PURE: an answer as one self-contained page: a chart, a table, and what both cover.

In: an answer, with a series or without. Out: HTML without scripts and without references to other
resources, which its Content-Security-Policy also forbids. Every name is escaped: neither markup nor
control characters of a process name reach the page.
"""

from collections.abc import Sequence
from html import escape

from hogpipe.history.counters import COUNTERS, Totals
from hogpipe.report.question import Answer, Series, merge_steps
from hogpipe.report.text_table import UNATTRIBUTED, describe_health, describe_span, name_group
from hogpipe.report.times import format_time
from hogpipe.sinks.table import format_size
from hogpipe.sinks.table_layout import HEALTH
from hogpipe.text import printable

_WIDTH, _HEIGHT = 900, 240
_TOP = 20  # above the bars, for the label
_BOTTOM = _TOP + _HEIGHT
_MOST_COLOURS = 7
_MOST_BARS = 300
_STYLE = """
:root { color-scheme: light dark; --edge: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--edge); }
td { overflow-wrap: anywhere; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tfoot td { font-weight: 600; }
figure { margin: 1rem 0; }
svg { width: 100%; height: auto; }
svg text { fill: currentColor; font-size: 11px; }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
.c0 { fill: #3b78c3; background: #3b78c3; } .c1 { fill: #d9822b; background: #d9822b; }
.c2 { fill: #3a9d5d; background: #3a9d5d; } .c3 { fill: #b8455f; background: #b8455f; }
.c4 { fill: #8067b7; background: #8067b7; } .c5 { fill: #2a9d9d; background: #2a9d9d; }
.c6 { fill: #a58a1c; background: #a58a1c; } .c7 { fill: #888888; background: #888888; }
"""
_HEALTH_HEADINGS = ("Retransmitted", "Round trip", "Least", "Connections", "Failed")  # HEALTH
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_page(answer: Answer, series: Series | None) -> str:
    """Return the page."""
    title = "Traffic by " + (", ".join(column.name for column in answer.columns) or "time")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{escape(describe_span(answer))}</p>",
        _draw(series) if series is not None and series.total else "",
        _make_table(answer),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _make_table(answer: Answer) -> str:
    headings = [escape(column.heading.capitalize()) for column in answer.columns]
    numbers = ["Transmitted", "Received", "Flows", "Without owner"]
    if answer.counters != COUNTERS:
        numbers += _HEALTH_HEADINGS
    head = "".join(f"<th>{one}</th>" for one in headings)
    head += "".join(f'<th class="number">{one}</th>' for one in numbers)
    counters = answer.counters
    rows = [[*_list_cells(row.values), *_list_numbers(row.totals, counters)] for row in answer.rows]
    hidden = answer.groups - len(answer.rows)
    count = len(answer.columns)
    if hidden:
        rows.append([*_pad(f"all {hidden} others", count), *_list_numbers(answer.others, counters)])
    body = "\n".join(_make_row(row, count) for row in rows)
    total = _make_row([*_pad("total", count), *_list_numbers(answer.total, counters)], count)
    return (
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        f"<tfoot>{total}</tfoot></table>"
    )


def _list_cells(values: Sequence[object]) -> list[str]:
    if all(value is None for value in values):
        return _pad(UNATTRIBUTED, len(values))
    return ["" if value is None else printable(str(value)) for value in values]


def _list_numbers(totals: Totals, counters: Sequence[str]) -> list[str]:
    numbers = [
        format_size(totals.transmit_bytes),
        format_size(totals.receive_bytes),
        str(totals.flows),
        format_size(totals.none),
    ]
    if counters != COUNTERS:
        cells = describe_health(totals)
        numbers += [cells.get(heading, "") for heading in HEALTH]
    return numbers


def _pad(text: str, count: int) -> list[str]:
    return [text, *[""] * (count - 1)] if count else []


def _make_row(cells: Sequence[str], texts: int) -> str:
    made = (
        f"<td>{escape(cell)}</td>" if place < texts else f'<td class="number">{escape(cell)}</td>'
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(made)}</tr>"


def _draw(series: Series) -> str:
    """Return a stacked chart: the first rows with a colour of their own, the rest above them."""
    series = merge_steps(series, _MOST_BARS)
    answer = series.answer
    shown = answer.rows[:_MOST_COLOURS] if answer.columns else ()
    names = [name_group(answer.columns, row.values) for row in shown]
    layers = [[one.bytes for one in row] for row in series.rows[: len(shown)]]
    layers.append([all_ - sum(part) for all_, *part in zip(series.total, *layers, strict=True)])
    names.append("all others" if shown else "all")
    largest = max(*series.total, 1)
    width = _WIDTH / len(series.total)
    bars = []
    for step in range(len(series.total)):
        base = float(_BOTTOM)
        for colour, layer in enumerate(layers):
            height = layer[step] / largest * _HEIGHT
            base -= height
            if height:
                place = colour if colour < len(layers) - 1 else _MOST_COLOURS
                bars.append(
                    f'<rect class="c{place}" x="{step * width:.1f}" y="{base:.1f}" '
                    f'width="{max(width - 0.5, 0.3):.1f}" height="{height:.1f}"/>'
                )
    end = series.start + series.step * len(series.total)
    axis = (
        f'<text x="0" y="{_BOTTOM + 16}">{format_time(series.start)} UTC</text>'
        f'<text x="{_WIDTH}" y="{_BOTTOM + 16}" text-anchor="end">{format_time(end)} UTC</text>'
        f'<text x="0" y="12">{format_size(largest)} in {series.step:g} s</text>'
    )
    places = [*range(len(shown)), _MOST_COLOURS]
    legend = "".join(
        f'<li><span class="key c{place}"></span>{escape(name)}</li>'
        for place, name in zip(places, names, strict=True)
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_BOTTOM + 22}" role="img" '
        f'aria-label="Bytes over time">{"".join(bars)}{axis}</svg><ul>{legend}</ul></figure>'
    )
