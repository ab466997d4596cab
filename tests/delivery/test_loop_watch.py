"""A sink that blocks the event loop is named at once, and costs the other sinks nothing."""

import asyncio
import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from support.sinks import Gate, ScriptedSink, running, settings, traffic, until

from hogpipe.delivery import loop_watch
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.interrupter import Interrupter
from hogpipe.records.schema import Record

PATIENCE = 30.0


class BlockingSink(ScriptedSink):
    """Blocks the thread of the event loop in `blocking` calls until it is released."""

    def __init__(self, *blocking: str) -> None:
        super().__init__()
        self.blocking = blocking
        self.released = threading.Event()
        self.was_released = True

    async def write(self, records: Sequence[Record]) -> None:
        self.block("write")
        await super().write(records)

    async def close(self) -> None:
        self.block("close")
        await super().close()

    def block(self, name: str) -> None:
        if name in self.blocking:
            self.was_released = self.released.wait(PATIENCE)


class ReleasingHandler(logging.Handler):
    """Releases a sink when a line names it, which only another thread than the loop's can log."""

    def __init__(self, sink: BlockingSink) -> None:
        super().__init__()
        self.sink = sink
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.sink.released.set()


@contextmanager
def released_by(sink: BlockingSink, logger: str) -> Iterator[ReleasingHandler]:
    """Release the sink when a line of `logger` is logged."""
    handler, log = ReleasingHandler(sink), logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "BLOCKING_SECONDS", 0.1)
    monkeypatch.setattr(loop_watch, "_POLL_SECONDS", 0.02)


def window(sequence: int) -> list[Record]:
    return [traffic(sequence, second=sequence % 59)]


def make_dispatcher(*sinks: ScriptedSink) -> Dispatcher:
    named = [(sink, settings(f"s{number}", retry_max=0.01)) for number, sink in enumerate(sinks)]
    return Dispatcher(named, on_output_closed=lambda: None)


def test_a_blocking_call_is_named_in_two_seconds() -> None:
    slowest = loop_watch.BLOCKING_SECONDS + 2 * loop_watch._POLL_SECONDS
    assert slowest < 2
    assert loop_watch._POLLS * loop_watch._POLL_SECONDS <= loop_watch.BLOCKING_SECONDS


@pytest.mark.usefixtures("quick")
async def test_a_blocking_call_is_named_with_its_line_while_it_blocks() -> None:
    sink, other = BlockingSink("write"), ScriptedSink()
    with released_by(sink, "hogpipe.delivery.health") as handler:
        dispatcher = make_dispatcher(sink, other)
        async with running(dispatcher):
            await dispatcher.publish(window(1))
            await dispatcher.publish(window(2))
            await dispatcher.idle()
            assert await dispatcher.drain(PATIENCE) == []
    assert sink.was_released
    (line,) = handler.lines
    assert line.startswith("sink s0: blocks the event loop (test_loop_watch.py, line ")
    assert dispatcher.health()[0]["last_error"].startswith("blocks the event loop (test_loop")


@pytest.mark.usefixtures("quick")
async def test_the_end_of_a_run_delivers_to_the_others_and_counts_what_the_culprit_lacks() -> None:
    class Sleeping(ScriptedSink):
        async def write(self, records: Sequence[Record]) -> None:
            time.sleep(0.5)  # noqa: ASYNC251 - it blocks
            await super().write(records)

    gate = Gate()
    culprit, other = Sleeping(), ScriptedSink(on_write=gate)
    dispatcher = make_dispatcher(culprit, other)
    async with running(dispatcher):
        for sequence in range(20):
            await dispatcher.publish(window(sequence))
        await until(lambda: culprit.windows)
        asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        (left,) = await dispatcher.drain(PATIENCE)  # ends with the last write of the other
    assert [record["sequence"] for record in other.records] == list(range(20))
    assert left.lost == 20 - len(culprit.windows) > 0
    assert left.text.startswith(f"sink s0: {left.lost} records not delivered (last error: blocks")
    assert other.calls[-1] == culprit.calls[-1] == "close"


