"""PURE: an answer as a table for a terminal, and the lines about what it covers.

In: an answer, the width and the encoding of the terminal. Out: lines that the encoding has, without
control characters. Numbers are IP bytes in decimal units.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from hogpipe.history.counters import Totals
from hogpipe.report.filters import Value
from hogpipe.report.question import Answer
from hogpipe.report.record_columns import Column
from hogpipe.report.times import format_time
from hogpipe.sinks.table import format_microseconds, format_share, format_size
from hogpipe.sinks.table_layout import encode, fit, lay_out, measure, replace_ellipsis
from hogpipe.text import printable

_ROWS_MEASURED = 1000
UNATTRIBUTED = "(unattributed)"
_OF_OWNERS = ("PROGRAM", "COMMAND", "EXECUTABLE", "UNIT", "CONTAINER", "POD", "CGROUP", "USER")


def render_answer(answer: Answer, width: int, encoding: str) -> list[str]:
    """Return the lines of an answer."""
    rows = answer.rows if answer.columns else ()
    cells = [_describe(answer.columns, row.values, row.totals) for row in rows]
    hidden = answer.groups - len(answer.rows)
    label = "total" if answer.groups < 2 else f"total of {answer.groups}"
    label += f", {hidden} not shown" if hidden else ""
    texts = [{name: encode(cell, encoding) for name, cell in row.items()} for row in cells]
    lines = render_span(answer, width)
    lines += lay_out(texts, _describe_totals(answer.total), label, width, ())
    return replace_ellipsis([fit(line.rstrip(), width).rstrip() for line in lines], encoding)


def render_span(answer: Answer, width: int) -> list[str]:
    """Return what span an answer covers, in as many lines as it needs."""
    return textwrap.wrap(describe_span(answer), max(width, 1), break_on_hyphens=False)


def describe_span(answer: Answer) -> str:
    """Return what span an answer covers, what was lost and what has no owner, as one text."""
    if answer.span is None:
        return "no traffic in this span"
    first, last = answer.span
    line = f"{format_time(first)} to {format_time(last)} UTC"
    if answer.dropped_packets:
        line += f", {answer.dropped_packets} packets dropped before capture"
    total = answer.total
    if total.bytes and total.none:
        line += f", {_describe_share(total.none / total.bytes)} without owner"
    return line


def name_group(columns: Sequence[Column], values: Sequence[Value]) -> str:
    """Return a group's values as one text."""
    known = [printable(str(value)) for value in values if value is not None]
    if not known:
        return UNATTRIBUTED if _is_of_owner(columns) else "(other)"
    return " ".join(known)


def _describe(columns: Sequence[Column], values: Sequence[Value], totals: Totals) -> dict[str, str]:
    cells = {
        column.heading: printable(str(value))
        for column, value in zip(columns, values, strict=True)
        if value is not None
    }
    if not cells and columns:
        column = next((one for one in columns if one.heading in _OF_OWNERS), columns[0])
        cells[column.heading] = name_group(columns, values)
    return cells | _describe_totals(totals)


def _describe_totals(totals: Totals) -> dict[str, str]:
    return {
        "TRANSMIT": format_size(totals.transmit_bytes),
        "RECEIVE": format_size(totals.receive_bytes),
        **describe_health(totals),
    }


def describe_health(totals: Totals) -> dict[str, str]:
    """Return the cells of health, by heading; none where the health is unknown."""
    health = totals.health
    if health is None:
        return {}
    cells = {
        "RETRANS": format_share(health.retransmits, totals.transmit_packets),
        "CONNS": str(health.opened + health.accepted),
        "FAILED": str(health.failed),
    }
    if health.rtt_samples:
        cells["RTT"] = format_microseconds(health.rtt_sum_us / health.rtt_samples)
        cells["MIN RTT"] = format_microseconds(health.rtt_min_us)
    return cells


def _is_of_owner(columns: Sequence[Column]) -> bool:
    return any(column.heading in _OF_OWNERS for column in columns)


def _describe_share(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"


def render_rows(
    names: Sequence[str], rows: Iterable[Sequence[object]], encoding: str
) -> Iterator[str]:
    """Yield a table of any rows, numbers to the right.

    Columns are as wide as the first rows need; a longer cell later moves the rest of its line.
    """
    cells = ([_format_cell(cell, encoding) for cell in row] for row in rows)
    first = list(islice(cells, _ROWS_MEASURED))
    widths = [max(map(measure, column)) for column in zip(names, *first, strict=True)]
    for line in chain([list(names)], first, cells):
        yield "  ".join(
            cell.rjust(width) if _is_number(cell) else fit(cell, max(width, measure(cell)))
            for cell, width in zip(line, widths, strict=True)
        ).rstrip()


def _format_cell(cell: object, encoding: str) -> str:
    return "" if cell is None else encode(printable(str(cell)), encoding)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).removeprefix("-").isdigit()
