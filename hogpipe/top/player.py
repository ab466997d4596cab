"""Moves the cursor of the table through the windows of a source: by the clock, and as keys say.

In: a source and its table, and calls (`toggle_pause`, `step`, …). Out: a table whose cursor is
where it should be, and a call of `on_change` after each move.

    live      The cursor follows: it moves as soon as a window is there. After a pause or a step
              back it plays at the set speed, until `go_to_end`.
    recorded  Windows follow one another after the time that was between their ends, divided by the
              speed. Gaps are shortened to the length of a window, and to ten seconds. `go_to_end`
              plays without delay.

Steps back beyond the windows that the table keeps read a recording again from its beginning.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import cast

from hogpipe.errors import HogpipeError
from hogpipe.top.screen_sources import WindowSource
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

SLOWEST, FASTEST = 1 / 16, 1024.0
_READ_AHEAD = 2  # windows of a recording
_LONGEST_DELAY = 10.0  # seconds between two windows, at the speed 1


class Player:
    """Plays one source into one table; `run` in a task."""

    def __init__(
        self,
        source: WindowSource,
        table: TrafficTable,
        on_change: Callable[[], None],
        *,
        speed: float | None = 1.0,
    ) -> None:
        self.source = source
        self._table = table
        self._on_change = on_change
        self.speed = speed or 1.0
        self.is_following = source.is_live or speed is None
        """Whether the cursor moves to the newest window without delay."""
        self.is_paused = False
        self.error: HogpipeError | None = None
        """What ended the source early."""
        self._target: int | None = None
        """The number of windows that the cursor moves to without delay, then pauses."""
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._restarting = False
        self._moved_at = 0.0

    @property
    def is_at_end(self) -> bool:
        """Whether the source has ended, for now, and all of it is before the cursor."""
        return self.source.is_at_end and not self._table.ahead

    async def run(self) -> None:
        """Play until cancelled; the source is closed then."""
        while True:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read())
                playing = group.create_task(self._play())
                await asyncio.wait([playing])
                reading.cancel()
            self._table.clear()
            self._restarting = False

    async def _read(self) -> None:
        """Append the windows of the source, a recording's as there is room."""
        try:
            windows = cast("AsyncGenerator[WindowTraffic]", self.source.read(self._table))
            async with aclosing(windows):
                async for window in windows:
                    self._table.append(window)
                    self._wake.set()
                    while not self.source.is_live and self._table.ahead >= _READ_AHEAD:
                        self._room.clear()
                        await self._room.wait()
        except HogpipeError as error:
            self.error = error
        self._wake.set()
        self._on_change()

    async def _play(self) -> None:
        """Move the cursor, until the source has to be read again."""
        while not self._restarting:
            delay = self._find_delay()
            if delay is not None and delay <= 0:
                self._advance()
                await asyncio.sleep(0)
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    def _find_delay(self) -> float | None:
        """Return the seconds until the cursor moves; None if it does not for now."""
        window = self._table.next_window
        if self._target is not None and self._table.passed >= self._target:
            self._target = None
        if window is None:
            return None
        if self._target is not None:
            return 0
        if self.is_paused:
            return None
        current = self._table.current
        if self.is_following or current is None:
            return 0
        longest = min(max(window.seconds, current.seconds), _LONGEST_DELAY)
        span = min(max(window.end - current.end, 0), longest)
        return self._moved_at + span / self.speed - time.monotonic()

    def _advance(self) -> None:
        self._table.advance()
        self._moved_at = time.monotonic()
        self._room.set()
        self._on_change()

    def toggle_pause(self) -> None:
        """Stop the cursor, or let it move on."""
        self.is_paused = not self.is_paused
        if self.is_paused:
            self.is_following = False
        elif self.source.is_live and not self._table.ahead:
            self.is_following = True
        self._changed()

    def change_speed(self, factor: float) -> None:
        """Multiply the speed; the cursor does not follow the newest window then."""
        self.speed = min(max(self.speed * factor, SLOWEST), FASTEST)
        if not self.source.is_live:
            self.is_following = False
        self._changed()

    def step(self, windows: int) -> None:
        """Move by so many windows, back if negative, and pause."""
        self.is_paused, self.is_following = True, False
        # A step that is still to be made counts.
        left = windows + max(0, (self._target or 0) - self._table.passed)
        self._target = None
        while left < 0 and self._table.can_step_back:
            self._table.step_back()
            left += 1
        if left < 0 and not self.source.is_live and self._table.passed > 1:
            self._restart(max(1, self._table.passed + left))
        elif left > 0:
            self._target = self._table.passed + left
        self._changed()

    def go_to_start(self) -> None:
        """Move to the first window that there is, and pause."""
        self.step(-self._table.passed)

    def go_to_end(self) -> None:
        """Follow the newest window."""
        self.is_paused, self.is_following, self._target = False, True, None
        self._changed()

    def _restart(self, target: int) -> None:
        self._restarting = True
        self._target = target

    def _changed(self) -> None:
        self._wake.set()
        self._on_change()
