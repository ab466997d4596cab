"""Sinks come and go during a run: each window goes to the sinks of its time, none is lost."""

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.sinks import Gate, Script, ScriptedSink, running, settings, traffic, until

from hogpipe.delivery import dispatch
from hogpipe.delivery.dispatch import Dispatcher, NewSink
from hogpipe.delivery.spool import Spool
from hogpipe.errors import ConfigurationError, InUseError, OutputClosedError
from hogpipe.records.schema import Record
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink


def _dispatcher(*sinks: NewSink, on_output_closed: Callable[[], None] = lambda: None) -> Dispatcher:
    return Dispatcher(sinks, on_output_closed=on_output_closed, rng=random.Random(1))


def _window(sequence: int) -> list[Record]:
    return [traffic(sequence, pid=sequence % 3, second=sequence % 59)]


async def _change(dispatcher: Dispatcher, *sinks: NewSink | int) -> None:
    dispatcher.switch(await dispatcher.prepare(sinks))


def _sequences(sink: ScriptedSink) -> list[int]:
    return [record["sequence"] for record in sink.records]


async def test_each_window_goes_to_the_sinks_of_its_time() -> None:
    stays, leaves, comes = ScriptedSink(), ScriptedSink(), ScriptedSink()
    dispatcher = _dispatcher((leaves, settings("leaves")), (stays, settings("stays")))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await _change(dispatcher, 1, (comes, settings("comes")))
        await dispatcher.publish(_window(2))
        assert [one["name"] for one in dispatcher.health()] == ["stays", "comes"]
        assert await dispatcher.drain(10) == []
    assert [_sequences(sink) for sink in (leaves, stays, comes)] == [[1], [1, 2], [2]]
    for sink in (leaves, stays, comes):
        assert (sink.calls.count("open"), sink.calls.count("close")) == (1, 1)


async def test_a_new_sink_is_opened_at_once_and_gets_windows_once_the_former_is_closed() -> None:
    gate, new = Gate(), ScriptedSink()
    former = ScriptedSink(on_write=gate)
    dispatcher = _dispatcher((former, settings()))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: gate.waiting)
        await _change(dispatcher, (new, settings()))
        await dispatcher.publish(_window(2))
        assert new.calls == ["open"]
        gate.opened.set()
        await until(lambda: new.windows)
        assert former.calls == ["open", "write", "close"]
        assert await dispatcher.drain(10) == []


async def test_a_run_without_sinks_gets_one() -> None:
    sink, dispatcher = ScriptedSink(), _dispatcher()
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await _change(dispatcher, (sink, settings()))
        await dispatcher.publish(_window(2))
        assert await dispatcher.drain(10) == []
    assert _sequences(sink) == [2]


async def test_a_new_sink_that_can_never_be_opened_refuses_the_whole_change() -> None:
    former, good = ScriptedSink(), ScriptedSink()
    bad = ScriptedSink(on_open=Script(ConfigurationError("no such folder")))
    dispatcher = _dispatcher((former, settings()))
    async with running(dispatcher):
        with pytest.raises(ConfigurationError, match=r"^sink bad: no such folder$"):
            await dispatcher.prepare([(good, settings("good")), (bad, settings("bad"))])
        await dispatcher.publish(_window(1))
        assert await dispatcher.drain(10) == []
    assert _sequences(former) == [1]
    assert (good.calls, bad.calls) == (["open", "close"], ["open", "close"])


async def test_a_change_that_is_cancelled_while_a_sink_is_opened_closes_it() -> None:
    gate, former = Gate(), ScriptedSink()
    new = ScriptedSink(on_open=gate)
    dispatcher = _dispatcher((former, settings()))
    async with running(dispatcher):
        preparing = asyncio.create_task(dispatcher.prepare([(new, settings("new"))]))
        await until(lambda: gate.waiting)
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        assert new.calls == ["open", "close"]
        await dispatcher.publish(_window(1))
        assert await dispatcher.drain(10) == []
    assert _sequences(former) == [1]


