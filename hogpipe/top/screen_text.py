"""PURE: lines of text with roles, from which the widgets make styles; and the lines of the header.

In: the table of connections, the state of the player, and the width. Out: lines, of which no span
has a control character, however hostile the names. Roles are styles, not markup: text is never
parsed.
"""

from collections.abc import Iterable, Sequence
from enum import Enum, auto

import msgspec

from hogpipe.sinks.table_layout import fit
from hogpipe.text import printable
from hogpipe.top.row_groups import Query, Row
from hogpipe.top.run_figures import Figures
from hogpipe.top.screen_units import (
    draw_chart,
    format_age,
    format_clock,
    format_number,
    format_size,
    format_speed,
)
from hogpipe.top.traffic_table import QUALITIES, Moment, TrafficTable

_ELLIPSIS = "…"
_MEBI = 1 << 20
_LABEL_WIDTH = 11
_RECENT_WINDOWS = 120
_WIDTH_FOR_DATE = 60


class Role(Enum):
    """What a span of text is, from which its style follows."""

    TEXT = auto()
    DIM = auto()
    STRONG = auto()
    TITLE = auto()
    HEADING = auto()
    SORTED = auto()
    SELECTED = auto()
    RATE = auto()
    GOOD = auto()
    WARNING = auto()
    CHART = auto()
    KEY = auto()


Span = tuple[str, Role]
Line = list[Span]


class Look(msgspec.Struct, frozen=True):
    """How numbers and bars are shown."""

    is_ascii: bool = False
    bits: bool = False

    def fit(self, text: str, width: int) -> str:
        """Return `text`, escaped, in exactly `width` columns."""
        fitted = fit(self.clean(text), width)
        return fitted.replace(_ELLIPSIS, "~") if self.is_ascii else fitted

    def clean(self, text: str) -> str:
        """Return `text` without characters that the terminal would act on or cannot show."""
        text = printable(text)
        if self.is_ascii:
            text = text.encode("ascii", "backslashreplace").decode("ascii")
        return text

    def size(self, value: float) -> str:
        """Return a number of bytes as text."""
        return format_size(value, bits=self.bits)

    def speed(self, value: float) -> str:
        """Return bytes a second as text."""
        return format_speed(value, bits=self.bits)


class PlayState(msgspec.Struct, frozen=True):
    """What the player does."""

    title: str
    is_live: bool
    is_paused: bool
    is_following: bool
    is_at_end: bool
    speed: float

    def describe(self, ahead: int) -> tuple[str, Role]:
        """Return the state in a word; `ahead` windows are newer than what is shown."""
        if self.is_paused:
            return (f"PAUSED -{ahead}" if ahead and self.is_live else "PAUSED"), Role.WARNING
        if self.is_at_end:
            return ("ENDED" if self.is_live else "END"), Role.WARNING
        if self.is_live and self.is_following:
            return "LIVE", Role.GOOD
        speed = f"{self.speed:g}" if self.speed >= 1 else f"1/{1 / self.speed:g}"
        return ("max" if self.is_following else f"x{speed}"), Role.GOOD


def make_header(
    table: TrafficTable, total: Row, query: Query, state: PlayState, *, look: Look, width: int
) -> list[Line]:
    """Return the three lines of the header; `total` is the sum of what is shown."""
    now = table.current
    with_date = not state.is_live and width >= _WIDTH_FOR_DATE
    clock = format_clock(now.end, with_date=with_date) if now else "waiting"
    word, role = state.describe(table.ahead)
    right: Line = [
        (f"{clock} +{format_age(table.elapsed)} ", Role.TEXT),
        (f" {word} ", role),
    ]
    left: Line = [("hogpipe top ", Role.TITLE), (look.clean(state.title), Role.TEXT)]
    left.append((f"  by {query.dimension}", Role.STRONG))
    if query.filter:
        left.append((f"  filter: {look.clean(query.filter)}", Role.WARNING))
    return [
        _join_ends(left, right, width, look),
        join_items(_list_traffic(table, total, look), width),
        join_items(_list_run(table, total), width),
    ]


def _list_traffic(table: TrafficTable, total: Row, look: Look) -> list[Line]:
    return [
        [
            ("transmit ", Role.DIM),
            (look.speed(total.transmit_rate), Role.RATE),
            ("  receive ", Role.DIM),
            (look.speed(total.receive_rate), Role.RATE),
        ],
        [
            ("total ", Role.DIM),
            (look.size(total.transmit_bytes), Role.STRONG),
            (" / ", Role.DIM),
            (look.size(total.receive_bytes), Role.STRONG),
        ],
        [("flows ", Role.DIM), (format_number(total.flows), Role.TEXT)],
        [(f"{format_number(total.packet_rate)} packets/s", Role.TEXT)],
        [(f"{format_number(total.packets)} packets", Role.TEXT)],
        [(f"{format_number(len(table))} connections kept", Role.DIM)],
    ]