@pytest.mark.usefixtures("quick")
async def test_a_first_block_during_the_drain_takes_no_time_from_the_others() -> None:
    class SleepingOnce(ScriptedSink):
        async def write(self, records: Sequence[Record]) -> None:
            time.sleep(3)  # noqa: ASYNC251 - it blocks
            await super().write(records)

    class InThread(ScriptedSink):
        async def write(self, records: Sequence[Record]) -> None:
            await asyncio.to_thread(time.sleep, 0.01)
            await super().write(records)

    culprit, other = SleepingOnce(), InThread()
    dispatcher = make_dispatcher(culprit, other)
    async with running(dispatcher):
        await dispatcher.publish(window(1))
        assert await dispatcher.drain(2) == []
    assert len(other.windows) == len(culprit.windows) == 1


@pytest.mark.usefixtures("quick")
async def test_a_close_that_blocks_comes_after_those_of_the_others() -> None:
    sinks = [BlockingSink("write", "close"), ScriptedSink()]
    sinks[0].released.set()
    order: list[int] = []
    for number, sink in enumerate(sinks):
        sink.on_close = lambda number=number: note(order, number)  # type: ignore[misc]
    dispatcher = make_dispatcher(*sinks)
    async with running(dispatcher):
        sinks[0].on_write = block_shortly
        await dispatcher.publish(window(1))
        await dispatcher.idle()
        await dispatcher.drain(1)
    assert order == [1, 0]


async def note(order: list[int], number: int) -> None:
    order.append(number)


async def block_shortly() -> None:
    time.sleep(0.5)  # noqa: ASYNC251 - it blocks


async def test_a_call_that_awaits_for_long_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Patient(ScriptedSink):
        async def write(self, records: Sequence[Record]) -> None:
            await asyncio.sleep(1.5 * loop_watch.BLOCKING_SECONDS)
            await super().write(records)

    dispatcher = make_dispatcher(Patient())
    async with running(dispatcher):
        await dispatcher.publish(window(1))
        await dispatcher.idle()
        assert await dispatcher.drain(PATIENCE) == []
    assert caplog.messages == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["task", "callback"])
async def test_a_task_or_callback_of_a_plugin_that_blocks_is_named_while_it_does(way: str) -> None:
    class Background(BlockingSink):
        """Returns at once from `write`, and blocks later."""

        async def write(self, records: Sequence[Record]) -> None:
            if not self.windows:
                loop = asyncio.get_running_loop()
                if way == "task":
                    self.task = loop.create_task(self.block_later())
                else:
                    loop.call_later(0.01, self.block, "later")
            await ScriptedSink.write(self, records)

        async def block_later(self) -> None:
            await asyncio.sleep(0.01)
            self.block("later")

    sink, other = Background("later"), ScriptedSink()
    with released_by(sink, "hogpipe.delivery.loop_watch") as handler:
        dispatcher = make_dispatcher(sink, other)
        async with running(dispatcher):
            await dispatcher.publish(window(1))
            await until(lambda: handler.lines)
            await dispatcher.publish(window(2))
            await dispatcher.idle()
            assert await dispatcher.drain(PATIENCE) == []
    assert sink.was_released
    assert handler.lines[0].startswith("a plugin blocks the event loop (test_loop_watch.py, line ")
    assert len(other.windows) == len(sink.windows) == 2


@pytest.mark.usefixtures("quick")
async def test_a_loop_that_is_delayed_without_a_plugin_is_not_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = loop_watch.LoopWatch()
    watch.start()
    try:
        with caplog.at_level(logging.INFO, "hogpipe.delivery.loop_watch"):
            loop = asyncio.get_running_loop()
            # Called by the loop itself: no line of the test is on the stack.
            loop.call_soon(time.sleep, 0.5)
            await until(lambda: caplog.messages)
    finally:
        watch.stop()
    (line,) = caplog.messages
    assert line == "something delays the event loop, and so delays the whole run"
    assert caplog.records[0].levelno == logging.INFO
    await until(lambda: watch.blocked_seconds > 0)


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    """It has the main thread, in which tests run, and its signal until the test ends."""
    former = signal.getsignal(signal.SIGUSR2)
    made = Interrupter()
    made.install()
    yield made
    signal.signal(signal.SIGUSR2, former)


