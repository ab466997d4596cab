"""The screen that lists the keys.

On a terminal with fewer lines than the list, the arrows and the wheel scroll it.
"""

from collections.abc import Mapping

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from hogpipe.top.line_view import LineView
from hogpipe.top.row_groups import GROUP_DIMENSIONS, SORT_DIGITS, SortKey
from hogpipe.top.screen_text import Line, Look, Role, crop

_KEYS = (
    ("arrows, page up/down", "select a row"),
    ("enter, click", "open the row: its connections"),
    ("escape", "back; clear the filter"),
    ("/", "filter as you type: words, !word for rows without it"),
    ("tab, shift+tab", "group by the next or previous dimension"),
    ("s, click a heading", "sort by the next column"),
    ("r", "reverse the order"),
    ("t", "totals since the start, or rates"),
    ("u", "bits, or bytes"),
    ("space", "pause, go on"),
    ("[ ] left right", "one window back or forward; { } ten"),
    ("< >", "to the start; to the newest window"),
    ("+ -", "faster, slower"),
    ("q, ctrl+c", "quit"),
)
_KEY_WIDTH = 22
_CLOSES = "any key closes this page"
_SCROLLS = {"up": -1, "down": 1, "pageup": -8, "pagedown": 8, "home": -1000, "end": 1000}
"""Keys that scroll, with the number of lines."""


def make_help(look: Look, width: int) -> list[Line]:
    """Return the lines of the help, without the last one, which is about the page itself."""
    lines: list[Line] = [[("Keys", Role.TITLE)]]
    lines += [[(f"{keys:<{_KEY_WIDTH}}", Role.KEY), (what, Role.TEXT)] for keys, what in _KEYS]
    lines.append([("Group by", Role.TITLE)])
    lines += _list_choices([(one.key, one.name) for one in GROUP_DIMENSIONS], width)
    lines.append([("Sort by", Role.TITLE)])
    lines += _list_choices(
        [(SORT_DIGITS[at : at + 1] or "s", str(key)) for at, key in enumerate(SortKey)], width
    )
    return [crop(line, width, look) for line in lines]


def _list_choices(choices: list[tuple[str, str]], width: int) -> list[Line]:
    """Return keys with their meaning, as many in a line as fit."""
    lines: list[Line] = [[]]
    room = width
    for key, what in choices:
        size = len(key) + len(what) + 3
        if size > room:
            lines.append([])
            room = width
        lines[-1] += [(key, Role.KEY), (f" {what}  ", Role.TEXT)]
        room -= size
    return lines


class HelpScreen(Screen[None]):
    """The keys; any key that does not scroll closes it."""

    CSS = """
    HelpScreen { background: ansi_default; }
    HelpScreen LineView { background: ansi_default; color: ansi_default; height: 1fr; }
    """

    def __init__(self, palette: Mapping[Role, Style], look: Look) -> None:
        super().__init__()
        self._palette = palette
        self._look = look
        self._top = 0

    def compose(self) -> ComposeResult:
        """Yield the lines."""
        yield LineView(self._palette, id="help")

    def on_resize(self) -> None:
        """Lay the lines out."""
        self._scroll(0)

    def _scroll(self, by: int) -> bool:
        """Show the lines from `by` further down; return False if there is nothing to scroll."""
        width, height = self.size
        lines = make_help(self._look, width)
        room = max(1, height - 1)
        hidden = max(0, len(lines) - room)
        self._top = max(0, min(self._top + by, hidden))
        hint = "up, down scroll; any other key closes this page" if hidden else _CLOSES
        shown = lines[self._top : self._top + room]
        self.query_one(LineView).show([*shown, crop([(hint, Role.DIM)], width, self._look)])
        return hidden > 0

    def on_key(self, event: events.Key) -> None:
        """Scroll, or close the page."""
        event.stop()
        event.prevent_default()
        if event.key not in _SCROLLS or not self._scroll(_SCROLLS[event.key]):
            self.dismiss()

    def on_line_view_clicked(self, event: LineView.Clicked) -> None:
        """Scroll with the wheel; close the page with a click."""
        if not event.turn or not self._scroll(3 * event.turn):
            self.dismiss()
