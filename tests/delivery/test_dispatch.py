"""Every window goes to every sink, and a failing sink harms no other."""

import asyncio
import random
from collections.abc import Callable

import pytest
from support.sinks import (
    Gate,
    Script,
    ScriptedSink,
    accounted,
    running,
    settings,
    total_bytes,
    traffic,
    until,
)

from hogpipe.delivery import isolation, opening
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.errors import ConfigurationError, DeliveryError, OutputClosedError, RefusedError
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Sink, SinkSettings


def _dispatcher(
    *sinks: tuple[Sink, SinkSettings], on_output_closed: Callable[[], None] = lambda: None
) -> Dispatcher:
    return Dispatcher(sinks, on_output_closed=on_output_closed, rng=random.Random(1))


def _window(sequence: int) -> list[Record]:
    return [traffic(sequence, pid=sequence % 3, second=sequence % 59)]


async def test_each_sink_gets_each_window_in_order_and_is_closed_once() -> None:
    sinks = [ScriptedSink(), ScriptedSink()]
    dispatcher = _dispatcher(*[(sink, settings()) for sink in sinks])
    async with running(dispatcher):
        for sequence in range(5):
            await dispatcher.publish(_window(sequence))
        assert await dispatcher.drain(10) == []
    for sink in sinks:
        assert [record["sequence"] for record in sink.records] == [0, 1, 2, 3, 4]
        assert sink.calls == ["open", *["write"] * 5, "close"]
    assert dispatcher.health()[0] == {
        "name": "s", "type": "test", "queued": 0, "delivered": 5, "dropped": 0, "coalesced": 0,
        "retries": 0,
    }  # fmt: skip


async def test_run_ends_after_the_drain() -> None:
    dispatcher = _dispatcher((ScriptedSink(), settings()))
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        await dispatcher.publish(_window(1))
        assert await dispatcher.drain(10) == []


