"""The screen of `top`: header, chart, rows, filter and keys; and that of one row's connections.

Both are one class: the connections of a row are rows by flow, of one group of the list. All text
comes from the pure modules; this one keeps the place of the cursor, and turns keys and clicks into
queries.
"""

from typing import TYPE_CHECKING, cast

import msgspec
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Input

from hogpipe.top.health_line import make_health_line
from hogpipe.top.help_screen import HelpScreen
from hogpipe.top.line_view import LineView
from hogpipe.top.row_groups import (
    GROUP_DIMENSIONS,
    HEALTH_KEYS,
    SORT_DIGITS,
    Query,
    Row,
    Rows,
    SortKey,
    name_owner,
)
from hogpipe.top.row_table import SPARKLINE_WIDTH, TableLayout, lay_out
from hogpipe.top.screen_text import Line, Look, Role, crop, make_chart, make_footer, make_header

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hogpipe.top.described_flows import Owner
    from hogpipe.top.top_app import TopApp

SMALLEST = (40, 8)
_CHART_FROM = 18  # lines of the terminal
_HEALTH_FROM = 12  # likewise
_TALL_CHART_FROM = 40
_SORT_KEYS = tuple(SortKey)


def _bind(keys: str, action: str) -> Binding:
    return Binding(keys, action, show=False)


