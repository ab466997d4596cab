"""A Textual widget that shows lines of text with roles, each one drawn only where it changed.

In: lines (screen_text.py). Out: strips; no text is parsed as markup. Clicks are messages with the
line and the column.
"""

from collections.abc import Mapping

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hogpipe.top.screen_text import Line, Role

COLOURED: Mapping[Role, Style] = {
    Role.TEXT: Style(),
    Role.DIM: Style(color="bright_black"),
    Role.STRONG: Style(bold=True),
    Role.TITLE: Style(color="cyan", bold=True),
    Role.HEADING: Style(reverse=True),
    Role.SORTED: Style(reverse=True, bold=True, color="cyan"),
    Role.SELECTED: Style(color="black", bgcolor="cyan"),
    Role.RATE: Style(color="green"),
    Role.GOOD: Style(color="green", bold=True),
    Role.WARNING: Style(color="yellow", bold=True),
    Role.CHART: Style(color="blue"),
    Role.KEY: Style(color="cyan", bold=True),
}
MONOCHROME: Mapping[Role, Style] = {
    Role.TEXT: Style(),
    Role.DIM: Style(),
    Role.STRONG: Style(bold=True),
    Role.TITLE: Style(bold=True),
    Role.HEADING: Style(underline=True),
    Role.SORTED: Style(underline=True, bold=True),
    Role.SELECTED: Style(reverse=True),
    Role.RATE: Style(),
    Role.GOOD: Style(bold=True),
    Role.WARNING: Style(bold=True),
    Role.CHART: Style(),
    Role.KEY: Style(bold=True),
}


class LineView(Widget):
    """Shows lines; what is below them is empty."""

    class Clicked(Message):
        """A click of the mouse, or a turn of its wheel."""

        def __init__(self, view: "LineView", x: int, y: int, turn: int = 0) -> None:
            super().__init__()
            self.view = view
            self.x = x
            self.y = y
            self.turn = turn
            """1 for a turn of the wheel downwards, -1 for one upwards, 0 for a click."""

    def __init__(self, palette: Mapping[Role, Style], *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._palette = palette
        self._lines: list[Line] = []

    def show(self, lines: list[Line]) -> None:
        """Show these lines."""
        if lines != self._lines:
            self._lines = lines
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line as Textual draws it."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width)
        palette = self._palette
        segments = [Segment(text, palette[role]) for text, role in self._lines[y]]
        return Strip(segments).adjust_cell_length(self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Pass a click on."""
        self.post_message(self.Clicked(self, event.x, event.y))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Pass a turn of the wheel on."""
        self.post_message(self.Clicked(self, event.x, event.y, 1))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Pass a turn of the wheel on."""
        self.post_message(self.Clicked(self, event.x, event.y, -1))