@pytest.mark.parametrize("error", [OSError("gone"), DeliveryError("later"), TimeoutError()])
async def test_a_write_that_fails_for_now_is_retried_with_the_same_records(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(on_write=Script(error, error, error))
    dispatcher = _dispatcher((sink, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await dispatcher.publish(_window(2))
        assert await dispatcher.drain(10) == []
    assert [record["sequence"] for record in sink.records] == [1, 2]
    (info,) = dispatcher.health()
    assert (info["retries"], info["dropped"]) == (3, 0)
    assert info["last_error"].startswith(type(error).__name__)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages[1] == "sink s: works again"


@pytest.mark.parametrize(
    "error", [RefusedError("never"), ValueError("a bug"), asyncio.CancelledError()]
)
async def test_a_window_that_a_sink_never_takes_is_dropped_and_logged_once(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(on_write=Script(error, error))
    dispatcher = _dispatcher((sink, settings()))
    async with running(dispatcher):
        for sequence in range(3):
            await dispatcher.publish(_window(sequence))
        assert await dispatcher.drain(10) == []
    assert [record["sequence"] for record in sink.records] == [2]
    (info,) = dispatcher.health()
    assert (info["delivered"], info["dropped"], info["retries"]) == (1, 2, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_hanging_sink_delays_neither_another_nor_the_publisher() -> None:
    gate, healthy = Gate(), ScriptedSink()
    stuck = ScriptedSink(on_write=gate)
    dispatcher = _dispatcher((stuck, settings("stuck", queue_windows=2)), (healthy, settings()))
    async with running(dispatcher):
        for sequence in range(20):
            await dispatcher.publish(_window(sequence))
        await until(lambda: dispatcher.health()[1]["delivered"] == 20)
        assert stuck.windows == []
        (left,) = await dispatcher.drain(0)
    assert left.text.startswith("sink stuck: ")
    assert stuck.calls[-1] == "close"
    assert accounted(dispatcher.health()[0]) == 20


async def test_a_write_beyond_its_time_limit_is_cancelled_and_retried() -> None:
    hang = asyncio.Event()
    waits = [hang.wait]

    async def hang_once() -> None:
        if waits:
            await waits.pop()()

    sink = ScriptedSink(on_write=hang_once)
    dispatcher = _dispatcher((sink, settings(write_timeout=0.01)))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        assert await dispatcher.drain(10) == []
    assert dispatcher.health()[0]["last_error"] == "TimeoutError: it took longer than 0.01 s"
    assert len(sink.windows) == 1


async def test_coalescing_for_a_dead_sink_loses_no_byte() -> None:
    gate = Gate()
    sink = ScriptedSink(on_write=gate)
    dispatcher = _dispatcher((sink, settings(queue_windows=3)))
    published = 0
    async with running(dispatcher):
        for sequence in range(50):
            window = _window(sequence)
            published += total_bytes(window)
            await dispatcher.publish(window)
            await asyncio.sleep(0)
        gate.opened.set()
        assert await dispatcher.drain(10) == []
    assert total_bytes(sink.records) == published
    assert len(sink.windows) <= 4
    (info,) = dispatcher.health()
    assert info["coalesced"] > 0
    assert accounted(info) == 50


async def test_drop_oldest_counts_what_it_drops() -> None:
    gate = Gate()
    sink = ScriptedSink(on_write=gate)
    dispatcher = _dispatcher((sink, settings(queue_windows=3, when_full="drop_oldest")))
    async with running(dispatcher):
        await dispatcher.publish(_window(0))
        await until(lambda: gate.waiting)
        for sequence in range(1, 10):
            await dispatcher.publish(_window(sequence))
        gate.opened.set()
        assert await dispatcher.drain(10) == []
    assert [record["sequence"] for record in sink.records] == [0, 7, 8, 9]
    assert dispatcher.health()[0]["dropped"] == 6


async def test_block_makes_the_publisher_wait_and_the_other_sinks_go_on() -> None:
    gate, healthy = Gate(), ScriptedSink()
    blocking = ScriptedSink(on_write=gate)
    dispatcher = _dispatcher(
        (blocking, settings(queue_windows=2, when_full="block")), (healthy, settings())
    )

    async def publish() -> None:
        for sequence in range(10):
            await dispatcher.publish(_window(sequence))

    async with running(dispatcher), asyncio.TaskGroup() as group:
        publishing = group.create_task(publish())
        await until(lambda: gate.waiting and len(healthy.windows) == 3)
        assert not publishing.done()
        assert dispatcher.health()[0]["queued"] == 3
        gate.opened.set()
        await publishing
        assert await dispatcher.drain(10) == []
    assert [record["sequence"] for record in blocking.records] == list(range(10))


@pytest.mark.parametrize("release", ["drain", "stop_blocking"])
async def test_a_blocked_publisher_is_released_at_the_end_of_the_run(release: str) -> None:
    dispatcher = _dispatcher(
        (ScriptedSink(on_write=Gate()), settings(queue_windows=1, when_full="block"))
    )

    async def publish() -> None:
        for sequence in range(3):
            await dispatcher.publish(_window(sequence))

    async with running(dispatcher), asyncio.TaskGroup() as group:
        publishing = group.create_task(publish())
        await until(lambda: dispatcher.health()[0]["queued"] == 2)
        if release == "stop_blocking":
            dispatcher.stop_blocking()
            await publishing
        (left,) = await dispatcher.drain(0)
        await publishing
    assert left.text.endswith("records not delivered")
    assert accounted(dispatcher.health()[0]) == 3


async def test_a_cancelled_publish_leaves_its_window_queued() -> None:
    dispatcher = _dispatcher((ScriptedSink(), settings(queue_windows=1, when_full="block")))
    publishing = asyncio.ensure_future(dispatcher.publish(_window(1)))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait({publishing})
    assert publishing.cancelled()
    assert dispatcher.health()[0]["queued"] == 1


async def test_a_sink_that_cannot_be_opened_for_now_is_opened_later() -> None:
    sink = ScriptedSink(on_open=Script(OSError("not yet"), DeliveryError("nor yet")))
    dispatcher = _dispatcher((sink, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        assert await dispatcher.drain(10) == []
    assert sink.calls == ["open", "open", "open", "write", "close"]


async def test_a_sink_that_is_slow_to_open_does_not_delay_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "START_SECONDS", 0.01)
    slow, healthy = ScriptedSink(on_open=Gate()), ScriptedSink()
    dispatcher = _dispatcher((slow, settings("slow")), (healthy, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: healthy.windows)
        (left,) = await dispatcher.drain(0)
    assert (left.text, left.lost) == ("sink slow: 1 records not delivered", 1)
    assert slow.calls == ["open", "close"]


async def test_a_sink_not_yet_open_at_the_start_goes_on_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "START_SECONDS", 0.01)
    gate = Gate()
    slow = ScriptedSink(on_open=gate)
    dispatcher = _dispatcher((slow, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        gate.opened.set()
        assert await dispatcher.drain(10) == []
    assert slow.calls == ["open", "write", "close"]
    assert "last_error" not in dispatcher.health()[0]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ConfigurationError("no such place"), "sink bad: no such place"),
        (KeyError("x"), "sink bad: cannot be opened: KeyError: 'x'"),
    ],
)
async def test_a_sink_that_can_never_be_opened_prevents_the_start_and_the_others_are_closed(
    error: Exception, problem: str
) -> None:
    good, bad = ScriptedSink(), ScriptedSink(on_open=Script(error))
    dispatcher = _dispatcher((good, settings("good")), (bad, settings("bad")))
    with pytest.raises(ConfigurationError) as caught:
        await dispatcher.open()
    (line,) = caught.value.problems
    assert line.startswith(problem)  # and names the line of the sink's code
    assert good.calls == bad.calls == ["open", "close"]


async def test_when_opening_is_cancelled_every_sink_is_closed() -> None:
    good, slow = ScriptedSink(), ScriptedSink(on_open=Gate())
    opened = asyncio.ensure_future(_dispatcher((good, settings()), (slow, settings("slow"))).open())
    await until(lambda: slow.calls)
    opened.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opened
    assert good.calls == slow.calls == ["open", "close"]


@pytest.mark.parametrize("at", ["open", "write"])
async def test_a_reader_that_leaves_is_reported_once_and_no_record_is_left(at: str) -> None:
    left: list[bool] = []
    action = Script(OutputClosedError("gone"))
    sink = ScriptedSink(**{f"on_{at}": action})
    dispatcher = _dispatcher((sink, settings()), on_output_closed=lambda: left.append(True))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await dispatcher.publish(_window(2))
        await until(lambda: left and "close" in sink.calls)
        await dispatcher.publish(_window(3))
        assert await dispatcher.drain(10) == []
    assert left == [True]
    assert sink.windows == []
    assert dispatcher.health()[0]["dropped"] == 3


async def test_a_drain_skips_the_backoff() -> None:
    sink = ScriptedSink(on_write=Script(OSError("busy")))
    dispatcher = _dispatcher((sink, settings(retry_initial=1e6, retry_max=1e6)))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: "last_error" in dispatcher.health()[0])
        assert await dispatcher.drain(10) == []
    assert len(sink.windows) == 1


async def test_cancelling_the_run_closes_every_sink_even_while_it_writes() -> None:
    sinks = [ScriptedSink(on_write=Gate()), ScriptedSink()]
    dispatcher = _dispatcher(*[(sink, settings()) for sink in sinks])
    await dispatcher.open()
    run = asyncio.ensure_future(dispatcher.run())
    await dispatcher.publish(_window(1))
    await until(lambda: "write" in sinks[0].calls and sinks[1].windows)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [sink.calls[-1] for sink in sinks] == ["close", "close"]
    assert len(await dispatcher.drain(0)) == 1


async def test_a_drain_without_a_run_closes_the_sinks() -> None:
    sink = ScriptedSink()
    dispatcher = _dispatcher((sink, settings()))
    await dispatcher.open()
    assert await dispatcher.drain(0) == []
    assert sink.calls == ["open", "close"]


async def test_a_close_that_fails_or_hangs_leaves_no_other_sink_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isolation, "CLOSE_SECONDS", 0.01)
    failing, hanging = ScriptedSink(on_close=Script(ValueError("x"))), ScriptedSink(on_close=Gate())
    good = ScriptedSink()
    dispatcher = _dispatcher(*[(sink, settings()) for sink in (failing, hanging, good)])
    async with running(dispatcher):
        assert await dispatcher.drain(1) == []
    assert good.calls == ["open", "close"]
    assert len(caplog.messages) == 2


class ReopenableSink(ScriptedSink):
    writing = False

    async def write(self, records: list[Record]) -> None:
        self.writing = True
        await super().write(records)
        self.writing = False

    async def reopen(self) -> None:
        assert not self.writing
        self.calls.append("reopen")


async def test_a_reopen_comes_between_two_writes() -> None:
    gate, plain = Gate(), ScriptedSink()
    sink = ReopenableSink(on_write=gate)
    dispatcher = _dispatcher((sink, settings()), (plain, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: gate.waiting)
        dispatcher.reopen()
        await dispatcher.publish(_window(2))
        gate.opened.set()
        assert await dispatcher.drain(10) == []
    assert sink.calls == ["open", "write", "reopen", "write", "close"]


async def test_a_sink_that_is_being_opened_is_reopened_after_that() -> None:
    gate = Gate()
    sink = ReopenableSink(on_open=gate)
    dispatcher = _dispatcher((sink, settings()))
    opening = asyncio.create_task(dispatcher.open())
    await until(lambda: gate.waiting)
    dispatcher.reopen()  # the file may have been renamed since it was opened
    gate.opened.set()
    await opening
    running = asyncio.create_task(dispatcher.run())
    await until(lambda: "reopen" in sink.calls)
    assert await dispatcher.drain(10) == []
    await running
    assert sink.calls == ["open", "reopen", "close"]


async def test_an_idle_sink_is_reopened_at_once() -> None:
    sink = ReopenableSink()
    dispatcher = _dispatcher((sink, settings()))
    async with running(dispatcher):
        dispatcher.reopen()
        await until(lambda: "reopen" in sink.calls)


async def test_backoff_grows_to_its_maximum_and_is_reset_by_a_success() -> None:
    ceilings: list[float] = []

    class Recorder(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            ceilings.append(b)
            return 0.0

    errors = [OSError("x")] * 4
    sink = ScriptedSink(on_write=Script(*errors))
    waits = settings(retry_initial=0.5, retry_max=3.0)
    dispatcher = Dispatcher([(sink, waits)], on_output_closed=lambda: None, rng=Recorder())
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: sink.windows)
        sink.on_write = Script(OSError("y"))
        await dispatcher.publish(_window(2))
        await until(lambda: len(sink.windows) == 2)
        await dispatcher.drain(1)
    assert ceilings == [0.5, 1.0, 2.0, 3.0, 0.5]


def test_a_sink_without_a_name_is_named_by_its_type() -> None:
    dispatcher = _dispatcher((ScriptedSink(), SinkSettings(type="test")))
    assert dispatcher.health()[0]["name"] == "test"
