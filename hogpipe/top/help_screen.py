"""The screen that lists the keys."""

from collections.abc import Mapping

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from hogpipe.top.line_view import LineView
from hogpipe.top.row_groups import GROUP_DIMENSIONS, SortKey
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


def make_help(look: Look, width: int) -> list[Line]:
    """Return the lines of the help."""
    lines: list[Line] = [[("Keys", Role.TITLE)]]
    lines += [[(f"{keys:<{_KEY_WIDTH}}", Role.KEY), (what, Role.TEXT)] for keys, what in _KEYS]
    lines.append([("Group by", Role.TITLE)])
    lines += _list_choices([(one.key, one.name) for one in GROUP_DIMENSIONS], width)
    lines.append([("Sort by", Role.TITLE)])
    lines += _list_choices([(str(at), str(key)) for at, key in enumerate(SortKey, 1)], width)
    lines.append([("any key closes this page", Role.DIM)])
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
    """The keys; any key closes it."""

    CSS = """
    HelpScreen { background: ansi_default; }
    HelpScreen LineView { background: ansi_default; color: ansi_default; height: 1fr; }
    """

    def __init__(self, palette: Mapping[Role, Style], look: Look) -> None:
        super().__init__()
        self._palette = palette
        self._look = look

    def compose(self) -> ComposeResult:
        """Yield the lines."""
        yield LineView(self._palette, id="help")

    def on_resize(self) -> None:
        """Lay the lines out."""
        self.query_one(LineView).show(make_help(self._look, self.size.width))

    def on_key(self, event: events.Key) -> None:
        """Close the page."""
        event.stop()
        event.prevent_default()
        self.dismiss()

    def on_line_view_clicked(self) -> None:
        """Close the page."""
        self.dismiss()
