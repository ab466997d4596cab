"""The page in a real browser: one browser and one server for all tests."""

import asyncio
import os
import struct
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_up_host import PROGRAMS, MadeUpHost, process, stats, traffic
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from web_support import PATIENCE, SINK_TYPE, TOKEN, chromium, write_history

from hogpipe.testing import free_ports, make_sink

if TYPE_CHECKING:
    from hogpipe import Record, Sink

SCREENSHOT = Path(__file__).parent.parent / "screenshot.png"
SIZE = {"width": 1240, "height": 860}
NOW = 1_795_330_800  # 2026-11-22T07:00:00Z
expect.set_options(timeout=PATIENCE * 1000)


class Server:
    """A sink in an event loop of its own, in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._sink: Sink | None = None
        self._host = MadeUpHost()
        self._now = float(NOW)

    def open(self, **keys: object) -> None:
        self.close()
        self._sink = make_sink(SINK_TYPE, {"listen": f"127.0.0.1:{self.port}", **keys})
        self._run(self._sink.open())

    def close(self) -> None:
        if self._sink is not None:
            self._run(self._sink.close())
            self._sink = None

    def write(self, bodies: list[dict[str, Any]] | None = None, *, windows: int = 1) -> None:
        """Write windows: those of the made-up host, or one with `bodies`."""
        for _ in range(windows):
            records: Sequence[Record] = (
                self._host.window(self._now)
                if bodies is None
                else self._host.stamped([*bodies, stats()], self._now)
            )
            self._now += 1
            assert self._sink is not None
            self._run(self._sink.write(records))

    def record(self, path: Path, windows: int) -> None:
        """Write a history that ends with the newest window."""
        host, start = MadeUpHost(), self._now - windows
        made = [host.window(start + at) for at in range(windows)]
        self._run(write_history(path, made))

    @property
    def now(self) -> int:
        return int(self._now)

    def stop(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(PATIENCE)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=SIZE, timezone_id="UTC", color_scheme="light")
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Yield a page; its scripts may not fail, and nothing may be refused by its policy."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda line: (
            problems.append(line.text)
            if line.type == "error" and "Failed to load resource" not in line.text
            else None
        ),
    )
    yield page
    assert problems == []


def rows(page: Page) -> list[str]:
    return page.locator("#rows tr .label").all_inner_texts()


def live(page: Page) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", "live")
    expect(page.locator("#rows tr").first).to_be_visible()


def test_the_page_shows_what_arrives_while_it_is_open(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=60)
    page.goto(server.url)
    live(page)
    assert rows(page)[0] == "nginx"
    assert set(rows(page)) == {name for name, *_rest in PROGRAMS} | {"unattributed"}
    expect(page.locator("#host")).to_have_text("web1")
    expect(page.locator("#qualities")).to_contain_text("exact")
    expect(page.locator("#dropped")).to_have_text("0")
    before = page.locator("#receive").inner_text()
    server.write([traffic(process("newcomer"), 5_000_000, 9_000_000, "exact")])
    expect(page.locator("#rows tr", has_text="newcomer")).to_contain_text("72.0 Mbit/s")
    expect(page.locator("#receive")).not_to_have_text(before)
    page.get_by_role("button", name="B/s", exact=True).click()
    expect(page.locator("#receive")).to_have_text("9.00 MB/s")
    expect(page.locator("#legend button").first).to_have_text("nginx")
    page.wait_for_function("performance.getEntriesByName('hogpipe-drawn').length == 1")


def test_the_screenshot_of_the_readme(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=600)
    page.goto(server.url)
    live(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)  # transitions
    picture = page.screenshot()
    if "UPDATE_SCREENSHOT" in os.environ:
        SCREENSHOT.write_bytes(picture)
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (SIZE["width"], SIZE["height"])
    assert struct.unpack(">II", SCREENSHOT.read_bytes()[16:24]) == (width, height)


def test_search_sort_and_drill_down(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=3)
    page.goto(server.url)
    live(page)
    page.locator("#search").fill("RES")
    assert sorted(rows(page)) == ["postgres", "restic", "systemd-resolved"]
    page.locator("#search").fill("nothing has this")
    expect(page.locator("#count")).to_have_text("Nothing has this in its name.")
    page.locator("#search").fill("")
    page.get_by_role("button", name="Program").click()
    names = rows(page)
    assert names == sorted(names, key=str.lower)
    expect(page.locator("th").first).to_have_attribute("aria-sort", "ascending")
    page.locator("#rows tr", has_text="prometheus").click()
    expect(page.locator("#path")).to_contain_text("prometheus")
    expect(page.locator("#rows tr")).to_have_count(6)
    assert all(name.startswith("10.0.4.") for name in rows(page))
    expect(page.locator("#by")).to_have_value("remote")
    page.reload()
    live(page)
    expect(page.locator("#rows tr")).to_have_count(6)
    page.go_back()
    live(page)
    expect(page.locator("#path")).to_be_hidden()
    expect(page.locator("#rows tr")).to_have_count(12)


def test_what_is_not_grouped_by_is_named_with_the_remedy(server: Server, page: Page) -> None:
    server.open()
    server.write([traffic(process("curl"), 10, 20, "exact")])
    page.goto(server.url)
    live(page)
    page.locator("#by").select_option("remote")
    expect(page.locator("#notice")).to_contain_text('group_by = ["process", "remote"]')
    page.locator("#by").select_option("program")
    expect(page.locator("#notice")).to_be_hidden()


def test_five_thousand_groups(server: Server, page: Page) -> None:
    server.open()
    bodies = [traffic(process(f"job-{n}", n), 1000 + n, 10, "exact") for n in range(1, 5001)]
    server.write(bodies, windows=2)
    page.goto(server.url + "#by=process")
    live(page)
    expect(page.locator("#count")).to_have_text("100 of 5,000 groups")
    page.locator("#search").fill("job-4999")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.locator("#search").fill("")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#rows tr")).to_have_count(600)


def test_a_hostile_name_is_text(server: Server, page: Page) -> None:
    server.open()
    name = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>\x1b[2J\u202e"
    server.write([traffic(process(name), 10, 20, "exact")])
    page.goto(server.url)
    live(page)
    (shown,) = rows(page)
    assert shown == name.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    page.locator("#rows tr").click()
    expect(page.locator("#path b")).to_have_text(shown)
    live(page)
    assert page.locator("#rows img, #path img, #legend img, #rows script").count() == 0
    assert page.title() == "web1 · hogpipe"


def test_a_server_that_goes_away_and_comes_back(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=2)
    page.goto(server.url)
    live(page)
    server.close()
    expect(page.locator("#state")).to_have_attribute("data-state", "away")
    expect(page.locator("#rows tr")).to_have_count(12)  # what was known stays
    server.open()
    server.write([traffic(process("after"), 10, 20, "exact")])
    live(page)
    expect(page.locator("#rows tr")).to_have_count(1)
    assert rows(page) == ["after"]


def test_a_login_with_a_wrong_and_the_right_token(server: Server, page: Page) -> None:
    server.open(token=TOKEN)
    server.write(windows=2)
    page.goto(server.url)
    expect(page.locator("#login")).to_be_visible()
    assert page.locator("#rows tr").count() == 0
    page.locator("#token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#wrong")).to_have_text("this is not the token of the sink")
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    live(page)
    expect(page.locator("#login")).to_be_hidden()
    assert TOKEN not in page.url
    assert TOKEN not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
    page.reload()
    live(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#login")).to_be_visible()
    assert page.locator("#rows tr").count() == 0


def test_all_of_it_by_keyboard(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=3)
    page.goto(server.url)
    live(page)
    page.keyboard.press("/")
    page.keyboard.type("nginx")
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#path")).to_contain_text("nginx")
    live(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#rows tr").nth(1)).to_be_focused()
    peer = {"network": {"peer": {"address": "192.0.2.99"}}}
    server.write([traffic({**process("nginx"), **peer}, 10**9, 0, "exact")])
    expect(page.locator("#rows tr")).to_have_count(15)
    expect(page.locator("#rows tr").nth(2)).to_be_focused()  # a new window moves and keeps it
    page.keyboard.press("End")
    expect(page.locator("#rows tr").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#path")).to_be_hidden()
    page.keyboard.press("u")
    expect(page.get_by_role("button", name="B/s", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.keyboard.press("t")
    page.keyboard.press("t")
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_everything_that_can_be_used_has_a_name(server: Server, page: Page) -> None:
    server.open()
    server.write(windows=3)
    page.goto(server.url)
    live(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=img], nav, section")]
          .filter((one) => one.checkVisibility())
          .filter((one) => !one.getAttribute("aria-label"))
          .filter((one) => !one.innerText && !one.labels?.[0]?.innerText)
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("width", [360, 760, 1920])
def test_a_screen_of_any_width_is_not_scrolled_sideways(
    server: Server, page: Page, width: int
) -> None:
    server.open()
    server.write([traffic(process("a-name-without-any-place-to-break" * 5), 10**7, 10**9, "exact")])
    server.write(windows=2)
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(server.url + "#by=process")
    live(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    truncated = page.evaluate(
        """() => [...document.querySelectorAll("#rows .number, .figure, .u-axis")]
          .filter((one) => one.checkVisibility() && one.offsetWidth > 2)
          .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"""
    )
    assert truncated == []


def test_dark_follows_the_system_and_the_switch(server: Server, browser: Browser) -> None:
    server.open()
    server.write(windows=2)
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    live(page)
    color = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(color) == "rgb(17, 21, 28)"
    page.get_by_role("button", name="Theme: as the system").click()
    assert page.evaluate(color) == "rgb(245, 246, 248)"
    page.reload()
    live(page)
    assert page.evaluate(color) == "rgb(245, 246, 248)"
    context.close()


def test_a_gap_between_windows_is_no_traffic_in_the_chart(server: Server, page: Page) -> None:
    server.open()
    page.goto(server.url)
    gaps = page.evaluate(
        """async () => {
          const { Model } = await import("/assets/model.js");
          const model = new Model();
          const windows = [[0, 1], [1, 2], [30, 31]];
          const rest = { top: [], groups: [], rows: [], losses: null, present: [] };
          const totals = [[1, 2, 3], [0, 0, 0]];
          model.takeSnapshot({ windows, totals, sums: [0, 0, 0, 0, 0], ...rest }, true);
          return model.columns([]).sent[0];
        }"""
    )
    assert gaps == [1, 1, 2, None, 3, 3]


def test_a_range_of_the_history(server: Server, page: Page, tmp_path: Path) -> None:
    server.open(history=str(tmp_path / "history.db"))
    server.write(windows=2)
    page.goto(server.url + f"#range={server.now - 300}-{server.now}")
    expect(page.locator("#state")).to_have_attribute("data-state", "failed")
    expect(page.locator("#notice")).to_contain_text("No such file")
    server.record(tmp_path / "history.db", windows=200)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#state-text")).to_have_text("history, 3 min measured")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#rows tr")).to_have_count(12)
    page.locator("#rows tr", has_text="prometheus").click()
    expect(page.locator("#rows tr")).to_have_count(6)
    expect(page.locator("#path")).to_contain_text("prometheus")
    page.get_by_role("button", name="From and to").click()
    page.locator("#since").fill("2026-11-22T08:00:00")
    page.locator("#until").fill("2026-11-22T07:00:00")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#notice")).to_have_text("The end is before the beginning.")
    page.get_by_role("button", name="7 d", exact=True).click()
    expect(page.locator("#state")).to_have_attribute("data-state", "past")
    page.get_by_role("button", name="Live").click()
    live(page)
    expect(page.locator("#path")).to_contain_text("prometheus")


def test_updates_that_were_skipped_and_a_refused_page_are_named(
    server: Server, page: Page, context: BrowserContext
) -> None:
    server.open(max_readers=1)
    server.write(windows=2)
    page.goto(server.url)
    live(page)
    refused = context.new_page()
    refused.goto(server.url)
    expect(refused.locator("#notice")).to_have_text("too many pages are open: close one")
    expect(refused.locator("#state")).to_have_attribute("data-state", "refused")
    assert server._sink is not None
    hub: Any = server._sink._hub  # type: ignore[attr-defined]
    server._loop.call_soon_threadsafe(lose, hub)
    expect(page.locator("#state-text")).to_have_text("live, 9 updates skipped")
    page.close()
    live(refused)


def lose(hub: Any) -> None:
    """Let each reader lose its windows, as one that does not read does."""
    for channel in hub._channels.values():
        for subscriber in channel.subscribers:
            for _ in range(9):
                subscriber.offer(b"")
