"""Whatever a sink does, the others get their windows at once and the run ends in time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from support import virtual_time
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

from hogpipe.delivery.coalescing import MAX_RECORDS
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record, SinkInfo
from hogpipe.sinks.contract import Sink, SinkSettings

_DRAIN = 1.0


def _dispatcher(*sinks: tuple[Sink, SinkSettings]) -> Dispatcher:
    return Dispatcher(sinks, on_output_closed=lambda: None, rng=random.Random(1))


def _window(number: int, records: int = 3) -> list[Record]:
    return [traffic(number * records + pid, pid=pid, second=number % 59) for pid in range(records)]


async def _refuse_cancellation() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def _exit() -> None:
    raise SystemExit("from a plugin")


async def _interrupt() -> None:
    raise KeyboardInterrupt


class TimedSink(ScriptedSink):
    """Records the time of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    async def write(self, records: list[Record]) -> None:
        await super().write(records)
        self.times.append(asyncio.get_running_loop().time())


async def _run_a_minute(*bad: ScriptedSink) -> tuple[list[float], list[SinkInfo], float]:
    """Publish a window a second; return the delays and counts, and the duration of the drain."""
    good = TimedSink()
    bad_settings = [settings(f"bad{i}", retry_initial=0.5, retry_max=30.0) for i in range(len(bad))]
    dispatcher = _dispatcher(
        *zip(bad, bad_settings, strict=True), (good, settings("good", retry_initial=0.5))
    )
    clock = asyncio.get_running_loop().time
    published = []
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    for number in range(60):
        published.append(clock())
        await dispatcher.publish(_window(number))
        await asyncio.sleep(1)
    finished = clock()
    await dispatcher.drain(_DRAIN)
    await running
    delays = [written - at for at, written in zip(published, good.times, strict=True)]
    return delays, dispatcher.health(), clock() - finished


async def _fail() -> None:
    raise OSError("dead")


BAD: dict[str, Callable[[], Awaitable[None]]] = {
    "dead": _fail,
    "stalled": lambda: asyncio.Event().wait(),  # type: ignore[dict-item,return-value]
    "refuses cancellation": _refuse_cancellation,
    "cancels itself": _cancel_itself,
    "exits": _exit,
    "interrupts": _interrupt,
}


def test_a_dead_and_a_stalled_sink_do_not_delay_others_for_a_minute() -> None:
    bad = [ScriptedSink(on_write=BAD["dead"]), ScriptedSink(on_write=BAD["stalled"])]
    delays, infos, _end = virtual_time.run(_run_a_minute(*bad))
    assert delays == [0.0] * 60
    assert [accounted(info) for info in infos] == [180] * 3
    assert infos[0]["retries"] > 0
    assert [info["dropped"] for info in infos] == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "name"),
    [(call, name) for call in ("on_write", "on_close") for name in BAD]
    + [("on_open", name) for name in ("dead", "stalled", "refuses cancellation")],
)
def test_a_sink_that_misbehaves_in_one_call_harms_no_other_and_the_run_ends(
    call: str, name: str
) -> None:
    bad = ScriptedSink(**{call: BAD[name]})
    delays, infos, end = virtual_time.run(_run_a_minute(bad))
    assert delays == [0.0] * 60
    assert [accounted(info) for info in infos] == [180, 180]
    assert end < _DRAIN + 1.0


def test_a_sink_that_misbehaves_in_every_call_cannot_keep_the_run_from_ending() -> None:
    bad = ScriptedSink(_refuse_cancellation, _refuse_cancellation, _refuse_cancellation)
    delays, infos, end = virtual_time.run(_run_a_minute(bad))
    assert delays == [0.0] * 60
    assert infos[0]["queued"] + infos[0]["coalesced"] == 180
    assert end < _DRAIN + 1.0
    assert bad.calls == ["open", "close"]  # one at a time: the first was ended by force


async def test_the_queue_of_a_dead_sink_is_bounded_in_records() -> None:
    gate = Gate()
    dispatcher = _dispatcher((ScriptedSink(on_write=gate), settings()))
    async with running(dispatcher):
        size = MAX_RECORDS // 10
        window = _window(0, size)
        for _ in range(30):
            await dispatcher.publish(window)
            (info,) = dispatcher.health()
            assert accounted(info) % size == 0
        await until(lambda: dispatcher.health()[0]["queued"] <= MAX_RECORDS + size)
        await dispatcher.drain(0)