def _list_run(table: TrafficTable, total: Row) -> list[Line]:
    figures = table.figures
    known = [_list_owners(total)]
    if figures.windows:
        role = Role.WARNING if figures.dropped else Role.TEXT
        known.append([("dropped ", Role.DIM), (format_number(figures.dropped), role)])
    if (cost := _find_cost(table)) is not None:
        known.append(_describe_cost(cost))
    if figures.pending_flows:
        known.append([(f"pending {figures.pending_flows}", Role.DIM)])
    if folded := figures.folded + table.folded:
        known.append([(f"folded {format_number(folded)}", Role.DIM)])
    if figures.not_local:
        known.append([(f"not local {format_number(figures.not_local)}", Role.DIM)])
    if figures.foreign_lines:
        known.append([(f"{figures.foreign_lines} lines are no records", Role.WARNING)])
    if figures.lost_events:
        known.append([(f"{format_number(figures.lost_events)} events lost", Role.WARNING)])
    return known


def _list_owners(total: Row) -> Line:
    size = sum(total.qualities)
    if not size:
        return [("owners ", Role.DIM), ("-", Role.TEXT)]
    owned = 1 - total.qualities[-1] / size
    parts = [
        f"{name} {_format_percent(part / size)}"
        for name, part in zip(QUALITIES, total.qualities, strict=True)
        if part and name != QUALITIES[0]
    ]
    role = Role.GOOD if owned > 0.9 else Role.WARNING
    line: Line = [("owners ", Role.DIM), (f"{100 * owned:.1f}%", role)]
    if parts:
        line.append((f" ({', '.join(parts)})", Role.DIM))
    return line


def _format_percent(share: float) -> str:
    percent = 100 * share
    if percent < 0.05:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 1 else f"{percent:.0f}%"


def _find_cost(table: TrafficTable) -> Figures | None:
    """Return the newest figures with the cost of hogpipe itself: not each window has stats."""
    recent = (window.figures for window in reversed(table.recent(_RECENT_WINDOWS)))
    return next((one for one in recent if one.memory_bytes and one.seconds > 0), None)


def _describe_cost(figures: Figures) -> Line:
    return [
        ("hogpipe ", Role.DIM),
        (f"{100 * figures.cpu_seconds / figures.seconds:.0f}% cpu ", Role.TEXT),
        (f"{figures.memory_bytes / _MEBI:.0f} MiB", Role.TEXT),
        (f" delay {1000 * figures.loop_delay:.0f} ms", Role.DIM),
    ]


def join_items(items: Iterable[Line], width: int) -> Line:
    """Return as many items as fit into a line, with two spaces between them."""
    line: Line = []
    room = width
    for item in items:
        size = measure(item) + (2 if line else 0)
        if size > room:
            continue
        if line:
            line.append(("  ", Role.TEXT))
        line += item
        room -= size
    return line


def _join_ends(left: Line, right: Line, width: int, look: Look) -> Line:
    """Return `left` and `right` at the ends of a line; `left` is cut."""
    room = max(0, width - measure(right) - 1)
    line = crop(left, room, look)
    line.append((" " * (width - measure(line) - measure(right)), Role.TEXT))
    return line + right


def measure(line: Line) -> int:
    """Return the columns of a line that was cleaned: only titles may have wide characters."""
    return sum(len(fit(text, len(text) * 2).rstrip()) if not text.isascii() else len(text)
               for text, _role in line)  # fmt: skip


def crop(line: Line, width: int, look: Look) -> Line:
    """Return the beginning of a line that fits into `width` columns."""
    cropped: Line = []
    for text, role in line:
        size = measure([(text, role)])
        if size > width:
            if width > 1:
                cropped.append((look.fit(text, width), role))
            break
        cropped.append((text, role))
        width -= size
    return cropped


def make_chart(moments: Sequence[Moment], width: int, height: int, look: Look) -> list[Line]:
    """Return the rates of the last windows as a chart, with its scale at the left."""
    room = max(1, width - _LABEL_WIDTH - 1)
    shown = list(moments)[-room:]
    values = [moment.transmit + moment.receive for moment in shown]
    highest = max(values, default=0.0)
    labels = [""] * height
    labels[0] = look.speed(highest)
    if height > 1:
        labels[-1] = f"last {format_age(shown[-1].end - shown[0].end)}" if shown else ""
    drawn = draw_chart(values, room, height, is_ascii=look.is_ascii)
    return [
        [(f"{label:>{_LABEL_WIDTH}} ", Role.DIM), (line, Role.CHART)]
        for label, line in zip(labels, drawn, strict=True)
    ]


def make_footer(hints: Sequence[tuple[str, str]], message: str, look: Look, width: int) -> Line:
    """Return the keys with what they do, as many as fit, or a message."""
    if message:
        return [(look.fit(f" ! {message}", width), Role.WARNING)]
    return join_items([[(key, Role.KEY), (f" {what}", Role.DIM)] for key, what in hints], width)
