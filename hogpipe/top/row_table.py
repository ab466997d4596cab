"""PURE: rows as the lines of a table that fits a width.

In: rows, what is asked for, and the width. Out: the heading, a line for each row, and where each
column is, so that a click on a heading can sort by it. Columns of text get their natural width up
to a bound; columns of numbers are left out from the end if there is no room; what is left over
goes to the sparkline and the last column of text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hogpipe.model import TcpHealth
from hogpipe.sinks.table import format_microseconds, format_share
from hogpipe.top.row_groups import (
    GROUP_DIMENSION_OF,
    HEALTH_KEYS,
    Query,
    Row,
    SortKey,
    describe_quality,
)
from hogpipe.top.screen_text import Line, Look, Role
from hogpipe.top.screen_units import draw_sparkline, format_age, format_number

SPARKLINE_WIDTH = 20
_SHORTEST_SPARKLINE = 6
_SHORTEST_TEXT = 4
_LARGEST_TEXT = {"PID": 7, "USER": 8, "PROGRAM": 12, "PROTO": 5, "LOCAL": 21, "REMOTE": 21}
_MORE_TEXT = 12
_WIDE = 120
_RIGHT = frozenset({"PID"})
_CERTAIN = 0.9995


@dataclass(frozen=True, slots=True)
class Column:
    """A column with its place on the screen."""

    heading: str
    start: int
    width: int
    sort: SortKey | None


@dataclass(frozen=True, slots=True)
class _Number:
    """A column of numbers."""

    heading: str
    width: int
    sort: SortKey | None
    show: Callable[[Row, Look], str]
    role: Role = Role.TEXT


@dataclass(frozen=True, slots=True)
class TableLayout:
    """The lines of a table."""

    columns: tuple[Column, ...]
    heading: Line
    lines: list[Line]

    def find_sort(self, x: int) -> SortKey | None:
        """Return what a click at this column of the heading sorts by."""
        for column in self.columns:
            if column.start <= x <= column.start + column.width:
                return column.sort
        return None


@dataclass(frozen=True, slots=True)
class _Choice:
    """The columns that fit, with their widths."""

    headings: list[str]
    """Of the columns of text."""
    widths: list[int]
    numbers: list[_Number]
    sparkline: int
    """Its width, 0 if it does not fit."""


def lay_out(
    rows: Sequence[Row],
    query: Query,
    look: Look,
    width: int,
    *,
    selected: int | None = None,
    health: bool = False,
) -> TableLayout:
    """Return the lines of `rows`, of which the one at `selected` is marked.

    `health` is whether that of TCP connections is known of any.
    """
    headings, texts = _list_texts(rows, query, width)
    numbers = _list_numbers(query, health=health)
    choice = _choose(headings, texts, numbers, look, width=width)
    columns = _place(choice)
    lines = [_make_line(row, cells, choice, look) for row, cells in zip(rows, texts, strict=True)]
    if selected is not None and 0 <= selected < len(lines):
        lines[selected] = _mark(lines[selected], look, width)
    return TableLayout(columns, _make_heading(columns, len(headings), query, look), lines)


def _choose(
    headings: list[str],
    texts: Sequence[Sequence[str]],
    offered: Sequence[_Number | None],
    look: Look,
    *,
    width: int,
) -> _Choice:
    widths = [
        _find_width(heading, [cells[index] for cells in texts], look)
        for index, heading in enumerate(headings)
    ]
    numbers, sparkline = _choose_numbers(offered, sum(widths) + len(widths), width)
    taken = sum(widths) + sum(1 + one.width for one in numbers) + len(widths) - 1
    room = width - taken - (1 + sparkline if sparkline else 0)
    for index in range(len(headings)):  # whole texts are worth more than a long sparkline
        natural = max((len(look.clean(cells[index])) for cells in texts), default=0)
        more = max(0, min(room, natural - widths[index], _MORE_TEXT))
        widths[index], room = widths[index] + more, room - more
    if sparkline and room > 0:
        more = min(room, SPARKLINE_WIDTH - sparkline)
        sparkline, room = sparkline + more, room - more
    _spread(widths, room)
    return _Choice(headings, widths, numbers, sparkline)


def _make_heading(columns: Sequence[Column], texts: int, query: Query, look: Look) -> Line:
    """Return the headings; `texts` is the number of columns of text, which come first."""
    mark = "^" if query.reverse else "v"
    line: Line = []
    for index, column in enumerate(columns):
        is_sorted = column.sort is query.sort and bool(column.heading)
        text = look.fit(f"{column.heading}{mark}" if is_sorted else column.heading, column.width)
        if index >= texts or column.heading in _RIGHT:
            text = text.rstrip().rjust(column.width)
        line.append((f"{text} ", Role.SORTED if is_sorted else Role.HEADING))
    return line


def _mark(line: Line, look: Look, width: int) -> Line:
    text = "".join(part for part, _role in line).rstrip()
    return [(look.fit(text, width), Role.SELECTED)]


def _list_texts(rows: Sequence[Row], query: Query, width: int) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the columns of text; wide screens show the unit, too."""
    headings = list(GROUP_DIMENSION_OF[query.dimension].columns)
    texts = [list(row.texts) for row in rows]
    within_process = query.within is not None and query.within[0] in {"process", "program"}
    if query.dimension == "flow" and within_process:
        headings = headings[:-1]
        texts = [cells[:-1] for cells in texts]
    if query.dimension == "process" and width >= _WIDE:
        headings.append("WHERE")
        for cells, row in zip(texts, rows, strict=True):
            owner = row.owner
            cells.append(owner.container[:12] or owner.unit or owner.cgroup)
    return headings, texts


