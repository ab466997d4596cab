"""The player: it follows, pauses, steps and goes back, in recordings beyond what is in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from support.top import NGINX, path, window

from hogpipe.errors import CaptureError
from hogpipe.top.player import FASTEST, Player
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic


class Recording:
    """A source of numbered windows; a live one waits for `feed`."""

    title = "recording"

    def __init__(self, count: int, *, is_live: bool = False, fails: bool = False) -> None:
        self.is_live = is_live
        self.is_at_end = False
        self.readings = 0
        self.closed = 0
        self._count = count
        self._fails = fails
        self._fed = asyncio.Semaphore(0)
        self.passed = asyncio.Event()
        """Set when a window was asked for."""

    async def prepare(self) -> None:
        """Do nothing."""

    def feed(self) -> None:
        """Let another window of a live source pass."""
        self._fed.release()

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Yield the windows."""
        self.readings += 1
        self.is_at_end = False
        try:
            for number in range(self._count):
                self.passed.set()
                if self.is_live:
                    await self._fed.acquire()
                yield window(table, number, [(NGINX, path(), number, 0)])
            self.is_at_end = True
            if self._fails:
                raise CaptureError("it broke off")
        finally:
            self.closed += 1


@asynccontextmanager
async def playing(
    source: Recording, table: TrafficTable | None = None, speed: float | None = FASTEST
) -> AsyncIterator[tuple[Player, TrafficTable, Callable[[Callable[[], bool]], object]]]:
    table = TrafficTable() if table is None else table
    changed = asyncio.Event()
    player = Player(source, table, changed.set, speed=speed)
    task = asyncio.create_task(player.run())

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            changed.clear()
            await asyncio.wait_for(changed.wait(), 10)

    yield player, table, until
    task.cancel()
    await asyncio.wait([task])
    assert source.closed == source.readings


async def test_a_recording_plays_to_its_end() -> None:
    source = Recording(20)
    async with playing(source, speed=None) as (player, table, until):
        await until(lambda: table.passed == 20)
        await until(lambda: player.is_at_end)
        assert table.traffic[0].sum() == sum(range(20))


async def test_a_recording_waits_for_its_cursor() -> None:
    source = Recording(1000)
    async with playing(source, speed=1e-9) as (player, table, until):
        await until(lambda: table.passed == 1)
        await asyncio.sleep(0)
        assert table.ahead <= 3
        player.step(5)
        await until(lambda: table.passed == 6)
        assert player.is_paused
        player.toggle_pause()
        player.go_to_end()
        await until(lambda: table.passed == 1000)


async def test_the_speed_has_bounds_and_the_cursor_waits_for_the_time_between_windows() -> None:
    async with playing(Recording(5), speed=1.0) as (player, table, until):
        await until(lambda: table.passed == 1 and table.ahead > 0)
        delay = player._find_delay()
        assert delay is not None
        assert 0 < delay <= 1
        player.change_speed(0.5)
        assert player.speed == 0.5
        for _ in range(40):
            player.change_speed(2)
        assert player.speed == FASTEST


async def test_a_step_back_beyond_what_is_kept_reads_the_recording_again() -> None:
    source, table = Recording(50), TrafficTable(max_windows=5)
    async with playing(source, table, speed=None) as (player, _table, until):
        await until(lambda: table.passed == 50)
        player.step(-2)
        assert (table.passed, source.readings) == (48, 1)
        player.step(-40)
        await until(lambda: table.passed == 8)
        assert (source.readings, player.is_paused) == (2, True)
        assert table.traffic[0].sum() == sum(range(8))
        player.go_to_start()
        await until(lambda: table.passed == 1 and table.current.end == table.began + 1)
        player.go_to_end()
        await until(lambda: table.passed == 50)
        assert table.traffic[0].sum() == sum(range(50))


async def test_a_live_source_is_followed_and_goes_on_while_paused() -> None:
    source = Recording(100, is_live=True)
    async with playing(source) as (player, table, until):
        source.feed()
        source.feed()
        await until(lambda: table.passed == 2)
        player.toggle_pause()
        for _ in range(3):
            source.feed()
        while table.ahead < 3:
            await source.passed.wait()
            source.passed.clear()
        assert table.passed == 2
        player.step(-1)
        assert (table.passed, table.ahead) == (1, 4)
        player.go_to_end()
        await until(lambda: table.passed == 5)
        source.feed()
        await until(lambda: table.passed == 6)
        assert (source.readings, player.is_following) == (1, True)


async def test_a_live_source_cannot_go_back_beyond_what_is_kept() -> None:
    source, table = Recording(100, is_live=True), TrafficTable(max_windows=3)
    async with playing(source, table) as (player, _table, until):
        for _ in range(10):
            source.feed()
        await until(lambda: table.passed == 10)
        player.go_to_start()
        assert (table.passed, source.readings) == (8, 1)


async def test_an_error_of_the_source_is_kept_with_what_it_yielded() -> None:
    async with playing(Recording(3, fails=True), speed=None) as (player, table, until):
        await until(lambda: player.error is not None and table.passed == 3)
        assert str(player.error) == "it broke off"