async def test_what_another_sink_uses_is_opened_once_the_former_sinks_are_closed() -> None:
    former = ScriptedSink()

    async def use() -> None:
        if "close" not in former.calls:
            raise InUseError("port 9435: in use")

    new = ScriptedSink(on_open=use)
    dispatcher = _dispatcher((former, settings("former")))
    async with running(dispatcher):
        with pytest.raises(ConfigurationError, match="in use"):
            await dispatcher.prepare([0, (ScriptedSink(on_open=use), settings("new"))])
        await dispatcher.publish(_window(1))
        await _change(dispatcher, (new, settings("new")))
        await dispatcher.publish(_window(2))
        assert await dispatcher.drain(10) == []
    assert (_sequences(former), _sequences(new)) == ([1], [2])


async def test_a_file_of_json_lines_passes_from_one_sink_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"

    def make(**changes: object) -> NewSink:
        made = JsonlSettings(type="jsonl", name="file", path=path, **changes)  # type: ignore[arg-type]
        return JsonlSink(made), made

    dispatcher = _dispatcher(make())
    async with running(dispatcher):
        for sequence in range(1, 4):
            await dispatcher.publish(_window(sequence))
            await _change(dispatcher, make(queue_windows=sequence))
        await dispatcher.publish(_window(4))
        assert await dispatcher.drain(10) == []
    assert path.read_text().count("\n") == 4


async def test_a_sink_that_leaves_with_a_dead_receiver_is_closed_and_its_records_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "LEAVE_SECONDS", 0.01)
    dead, new = ScriptedSink(on_write=Gate()), ScriptedSink()
    dispatcher = _dispatcher((dead, settings("dead")))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await _change(dispatcher, (new, settings("new")))
        await dispatcher.publish(_window(2))
        await until(lambda: new.windows)
        assert caplog.messages == ["sink dead: 1 records not delivered"]
        (left,) = await dispatcher.drain(10)
    assert (left.text, left.lost) == ("sink dead: 1 records not delivered", 1)
    assert _sequences(new) == [2]


async def test_a_sink_waits_for_none_that_cannot_have_what_it_needs() -> None:
    dead, new, newer = ScriptedSink(on_write=Gate()), ScriptedSink(), ScriptedSink()
    dispatcher = _dispatcher((dead, settings("dead")))
    other = msgspec.structs.replace(settings("new"), type="other")
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        for sink in (new, newer):
            await _change(dispatcher, (sink, other))
            await dispatcher.publish(_window(2))
            await until(lambda: sink.windows)  # noqa: B023 - awaited in this round
        assert "close" not in dead.calls
        (left,) = await dispatcher.drain(0)
    assert left.lost == 1


async def test_a_sink_that_leaves_no_longer_makes_the_publisher_wait() -> None:
    dead = ScriptedSink(on_write=Gate())
    blocks = settings("dead", when_full="block", queue_windows=1)
    dispatcher = _dispatcher((dead, blocks))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        publishing = asyncio.create_task(dispatcher.publish(_window(2)))
        await until(lambda: "write" in dead.calls)
        publishing_more = asyncio.create_task(dispatcher.publish(_window(3)))
        await asyncio.sleep(0)
        assert not publishing_more.done()
        change = await dispatcher.prepare([])
        await asyncio.gather(publishing, publishing_more)
        dispatcher.switch(change)
        await dispatcher.drain(0)


async def test_the_reader_of_a_sink_that_leaves_does_not_end_the_run() -> None:
    gate, left = Gate(), list[bool]()

    async def write() -> None:
        await gate()
        raise OutputClosedError("gone")

    former, new = ScriptedSink(on_write=write), ScriptedSink()
    dispatcher = _dispatcher((former, settings()), on_output_closed=lambda: left.append(True))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await _change(dispatcher, (new, settings()))
        gate.opened.set()
        await dispatcher.publish(_window(2))
        await until(lambda: new.windows)
        assert await dispatcher.drain(10) == []
    assert left == []