def _find_width(heading: str, texts: Sequence[str], look: Look) -> int:
    natural = max((len(look.clean(text)) for text in texts), default=0)
    largest = _LARGEST_TEXT.get(heading, 30)
    shortest = 10 if heading in {"PROGRAM", "LOCAL", "REMOTE"} else _SHORTEST_TEXT
    return max(min(natural, largest), shortest, len(heading) + 1)


def _spread(widths: list[int], room: int) -> None:
    """Give what is left over to the last column, or take what is missing from the widest."""
    if room >= 0:
        widths[-1] += room
        return
    while room < 0 and max(widths) > _SHORTEST_TEXT:
        widths[widths.index(max(widths))] -= 1
        room += 1


def _choose_numbers(
    offered: Sequence[_Number | None], taken: int, width: int
) -> tuple[list[_Number], int]:
    """Return the columns of numbers that fit, and the width of the sparkline, 0 if it does not."""
    room = width - taken
    chosen: list[_Number] = []
    sparkline = 0
    for one in offered:
        if one is None:
            if room >= 1 + _SHORTEST_SPARKLINE:
                sparkline = _SHORTEST_SPARKLINE
                room -= 1 + sparkline
        elif room >= one.width + 1 or len(chosen) < 2:
            chosen.append(one)
            room -= one.width + 1
    return chosen, sparkline


def _list_numbers(query: Query, *, health: bool) -> list[_Number | None]:
    """Return the columns of numbers, the most important first; None stands for the sparkline.

    A column of health by which rows are sorted comes before all that can be left out.
    """
    numbers = _list_traffic(query)
    if not health:
        return numbers
    offered = _list_health(query)
    sorted_by = [one for one in offered if one.sort is query.sort and one.sort in HEALTH_KEYS][:1]
    rest = [one for one in offered if one not in sorted_by]
    return [*numbers[:2], *sorted_by, *numbers[2:], *rest]


def _list_health(query: Query) -> list[_Number]:
    """Return the columns of the health of TCP connections."""
    a_second = "" if query.totals else "/S"
    return [
        _Number("RETRANS", 8, SortKey.RETRANSMITS, lambda row, _look: show_retransmits(row)),
        _Number("RTT", 7, SortKey.RTT, lambda row, _look: show_rtt(row)),
        _Number(f"CONN{a_second}", 6, SortKey.CONNECTIONS, lambda row, _look: _show_events(
            row, query, lambda health: health.opened + health.accepted)),
        _Number(f"FAIL{a_second}", 6, SortKey.FAILED, lambda row, _look: _show_events(
            row, query, lambda health: health.failed)),
        _Number("MIN RTT", 7, SortKey.RTT, lambda row, _look: show_rtt(row, least=True)),
    ]  # fmt: skip


