"""The application: keys, the mouse, resizes and hostile names, on screens of any size."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.sinks import stats, traffic
from textual.css.query import NoMatches
from textual.pilot import Pilot

from hogpipe.top.help_screen import HelpScreen
from hogpipe.top.line_view import LineView
from hogpipe.top.record_file import RecordFile
from hogpipe.top.row_groups import Query
from hogpipe.top.rows_screen import RowsScreen
from hogpipe.top.screen_text import Look
from hogpipe.top.top_app import TopApp

HOSTILE = "\x1b]0;x\x07[bold red]evil[/][@click=app.quit]quit[/]"
WINDOWS = 8
ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "expected.jsonl"


def write_records(path: Path) -> Path:
    """Write windows in which four processes transmit, one of them with a hostile name."""
    records = []
    for second in range(WINDOWS):
        for pid in (1, 2, 3):
            record = traffic(pid=pid, transmit=100 * pid, second=second)
            owner = {"pid": pid, "name": HOSTILE if pid == 3 else f"prog{pid}", "owner": "root"}
            path_info = {"transport": "tcp", "type": "ipv4",
                         "local": {"address": "10.0.0.1", "port": 40000 + pid},
                         "peer": {"address": f"10.0.0.{pid}", "port": 443}}  # fmt: skip
            records.append(
                {**record, "process": owner, "network": {**record["network"], **path_info}}
            )
        records.append(stats(second=second))
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


class Screen:
    """The application with what it shows."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    def lines(self, name: str) -> list[str]:
        """Return the text of a part of the screen as it is drawn."""
        view = self.app.screen.query_one(f"#{name}", LineView)
        return [view.render_line(y).text for y in range(view.size.height)]

    def text(self) -> str:
        """Return all parts."""
        names = [view.id for view in self.app.screen.query(LineView) if view.display]
        return "\n".join(line for name in names for line in self.lines(str(name)))

    async def press(self, *keys: str) -> None:
        """Press keys."""
        await self.pilot.press(*keys)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Draw until a condition holds: on a busy machine, keys take effect late."""
        async with asyncio.timeout(30):
            while True:
                if isinstance(self.app.screen, RowsScreen):
                    self.app.screen.draw()
                with suppress(NoMatches, IndexError):  # another screen is being opened
                    if condition():
                        return
                await self.pilot.pause(0.01)

    def first_cells(self) -> list[str]:
        """Return the first cell of each row."""
        return [line.split()[0] for line in self.lines("rows")[1:] if line.strip()]


@asynccontextmanager
async def showing(
    path: Path,
    size: tuple[int, int] = (80, 24),
    *,
    is_ascii: bool = False,
    windows: int = WINDOWS,
) -> AsyncIterator[Screen]:
    app = TopApp(
        RecordFile(path),
        Query(),
        Look(is_ascii=is_ascii),
        has_colour=not is_ascii,
        speed=None,
    )
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot)
        await screen.until(lambda: app.table.passed == windows)
        await screen.until(lambda: isinstance(app.screen, RowsScreen))
        await screen.until(lambda: app.player.is_at_end)
        yield screen
    await app.close_player()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_records(tmp_path / "records.jsonl")


async def test_keys_group_sort_filter_and_open_rows(path: Path) -> None:
    async with showing(path) as screen:
        await screen.until(lambda: screen.first_cells() == ["3", "2", "1"])
        assert screen.lines("rows")[0].split()[:3] == ["PID", "USER", "PROGRAM"]
        assert "\\x1b]0;x" in screen.lines("rows")[1]
        assert "\x1b" not in screen.text()
        await screen.press("r")
        await screen.until(lambda: screen.first_cells() == ["1", "2", "3"])
        await screen.press("r", "u", "t")
        await screen.until(lambda: "kb" in screen.lines("rows")[1])
        await screen.press("a")
        await screen.until(lambda: screen.lines("rows")[0].startswith("REMOTE"))
        await screen.until(lambda: "by remote" in screen.lines("header")[0])
        await screen.press("p", "slash", *"prog2")
        await screen.until(lambda: screen.first_cells() == ["2"])
        await screen.press("enter", "enter")
        await screen.until(lambda: "connections of" in screen.lines("subject")[0])
        await screen.until(lambda: "10.0.0.2:443" in screen.lines("rows")[1])
        await screen.press("escape", "escape")
        await screen.until(lambda: len(screen.first_cells()) == 3)
        await screen.press("slash", *"no such")
        await screen.until(lambda: "nothing matches" in screen.lines("rows")[1])
        await screen.press("escape")
        await screen.until(lambda: len(screen.first_cells()) == 3)
        await screen.press("question_mark")
        await screen.until(lambda: "any key closes this page" in screen.text())
        assert isinstance(screen.app.screen, HelpScreen)
        await screen.press("p")
        await screen.until(lambda: isinstance(screen.app.screen, RowsScreen))


async def test_the_cursor_follows_its_row_and_time_goes_back_and_forth(path: Path) -> None:
    async with showing(path) as screen:
        table = screen.app.table
        await screen.press("down", "down", "up", "end", "home", "down")
        await screen.press("r", "left", "left")
        await screen.until(lambda: table.passed == WINDOWS - 2)
        await screen.until(lambda: "PAUSED" in screen.lines("header")[0])
        await screen.press("less_than_sign")
        await screen.until(lambda: table.passed == 1)
        await screen.press("right", "right_square_bracket")
        await screen.until(lambda: table.passed == 3)
        await screen.press("plus", "minus", "space", "space", "greater_than_sign")
        await screen.until(lambda: table.passed == WINDOWS)
        await screen.press("tab")
        await screen.until(lambda: "by program" in screen.lines("header")[0])
        await screen.press("pagedown", "pageup", "shift+tab", "s", "1", "8")
        await screen.until(lambda: "by process" in screen.lines("header")[0])


async def test_the_mouse_sorts_selects_opens_and_scrolls(path: Path) -> None:
    async with showing(path) as screen:
        rows = screen.app.screen.query_one("#rows", LineView)
        await screen.until(lambda: screen.first_cells() == ["3", "2", "1"])
        at = screen.lines("rows")[0].index("PROGRAM")
        await screen.pilot.click(rows, offset=(at, 0))
        await screen.until(lambda: "PROGRAMv" in screen.lines("rows")[0])
        assert screen.first_cells() == ["3", "1", "2"]
        await screen.pilot.click(rows, offset=(at, 0))
        await screen.until(lambda: screen.first_cells() == ["2", "1", "3"])
        await screen.pilot.click(rows, offset=(5, 2))
        await screen.pilot.click(rows, offset=(5, 2))
        await screen.until(lambda: "connections of 1 root prog1" in screen.lines("subject")[0])
        await screen.press("escape", "question_mark")
        await screen.until(lambda: isinstance(screen.app.screen, HelpScreen))
        await screen.pilot.click(offset=(1, 1))
        await screen.until(lambda: isinstance(screen.app.screen, RowsScreen))


@pytest.mark.parametrize(
    ("size", "rows"), [((80, 24), 16), ((60, 15), 11), ((160, 50), 38), ((40, 8), 4)]
)
async def test_screens_of_any_size(path: Path, size: tuple[int, int], rows: int) -> None:
    async with showing(path, size) as screen:
        await screen.until(lambda: len(screen.lines("rows")) == rows)
        await screen.until(lambda: screen.lines("footer")[0].startswith("q quit"))
        assert "hogpipe top" in screen.lines("header")[0]


async def test_a_screen_that_gets_too_small_says_so_and_comes_back(path: Path) -> None:
    async with showing(path, is_ascii=True) as screen:
        assert screen.text().isascii()
        await screen.pilot.resize_terminal(30, 6)
        await screen.until(lambda: screen.lines("header")[0].startswith("too small"))
        await screen.pilot.resize_terminal(80, 24)
        await screen.until(lambda: "hogpipe top" in screen.lines("header")[0])


async def test_ctrl_c_and_q_close_the_screen(path: Path) -> None:
    for key in ("q", "ctrl+c"):
        app = TopApp(RecordFile(path), Query(), Look(), has_colour=True)
        async with app.run_test() as pilot:
            await pilot.press(key)
        await app.close_player()
        assert not app.is_running


async def test_the_help_scrolls_where_it_does_not_fit(path: Path) -> None:
    async with showing(path, (60, 15)) as screen:
        await screen.press("question_mark")
        await screen.until(lambda: "up, down scroll" in screen.text())
        assert "Sort by" not in screen.text()
        await screen.press("pagedown", "down", "end")
        await screen.until(lambda: "s failed" in screen.text() and "any other key" in screen.text())
        await screen.press("up")
        await screen.until(lambda: "s failed" not in screen.text())
        await screen.press("q")
        await screen.until(lambda: isinstance(screen.app.screen, RowsScreen))
        assert screen.app.is_running


async def test_an_error_before_the_first_window_closes_the_screen(tmp_path: Path) -> None:
    app = TopApp(RecordFile(tmp_path / "absent"), Query(), Look(), has_colour=True)
    async with app.run_test() as pilot:
        while app.is_running and app.error is None:
            await pilot.pause(0.01)
    await app.close_player()
    assert "absent" in str(app.error)


@pytest.fixture
def _in_another_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "XYZ-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_in_another_time_zone")
async def test_the_screen_on_the_page_is_what_the_recording_shows() -> None:
    page = (ROOT / "docs" / "top.md").read_text()
    shown = page.split("compares it -->\n```text\n")[1].split("```")[0]
    async with showing(GOLDEN, windows=2) as screen:
        await screen.until(lambda: "15052" in screen.text() and "q quit" in screen.text())
        text = "".join(f"{line.rstrip()}\n" for line in screen.text().split("\n"))
    assert text == shown