async def test_a_spool_passes_what_is_undelivered_to_the_new_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "LEAVE_SECONDS", 0.01)
    dead, new = ScriptedSink(on_write=Gate()), ScriptedSink()
    spooled = settings(spool=tmp_path / "spool")
    dispatcher = _dispatcher((dead, spooled))
    async with running(dispatcher):
        for sequence in range(1, 4):
            await dispatcher.publish(_window(sequence))
        await _change(dispatcher, (new, settings(spool=tmp_path / "spool", queue_windows=2)))
        for sequence in range(4, 8):
            await dispatcher.publish(_window(sequence))
        await until(lambda: len(new.records) == 7)
        assert await dispatcher.drain(10) == []
    assert _sequences(new) == [*range(1, 8)]
    assert (
        caplog.messages[0] == "sink s: 3 records kept in its spool for the next sink that uses it"
    )


async def test_a_run_that_ends_while_a_spool_changes_hands_keeps_all_records_in_it(
    tmp_path: Path,
) -> None:
    spooled = settings(spool=tmp_path / "spool", queue_windows=2, when_full="block")
    dispatcher = _dispatcher((ScriptedSink(on_write=Gate()), settings(spool=tmp_path / "spool")))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await _change(dispatcher, (ScriptedSink(), spooled))
        await dispatcher.publish(_window(2))
        left = await dispatcher.drain(0.01)
    assert [one.lost for one in left] == [0, 0]
    later = ScriptedSink()
    dispatcher = _dispatcher((later, spooled))
    async with running(dispatcher):
        await until(lambda: len(later.records) == 2)
        assert await dispatcher.drain(10) == []
    assert _sequences(later) == [1, 2]


async def test_a_window_is_acknowledged_before_its_spool_changes_hands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge, gate = Spool.acknowledge, threading.Event()

    def acknowledge_late(spool: Spool) -> None:
        gate.wait(20)
        acknowledge(spool)

    monkeypatch.setattr(Spool, "acknowledge", acknowledge_late)
    sinks = [ScriptedSink(), ScriptedSink()]
    spooled = settings(spool=tmp_path / "spool")
    dispatcher = _dispatcher((sinks[0], spooled))
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: sinks[0].windows)
        await _change(dispatcher, (sinks[1], spooled))
        await dispatcher.publish(_window(2))
        await asyncio.sleep(0.01)  # any moment is right: the sink that leaves is not idle yet
        assert "close" not in sinks[0].calls
        gate.set()
        assert await dispatcher.drain(10) == []
    assert [_sequences(sink) for sink in sinks] == [[1], [2]]


@examples(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.sampled_from("ppppcCs"), max_size=25))
async def test_whatever_the_order_of_changes_each_window_is_delivered_once_and_in_order(
    seed: int, steps: list[str]
) -> None:
    chance, received, published = random.Random(seed), list[int](), 0

    async def stumble() -> None:
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        if chance.random() < 0.3:
            raise OSError("busy")

    class Receiver(ScriptedSink):
        async def write(self, records: object) -> None:
            await super().write(records)  # type: ignore[arg-type]
            received.extend(record["sequence"] for record in self.windows[-1])

    def make() -> NewSink:
        return Receiver(on_write=stumble, on_open=stumble), settings(queue_windows=99)

    dispatcher = _dispatcher(make())
    async with running(dispatcher):
        for step in steps:
            if step == "p":
                published += 1
                await dispatcher.publish(_window(published))
            elif step == "s":
                await asyncio.sleep(0.002)
            else:
                await _change(dispatcher, make() if step == "c" else 0)
        assert await dispatcher.drain(10) == []
    assert received == [*range(1, published + 1)]