def show_retransmits(row: Row) -> str:
    """Return the share of a row's packets that were transmitted again; empty if it is unknown."""
    if row.health is None:
        return ""
    return format_share(row.health.retransmits, row.health_packets)


def show_rtt(row: Row, *, least: bool = False) -> str:
    """Return the mean of a row's round-trip times, or the least; empty if there is none."""
    health = row.health
    if health is None or not health.rtt_samples:
        return ""
    mean = health.rtt_sum_us / health.rtt_samples
    return format_microseconds(health.rtt_min_us if least else mean)


def _show_events(row: Row, query: Query, count: Callable[[TcpHealth], int]) -> str:
    if row.health is None:
        return ""
    number = count(row.health)
    return format_number(number if query.totals else number / row.health_seconds)


def _list_traffic(query: Query) -> list[_Number | None]:
    """Return the columns of traffic."""
    rate = _Number("RATE", 9, SortKey.RATE, lambda row, look: look.speed(row.transmit_rate
                   + row.receive_rate), Role.RATE)  # fmt: skip
    total = _Number("TOTAL", 7, SortKey.TOTAL, lambda row, look: look.size(row.transmit_bytes
                    + row.receive_bytes))  # fmt: skip
    quality = _Number("QUALITY", 9, None, lambda row, _look: _show_quality(row))
    flows = _Number("FLOWS", 5, SortKey.FLOWS, lambda row, _look: format_number(row.flows))
    age = _Number("AGE", 6, SortKey.AGE, lambda row, _look: format_age(row.age))
    if query.totals:
        transmit = _Number("TRANSMIT", 9, SortKey.TRANSMIT,
                           lambda row, look: look.size(row.transmit_bytes))  # fmt: skip
        receive = _Number("RECEIVE", 9, SortKey.RECEIVE,
                          lambda row, look: look.size(row.receive_bytes))  # fmt: skip
        packets = _Number("PACKETS", 7, SortKey.PACKETS,
                          lambda row, _look: format_number(row.packets))  # fmt: skip
        last = rate
    else:
        transmit = _Number("TRANSMIT", 9, SortKey.TRANSMIT,
                           lambda row, look: look.speed(row.transmit_rate), Role.RATE)  # fmt: skip
        receive = _Number("RECEIVE", 9, SortKey.RECEIVE,
                          lambda row, look: look.speed(row.receive_rate), Role.RATE)  # fmt: skip
        packets = _Number("PACK/S", 7, SortKey.PACKETS,
                          lambda row, _look: format_number(row.packet_rate))  # fmt: skip
        last = total
    if query.dimension == "flow":
        return [transmit, receive, last, age, quality, None, packets]
    return [transmit, receive, last, quality, flows, None, packets, age]


def _show_quality(row: Row) -> str:
    name, share = describe_quality(row.qualities)
    if not name:
        return "-"
    if share >= _CERTAIN:
        return name
    return f"{min(99, round(100 * share))}% {name[:5]}"


def _place(choice: _Choice) -> tuple[Column, ...]:
    columns, start = [], 0
    for heading, width in zip(choice.headings, choice.widths, strict=True):
        sort = SortKey.NAME if heading == choice.headings[-1] else None
        columns.append(Column(heading, start, width, sort))
        start += width + 1
    for one in choice.numbers:
        columns.append(Column(one.heading, start, one.width, one.sort))
        start += one.width + 1
    if choice.sparkline:
        columns.append(Column("", start, choice.sparkline, SortKey.RATE))
    return tuple(columns)


def _make_line(row: Row, cells: Sequence[str], choice: _Choice, look: Look) -> Line:
    is_idle = not row.flows
    line: Line = []
    for heading, cell, width in zip(choice.headings, cells, choice.widths, strict=True):
        fitted = look.fit(cell, width)
        if heading in _RIGHT:
            fitted = fitted.rstrip().rjust(width)
        line.append((f"{fitted} ", Role.DIM if is_idle else Role.TEXT))
    for one in choice.numbers:
        line.append((f"{one.show(row, look):>{one.width}} ", Role.DIM if is_idle else one.role))
    if choice.sparkline:
        drawn = draw_sparkline(row.history, choice.sparkline, is_ascii=look.is_ascii)
        line.append((drawn, Role.CHART))
    return line