async def test_publishing_does_not_wait_while_windows_are_merged_for_a_dead_sink() -> None:
    dispatcher = _dispatcher((ScriptedSink(on_write=Gate()), settings(queue_windows=4)))
    async with running(dispatcher):
        await asyncio.sleep(0)
        for number in range(8):
            publishing = asyncio.ensure_future(dispatcher.publish(_window(number, 5000)))
            await asyncio.sleep(0)
            assert publishing.done()
        await until(lambda: dispatcher.health()[0]["coalesced"] > 0)
        await dispatcher.drain(0)


async def test_a_cancelled_publish_loses_nothing() -> None:
    gate, sink = Gate(), ScriptedSink()
    sink.on_write = gate
    dispatcher = _dispatcher((sink, settings(queue_windows=1)))
    published = 0
    async with running(dispatcher):
        for number in range(6):
            window = _window(number, 3000)
            published += total_bytes(window)
            publishing = asyncio.create_task(dispatcher.publish(window))
            for _ in range(3):
                await asyncio.sleep(0)
            publishing.cancel()
            await asyncio.wait({publishing})
        gate.opened.set()
        assert await dispatcher.drain(10) == []
    assert total_bytes(sink.records) == published


async def test_a_late_success_of_a_timed_out_write_is_not_counted() -> None:
    release = asyncio.Event()

    async def write_late() -> None:
        try:
            await release.wait()
        except asyncio.CancelledError:
            await release.wait()

    sink = ScriptedSink(on_write=write_late)
    dispatcher = _dispatcher((sink, settings(write_timeout=0.01)))
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    await dispatcher.publish(_window(1))
    await until(lambda: dispatcher.health()[0]["retries"] >= 1)
    assert sink.calls == ["open", "write"]  # none beside the one that still runs
    sink.on_write = None
    release.set()
    assert await dispatcher.drain(10) == []
    await running
    assert len(sink.windows) == 2  # at least once
    assert dispatcher.health()[0]["delivered"] == 3


async def test_only_undelivered_records_are_written_again() -> None:
    class Partial(ScriptedSink):
        async def write(self, records: list[Record]) -> None:
            self.windows.append(list(records))
            if len(self.windows) == 1:
                raise DeliveryError("half", undelivered=records[1:], refused=[])
            if len(self.windows) == 2:
                raise DeliveryError("half", undelivered=records[1:], refused=records[:1])

    sink = Partial()
    dispatcher = _dispatcher((sink, settings()))
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    await dispatcher.publish(_window(0))
    await dispatcher.publish(_window(1))
    assert await dispatcher.drain(10) == []
    await running
    given = [[record["sequence"] for record in window] for window in sink.windows]
    assert given == [[0, 1, 2], [1, 2], [2], [3, 4, 5]]
    (info,) = dispatcher.health()
    assert (info["delivered"], info["dropped"], info["retries"]) == (5, 1, 2)


async def test_a_refused_record_never_blocks_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Picky(ScriptedSink):
        async def write(self, records: list[Record]) -> None:
            if any(record["sequence"] == 37 for record in records):
                raise RefusedError("one of these is too odd")
            await super().write(records)

    sink = Picky()
    dispatcher = _dispatcher((sink, settings()))
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    await dispatcher.publish(_window(0, 100))
    assert await dispatcher.drain(10) == []
    await running
    assert [r["sequence"] for r in sink.records] == [n for n in range(100) if n != 37]
    (info,) = dispatcher.health()
    assert (info["delivered"], info["dropped"], info["retries"]) == (99, 1, 0)
    assert caplog.messages == ["sink s: drops 1 records: RefusedError: one of these is too odd"]


async def test_a_sink_that_fails_to_open_is_opened_later() -> None:
    sink = ScriptedSink(on_open=Script(OSError("x"), SystemExit("y")))
    dispatcher = _dispatcher((sink, settings()))
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    await dispatcher.publish(_window(1))
    assert await dispatcher.drain(10) == []
    await running
    assert sink.calls == ["open", "open", "open", "write", "close"]
