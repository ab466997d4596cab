"""SIGHUP reopens files and reads the configuration again; what is refused changes nothing."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.sinks import until

from hogpipe.config.settings import Settings
from hogpipe.errors import ConfigurationError
from hogpipe.reconfiguration import Reconfiguration
from hogpipe.reload import Reloader
from hogpipe.text import NOTICE

DONE = ("aggregation.interval", "sink tcp added")


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    """The level of a run without -v, whatever another test has set."""
    caplog.set_level(NOTICE)


class Pipeline:
    """Records calls; `reconfigure` returns or raises what a test has set."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_stopping = False
        self.outcome: Reconfiguration | Exception = Reconfiguration()

    def reopen(self) -> None:
        self.calls.append("reopen")

    async def reconfigure(self, _settings: Settings) -> Reconfiguration:
        self.calls.append("reconfigure")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Manager:
    """Keeps the states that are reported."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def report_reloading(self) -> None:
        self.states.append("reloading")

    def report_ready(self, status: str | None = None) -> None:
        self.states.append(f"ready: {status}")


class Case:
    def __init__(self, read: Callable[[], Settings] | None) -> None:
        self.pipeline, self.manager = Pipeline(), Manager()
        self.reloader = Reloader(self.pipeline, self.manager, read)  # type: ignore[arg-type]

    async def reload(self) -> str:
        """Reload once and return the state that follows."""
        number = len(self.manager.states)
        self.reloader.request()
        await until(lambda: len(self.manager.states) == number + 2)
        assert self.manager.states[number] == "reloading"
        return self.manager.states[-1]


@asynccontextmanager
async def running(read: Callable[[], Settings] | None = Settings) -> AsyncIterator[Case]:
    case = Case(read)
    task = asyncio.create_task(case.reloader.run(lambda: "9.0 s, 5 packets"))
    try:
        yield case
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or task.exception() is None


async def test_files_are_reopened_and_the_configuration_is_taken_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as case:
        case.pipeline.outcome = Reconfiguration(DONE)
        assert await case.reload() == "ready: 9.0 s, 5 packets"
        case.pipeline.outcome = Reconfiguration()
        assert await case.reload() == "ready: 9.0 s, 5 packets"
    assert case.pipeline.calls == ["reopen", "reconfigure"] * 2
    assert caplog.messages == ["configuration reloaded: aggregation.interval, sink tcp added"]


async def test_without_a_configuration_files_are_reopened() -> None:
    async with running(None) as case:
        await case.reload()
    assert case.pipeline.calls == ["reopen"]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("attribution.hold",), "attribution.hold: takes effect at the next start"),
        (
            ("capture.interfaces", "attribution.hold"),
            "capture.interfaces, attribution.hold: take effect at the next start",
        ),
    ],
)
async def test_what_needs_a_restart_is_named_in_one_line(
    caplog: pytest.LogCaptureFixture, keys: tuple[str, ...], line: str
) -> None:
    async with running() as case:
        case.pipeline.outcome = Reconfiguration((), keys)
        state = await case.reload()
    assert state == f"ready: a restart is needed for {', '.join(keys)}; 9.0 s, 5 packets"
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [(logging.WARNING, line)]


async def test_an_invalid_configuration_is_refused_with_all_its_errors_until_it_is_corrected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = ["config.toml: sinks[0].port: required", "config.toml: sink: unknown key"]

    def read() -> Settings:
        if problems:
            raise ConfigurationError(problems)
        return Settings()

    async with running(read) as case:
        state = await case.reload()
        assert state == f"ready: the last configuration is refused: {problems[0]}; 9.0 s, 5 packets"
        assert case.reloader.describe("later") == state[7:].replace("9.0 s, 5 packets", "later")
        end = "the configuration is refused, and the run goes on with the former one"
        assert caplog.messages == [*problems, end]
        assert case.pipeline.calls == ["reopen"]
        problems.clear()
        assert await case.reload() == "ready: 9.0 s, 5 packets"


@pytest.mark.parametrize("error", [ConfigurationError("sink a: no"), ValueError("a\x1b[bug")])
async def test_whatever_the_run_cannot_take_over_is_refused(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with running() as case:
        case.pipeline.outcome = error
        state = await case.reload()
        assert state.startswith("ready: the last configuration is refused: ")
        assert state.isprintable()
        case.pipeline.outcome = Reconfiguration()
        assert await case.reload() == "ready: 9.0 s, 5 packets"
    assert caplog.messages[-1].startswith("the configuration is refused")


async def test_requests_during_a_reload_are_one_more_after_it() -> None:
    started, go_on, reads = threading.Event(), threading.Event(), list[int]()

    def read() -> Settings:
        reads.append(1)
        started.set()
        go_on.wait(20)
        return Settings()

    async with running(read) as case:
        case.reloader.request()
        await until(started.is_set)
        for _ in range(3):
            case.reloader.request()
        go_on.set()
        await until(lambda: len(case.manager.states) == 4)
    assert len(reads) == 2
    assert [state[:5] for state in case.manager.states] == ["reloa", "ready", "reloa", "ready"]


async def test_a_request_before_the_run_is_fulfilled_with_it() -> None:
    case = Case(Settings)
    case.reloader.request()
    task = asyncio.create_task(case.reloader.run(lambda: ""))
    await until(lambda: len(case.manager.states) == 2)
    task.cancel()


async def test_a_request_while_the_run_stops_has_no_effect() -> None:
    started, go_on = threading.Event(), threading.Event()

    def read() -> Settings:
        started.set()
        go_on.wait(20)
        return Settings()

    async with running(read) as case:
        case.reloader.request()
        await until(started.is_set)
        case.pipeline.is_stopping = True
        case.reloader.request()
        go_on.set()
        await until(lambda: "reconfigure" in case.pipeline.calls)
    assert case.manager.states == ["reloading"]