def spin() -> None:
    while True:
        pass


def receive() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.recv(1)


BLOCKS = {
    "sleep": lambda: time.sleep(PATIENCE),
    "spin": spin,
    "lock": lambda: threading.Event().wait(PATIENCE),
    "socket": receive,
    "process": lambda: subprocess.run(["sleep", str(PATIENCE)], check=True),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", BLOCKS)
async def test_a_call_that_blocks_for_ever_is_interrupted_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, interrupter: Interrupter, way: str
) -> None:
    monkeypatch.setattr(loop_watch, "MOST_BLOCKING_SECONDS", 0.2)

    class Stuck(ScriptedSink):
        stuck = 0

        async def write(self, records: Sequence[Record]) -> None:
            if self.stuck < 2:
                self.stuck += 1
                BLOCKS[way]()
            await super().write(records)

    culprit, other = Stuck(), ScriptedSink()
    named = [(sink, settings(f"s{n}", retry_max=0.01)) for n, sink in enumerate((culprit, other))]
    dispatcher = Dispatcher(named, on_output_closed=lambda: None, interrupter=interrupter)
    async with running(dispatcher):
        for sequence in range(3):
            await dispatcher.publish(window(sequence))
        await dispatcher.idle()
        assert await dispatcher.drain(PATIENCE) == []
    assert culprit.stuck == 2
    assert dispatcher.health()[0]["last_error"].startswith(
        "TimeoutError: it blocked the event loop"
    )
    assert len(other.records) == len(culprit.records) == 3


@pytest.mark.usefixtures("quick")
async def test_a_call_that_ignores_an_interruption_is_interrupted_again(
    monkeypatch: pytest.MonkeyPatch, interrupter: Interrupter
) -> None:
    monkeypatch.setattr(loop_watch, "MOST_BLOCKING_SECONDS", 0.2)
    monkeypatch.setattr(loop_watch, "_INTERRUPT_AGAIN_SECONDS", 0.1)
    ignored: list[str] = []

    class Stubborn(ScriptedSink):
        async def write(self, records: Sequence[Record]) -> None:
            while len(ignored) < 2:
                try:
                    time.sleep(PATIENCE)  # noqa: ASYNC251 - it blocks
                except TimeoutError as error:
                    ignored.append(str(error))
            await super().write(records)

    sink = Stubborn()
    dispatcher = Dispatcher(
        [(sink, settings("s0"))], on_output_closed=lambda: None, interrupter=interrupter
    )
    async with running(dispatcher):
        await dispatcher.publish(window(1))
        await dispatcher.idle()
        assert await dispatcher.drain(PATIENCE) == []
    assert len(ignored) == 2
    assert len(sink.windows) == 1


def test_a_request_is_void_once_what_it_is_for_is_over(interrupter: Interrupter) -> None:
    interrupter.interrupt(lambda: False, "late")
    signal.raise_signal(signal.SIGUSR2)  # nobody requested it


def test_a_request_raises_its_text(interrupter: Interrupter) -> None:
    def work() -> None:
        interrupter.interrupt(lambda: True, "now")
        time.sleep(PATIENCE)

    with pytest.raises(TimeoutError, match="now"):
        work()


async def test_an_answer_that_comes_while_its_question_is_looked_at_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Callable[[], None]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        loop, "call_soon_threadsafe", lambda answer, *of: answers.append(partial(answer, *of))
    )
    heartbeat = loop_watch._Heartbeat(loop, lambda _seconds: None)
    now = time.monotonic()

    def read_clock() -> float:
        for answer in answers:
            answer()
        return now

    heartbeat.poll(0.0, is_waiting=False)
    monkeypatch.setattr(time, "monotonic", read_clock)
    heartbeat.poll(2.0, is_waiting=False)  # a step has ended meanwhile
    monkeypatch.undo()
    asked = len(answers)
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *_: answers.append(bool))
    heartbeat.poll(2.0, is_waiting=False)
    assert len(answers) == asked + 1
