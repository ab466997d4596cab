"""The Textual application of `top`: the terminal, the player, and the screens.

In: a source of windows. Out: a screen until it is closed by a key, `stop`, or the end of the
terminal. All work is done in the event loop that the pipeline runs in too; a draw takes some
10 ms, and there are at most ten a second.
"""

import asyncio
import sys
import termios
import time
from collections.abc import Callable

import msgspec
from textual.app import App
from textual.binding import Binding

from hogpipe.errors import HogpipeError
from hogpipe.top.line_view import COLOURED, MONOCHROME
from hogpipe.top.player import Player
from hogpipe.top.row_groups import Query, RowGroups
from hogpipe.top.rows_screen import RowsScreen
from hogpipe.top.screen_sources import WindowSource
from hogpipe.top.screen_text import Look, PlayState
from hogpipe.top.traffic_table import TrafficTable

_DRAW_INTERVAL = 0.1
_TERMINAL_INTERVAL = 1.0


class TopApp(App[None]):
    """Shows a source; `has_colour` and `look` are what the terminal can show.

    `take_message` returns the newest warning for as long as it is to be shown.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [  # noqa: RUF012 - as Textual declares it
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("ctrl+q", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        source: WindowSource,
        query: Query,
        look: Look,
        *,
        has_colour: bool,
        speed: float | None = 1.0,
        take_message: Callable[[], str] = str,
    ) -> None:
        super().__init__(ansi_color=True)
        self.look = look
        self.palette = COLOURED if has_colour else MONOCHROME
        self.table = TrafficTable()
        self.groups = RowGroups(self.table)
        self.player = Player(source, self.table, self.request_draw, speed=speed)
        self._take_message = take_message
        self._source = source
        self._query = query
        self._playing: asyncio.Task[None] | None = None
        self._drawn_at = 0.0
        self._is_draw_due = False

    def on_mount(self) -> None:
        """Start to play."""
        self.push_screen(RowsScreen(self._query))
        self._playing = asyncio.create_task(self.player.run())
        self._playing.add_done_callback(lambda _task: self.exit())
        self.set_interval(_TERMINAL_INTERVAL, self._check)

    async def close_player(self) -> None:
        """End the player and its source; the screen is closed."""
        if self._playing is None:
            return
        self._playing.cancel()
        await asyncio.wait([self._playing])
        if not self._playing.cancelled() and (error := self._playing.exception()):
            raise error

    def _check(self) -> None:
        """Draw what changes by the clock, and end with the terminal."""
        if not self.is_headless and sys.__stdin__ is not None:
            try:
                termios.tcgetattr(sys.__stdin__.fileno())
            except termios.error:
                self.exit()
        self.request_draw()

    @property
    def error(self) -> HogpipeError | None:
        """What ended the source early."""
        return self.player.error

    def take_message(self) -> str:
        """Return what the last line says instead of the keys; empty if nothing."""
        return str(self.player.error) if self.player.error else self._take_message()

    def describe_player(self) -> PlayState:
        """Return what the header says of the player."""
        player = self.player
        return PlayState(
            self._source.title,
            self._source.is_live,
            player.is_paused,
            player.is_following,
            player.is_at_end or player.error is not None,
            player.speed,
        )

    def request_draw(self) -> None:
        """Draw soon, but at most ten times a second."""
        if self.player.error is not None and not self.table.passed:
            self.exit()
        if self._is_draw_due or not self.is_running:
            return
        self._is_draw_due = True
        delay = max(0.0, self._drawn_at + _DRAW_INTERVAL - time.monotonic())
        self.set_timer(max(delay, 0.001), self._draw)

    def _draw(self) -> None:
        self._is_draw_due = False
        self._drawn_at = time.monotonic()
        screens = self.screen_stack  # empty while the application ends
        if screens and isinstance(shown := screens[-1], RowsScreen):
            shown.draw()

    def action_pause(self) -> None:
        """Pause, or go on."""
        self.player.toggle_pause()

    def action_step(self, windows: int) -> None:
        """Move by so many windows."""
        self.player.step(windows)

    def action_go_to_start(self) -> None:
        """Move to the first window."""
        self.player.go_to_start()

    def action_go_to_end(self) -> None:
        """Follow the newest window."""
        self.player.go_to_end()

    def action_change_speed(self, factor: float) -> None:
        """Play faster or slower."""
        self.player.change_speed(factor)

    def action_units(self) -> None:
        """Show bits instead of bytes, or bytes again."""
        self.look = msgspec.structs.replace(self.look, bits=not self.look.bits)
        self.request_draw()