class RowsScreen(Screen[None]):
    """The rows of a query; `subject` is the row whose connections they are."""

    AUTO_FOCUS = ""  # the line of the filter gets the focus with a key
    BINDINGS = [  # noqa: RUF012 - as Textual declares it
        _bind("q", "app.quit"),
        _bind("question_mark,h,f1", "help"),
        _bind("slash", "filter"),
        _bind("escape", "back"),
        _bind("enter", "open"),
        _bind("space", "app.pause"),
        _bind("left_square_bracket,left", "app.step(-1)"),
        _bind("right_square_bracket,right", "app.step(1)"),
        _bind("left_curly_bracket", "app.step(-10)"),
        _bind("right_curly_bracket", "app.step(10)"),
        _bind("less_than_sign", "app.go_to_start"),
        _bind("greater_than_sign", "app.go_to_end"),
        _bind("plus,equals_sign", "app.change_speed(2)"),
        _bind("minus", "app.change_speed(0.5)"),
        _bind("s", "sort"),
        _bind("r", "reverse"),
        _bind("t", "totals"),
        _bind("u", "app.units"),
        _bind("tab", "next_dimension(1)"),
        _bind("shift+tab", "next_dimension(-1)"),
        _bind("up", "move(-1)"),
        _bind("down", "move(1)"),
        _bind("pageup", "move_page(-1)"),
        _bind("pagedown", "move_page(1)"),
        _bind("home", "move_to(0)"),
        _bind("end", "move_to(-1)"),
        *(_bind(one.key, f"dimension('{one.name}')") for one in GROUP_DIMENSIONS),
        *(_bind(digit, f"sort_by({number})") for number, digit in enumerate(SORT_DIGITS, 1)),
    ]
    CSS = """
    RowsScreen { layout: vertical; background: ansi_default; }
    LineView { background: ansi_default; color: ansi_default; height: 1; }
    #header { height: 3; }
    #subject { height: 3; }
    #rows { height: 1fr; }
    #filter { height: 1; border: none; padding: 0; background: ansi_default; display: none; }
    #filter:focus { border: none; }
    """

    def __init__(self, query: Query, subject: Row | None = None) -> None:
        super().__init__()
        self._query = query
        self._subject = subject
        self._selected: Hashable | None = None
        """The key of the selected row; None selects the first one, whichever it is."""
        self._place = 0
        self._top = 0
        self._rows: Rows | None = None
        self._layout: TableLayout | None = None

    @property
    def _top_app(self) -> "TopApp":
        return cast("TopApp", self.app)

    def compose(self) -> ComposeResult:
        """Yield the widgets, from the top."""
        palette = self._top_app.palette
        with Vertical():
            yield LineView(palette, id="header")
            yield LineView(palette, id="subject")
            yield LineView(palette, id="chart")
            yield LineView(palette, id="rows")
            yield LineView(palette, id="health")
            yield Input(placeholder="filter: words, !word", id="filter", select_on_focus=False)
            yield LineView(palette, id="footer")

    def on_mount(self) -> None:
        """Show what is there."""
        self.query_one("#subject").display = self._subject is not None
        self.draw()

    def on_resize(self, _event: events.Resize) -> None:
        """Lay everything out again."""
        self.call_after_refresh(self.draw)

    def on_screen_resume(self) -> None:
        """Show what has changed meanwhile."""
        self.draw()

    # Drawing

    def draw(self) -> None:
        """Query the table, and show what is visible."""
        if not self.is_mounted or not self.is_attached:  # it is being opened or closed
            return
        width, height = self.size
        self._show_parts(height)
        if width < SMALLEST[0] or height < SMALLEST[1]:
            self._draw_too_small(width)
            return
        app = self._top_app
        table, look = app.table, app.look
        rows = self._rows = app.groups.query(self._query)
        header = make_header(
            table, rows.sum_up(), self._query, app.describe_player(), look=look, width=width
        )
        self._view("header").show(header)
        if self._subject is not None:
            self._view("subject").show(_describe_subject(self._subject, len(rows), look, width))
        chart = self._view("chart")
        if chart.display:
            lines = cast("int", chart.styles.height.value if chart.styles.height else 1)
            chart.show(make_chart(table.moments, width, int(lines), look))
        self._draw_rows(rows, width)
        hints = HINTS_OF_ROW if self._subject is not None else HINTS
        self._view("footer").show([make_footer(hints, app.take_message(), look, width)])

    def _draw_rows(self, rows: Rows, width: int) -> None:
        view, look = self._view("rows"), self._top_app.look
        health = self._view("health")
        room = max(1, view.size.height - 1)
        self._find_selected(rows)
        self._top = max(0, min(self._top, self._place, max(0, len(rows) - room)))
        self._top = max(self._top, self._place - room + 1)
        visible = rows.slice(self._top, self._top + room, SPARKLINE_WIDTH)
        self._layout = lay_out(
            visible,
            self._query,
            look,
            width,
            selected=self._place - self._top,
            health=self._has_health,
        )
        if health.display:
            row = visible[self._place - self._top] if visible else None
            health.show([make_health_line(row, self._query, look, width) if row else []])
        lines = [self._layout.heading, *self._layout.lines]
        if not visible:
            lines.append([(_describe_nothing(self._query), Role.DIM)])
        view.show(lines)

    def _find_selected(self, rows: Rows) -> None:
        if self._selected is None:
            self._place = 0
            return
        place = rows.find(self._selected)
        if place is not None:
            self._place = place
        self._place = max(0, min(self._place, len(rows) - 1))

    def _draw_too_small(self, width: int) -> None:
        text = f"too small: top needs {SMALLEST[0]}x{SMALLEST[1]}"
        self._view("header").show([[(text[:width], Role.WARNING)]])
        for name in ("subject", "chart", "rows", "health", "footer"):
            self._view(name).show([])

    @property
    def _has_health(self) -> bool:
        return self._top_app.table.health is not None

    def _show_parts(self, height: int) -> None:
        self._view("health").display = self._has_health and height >= _HEALTH_FROM
        chart = self._view("chart")
        chart.display = height >= _CHART_FROM
        chart.styles.height = 8 if height >= _TALL_CHART_FROM else 4

    def _view(self, name: str) -> LineView:
        return self.query_one(f"#{name}", LineView)

    # Keys

    def _ask(self, **changes: object) -> None:
        self._query = msgspec.structs.replace(self._query, **changes)
        self.draw()

    def action_sort(self) -> None:
        """Sort by the next key."""
        keys = [one for one in SortKey if self._has_health or one not in HEALTH_KEYS]
        at = keys.index(self._query.sort) if self._query.sort in keys else -1
        self._ask(sort=keys[(at + 1) % len(keys)])

    def action_sort_by(self, number: int) -> None:
        """Sort by the key with this number, from 1 on."""
        self._ask(sort=_SORT_KEYS[number - 1])

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._ask(reverse=not self._query.reverse)

    def action_totals(self) -> None:
        """Show totals instead of rates, or rates again."""
        totals = not self._query.totals
        sort = SortKey.TOTAL if totals else SortKey.RATE
        is_default = self._query.sort in {SortKey.TOTAL, SortKey.RATE}
        self._ask(totals=totals, sort=sort if is_default else self._query.sort)

    def action_dimension(self, name: str) -> None:
        """Group by another dimension; connections of a row stay connections."""
        if self._subject is None:
            self._selected = None
            self._top = 0
            self._ask(dimension=name)

    def action_next_dimension(self, step: int) -> None:
        """Group by the next dimension of the list."""
        names = [one.name for one in GROUP_DIMENSIONS]
        at = names.index(self._query.dimension)
        self.action_dimension(names[(at + step) % len(names)])

    def action_move(self, rows: int) -> None:
        """Move the cursor by so many rows."""
        self.action_move_to(max(0, self._place + rows))

    def action_move_page(self, pages: int) -> None:
        """Move the cursor by so many screens."""
        self.action_move(pages * max(1, self._view("rows").size.height - 2))

    def action_move_to(self, place: int) -> None:
        """Move the cursor to this row; -1 is the last one."""
        rows = self._rows
        if rows is None or not len(rows):
            return
        self._place = len(rows) - 1 if place < 0 else min(place, len(rows) - 1)
        self._selected = rows.key(self._place) if self._place else None
        self.draw()

    def action_open(self) -> None:
        """Show the connections of the selected row."""
        rows = self._rows
        if self._subject is not None or rows is None or not len(rows):
            return
        row = rows.slice(self._place, self._place + 1)[0]
        within = (self._query.dimension, row.key)
        query = Query(dimension="flow", within=within, totals=self._query.totals)
        self.app.push_screen(RowsScreen(query, row))

    def action_back(self) -> None:
        """Close the connections, or clear the filter."""
        if self._query.filter:
            self.query_one("#filter", Input).value = ""
            self._ask(filter="")
        elif self._subject is not None:
            self.app.pop_screen()

    def action_help(self) -> None:
        """Show the keys."""
        self.app.push_screen(HelpScreen(self._top_app.palette, self._top_app.look))

    def action_filter(self) -> None:
        """Open the line of the filter."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        if event.value != self._query.filter:
            self._ask(filter=event.value)

    def on_input_submitted(self) -> None:
        """Close the line of the filter; the filter stays."""
        self._close_filter()

    def on_key(self, event: events.Key) -> None:
        """Leave the line of the filter with escape or an arrow."""
        line = self.query_one("#filter", Input)
        if line.has_focus and event.key in {"escape", "up", "down"}:
            event.stop()
            if event.key == "escape":
                line.value = ""
            self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.set_focus(None)
        self.call_after_refresh(self.draw)

    def on_line_view_clicked(self, event: LineView.Clicked) -> None:
        """Sort by a heading, select or open a row, scroll."""
        if event.view.id != "rows":
            return
        if event.turn:
            self.action_move(3 * event.turn)
        elif event.y == 0:
            sort = self._layout.find_sort(event.x) if self._layout else None
            if sort is not None:
                self._ask(sort=sort, reverse=sort is self._query.sort and not self._query.reverse)
        elif self._rows is not None and self._top + event.y - 1 < len(self._rows):
            place = self._top + event.y - 1
            is_again = place == self._place
            self.action_move_to(place)
            if is_again:
                self.action_open()


def _describe_nothing(query: Query) -> str:
    if query.filter:
        return "nothing matches the filter (escape clears it)"
    return "no traffic yet"


def _describe_subject(row: Row, connections: int, look: Look, width: int) -> list[Line]:
    """Return who a row is, in three lines."""
    owner = row.owner
    first: Line = [("connections of ", Role.DIM), (look.clean(" ".join(row.texts)), Role.STRONG)]
    second: Line = []
    if owner.pid:
        for name, value in _list_details(owner):
            if value and value != name_owner(owner):
                second += [(f"{name} ", Role.DIM), (f"{look.clean(value)}  ", Role.TEXT)]
    third: Line = [(f"{connections} connections", Role.TEXT)]
    return [crop(line, width, look) for line in (first, second, third)]


def _list_details(owner: "Owner") -> list[tuple[str, str]]:
    return [
        ("executable", owner.executable),
        ("unit", owner.unit),
        ("container", owner.container[:12]),
        ("cgroup", "" if owner.unit else owner.cgroup),
        ("command", owner.command),
    ]


HINTS = (
    ("q", "quit"), ("?", "help"), ("/", "filter"), ("enter", "open"), ("space", "pause"),
    ("s", "sort"), ("tab", "group by"), ("u", "bits"), ("t", "totals"), ("[ ]", "step"),
    ("+ -", "speed"),
)  # fmt: skip
HINTS_OF_ROW = (
    ("esc", "back"), ("?", "help"), ("/", "filter"), ("space", "pause"), ("s", "sort"),
    ("u", "bits"), ("t", "totals"), ("[ ]", "step"), ("q", "quit"),
)  # fmt: skip
