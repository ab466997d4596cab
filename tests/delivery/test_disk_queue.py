"""A queue on disk loses nothing to an outage, a restart, a kill or a failing disk."""

import asyncio
import contextlib
import errno
import random
from pathlib import Path

import pytest
from support.disks import tiny_disk
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

from hogpipe.delivery import disk_queue
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.delivery.spool import Spool
from hogpipe.errors import ConfigurationError, OutputClosedError
from hogpipe.records.schema import Record, record_id


def _dispatcher(sink: ScriptedSink, folder: Path, **changes: object) -> Dispatcher:
    return Dispatcher(
        [(sink, settings(spool=folder / "spool", **changes))],
        on_output_closed=lambda: None,
        rng=random.Random(1),
    )


def _window(number: int, records: int = 3, run: str = "01JD") -> list[Record]:
    made: list[Record] = []
    for pid in range(records):
        record = traffic(number * records + pid, pid=pid, second=number % 59)
        record["run"] = run
        made.append(record)
    return made


def _stored(dispatcher: Dispatcher) -> int:
    return dispatcher.health()[0]["spool"]["records"]


async def test_windows_pass_through_the_spool_in_order(tmp_path: Path) -> None:
    sink = ScriptedSink()
    dispatcher = _dispatcher(sink, tmp_path)
    async with running(dispatcher):
        for number in range(20):
            await dispatcher.publish(_window(number))
        assert await dispatcher.drain(10) == []
    assert sink.windows == [_window(number) for number in range(20)]
    (info,) = dispatcher.health()
    assert (info["delivered"], info["queued"]) == (60, 0)
    assert (info["spool"]["records"], info["spool"]["disk_failures"]) == (0, 0)


async def test_a_window_in_flight_is_on_disk(tmp_path: Path) -> None:
    gate = Gate()
    dispatcher = _dispatcher(ScriptedSink(on_write=gate), tmp_path)
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: gate.waiting)
        assert _stored(dispatcher) == 3
        gate.opened.set()
        await dispatcher.idle()
        await until(lambda: _stored(dispatcher) == 0)
        await dispatcher.drain(1)


async def test_a_restart_during_an_outage_loses_nothing_and_older_runs_come_first(
    tmp_path: Path,
) -> None:
    dead = ScriptedSink(on_open=Script(*[OSError("down")] * 100_000))
    first = _dispatcher(dead, tmp_path)
    async with running(first):
        for number in range(50):
            await first.publish(_window(number))
            await asyncio.sleep(0)
        await until(lambda: _stored(first) == 150)
        (left,) = await first.drain(0)
    assert left.text == (
        "sink s: 150 records kept in its spool for the next run (last error: OSError: down)"
    )
    alive = ScriptedSink()
    second = _dispatcher(alive, tmp_path)
    async with running(second):
        await second.publish(_window(0, run="01JE"))
        assert await second.drain(10) == []
    assert alive.windows == [*map(_window, range(50)), _window(0, run="01JE")]
    (info,) = second.health()
    assert info["spool"]["recovered"] == 150
    assert accounted(info) == 153


async def test_windows_in_memory_are_stored_at_the_end_of_the_run(tmp_path: Path) -> None:
    dispatcher = _dispatcher(ScriptedSink(on_write=Gate()), tmp_path)
    async with running(dispatcher):
        for number in range(5):
            await dispatcher.publish(_window(number))
        (left,) = await dispatcher.drain(0)
    assert left.text == "sink s: 15 records kept in its spool for the next run"
    spool = Spool(tmp_path / "spool", 1 << 20, "coalesce")
    spool.open()
    assert spool.counts.found == 15


async def test_a_full_spool_coalesces_and_counts(tmp_path: Path) -> None:
    gate, sink = Gate(), ScriptedSink()
    sink.on_write = gate
    dispatcher = _dispatcher(sink, tmp_path, spool_mib=1)
    published = records = 0
    async with running(dispatcher):
        for number in range(100):
            window = _window(number, records=60)
            published += total_bytes(window)
            records += 60
            await dispatcher.publish(window)
            await until(lambda: not dispatcher._workers[0]._queue._memory.queued)
        assert accounted(dispatcher.health()[0]) == records
        assert dispatcher.health()[0]["coalesced"] > 0
        assert dispatcher.health()[0]["spool"]["bytes"] <= 1 << 20
        gate.opened.set()
        assert await dispatcher.drain(20) == []
    assert total_bytes(sink.records) == published
    assert accounted(dispatcher.health()[0]) == records


async def test_with_block_a_full_spool_makes_the_publisher_wait(tmp_path: Path) -> None:
    gate, sink = Gate(), ScriptedSink()
    sink.on_write = gate
    dispatcher = _dispatcher(sink, tmp_path, spool_mib=1, when_full="block", queue_windows=2)

    async def publish() -> None:
        for number in range(100):
            await dispatcher.publish(_window(number, records=60))

    async with running(dispatcher), asyncio.TaskGroup() as group:
        publishing = group.create_task(publish())
        await until(lambda: dispatcher._workers[0]._queue.full)
        assert not publishing.done()
        assert dispatcher.health()[0]["spool"]["bytes"] < 1 << 20
        gate.opened.set()
        await publishing
        assert await dispatcher.drain(20) == []
    assert sink.windows == [_window(number, records=60) for number in range(100)]


async def test_while_the_disk_cannot_be_used_windows_are_delivered_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_queue, "RETRY_SECONDS", 0.01)
    append, full = Spool.append, [False]

    def append_unless_full(spool: Spool, records: list[Record]) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(spool, records)

    monkeypatch.setattr(Spool, "append", append_unless_full)
    gate, sink = Gate(), ScriptedSink()
    sink.on_write = gate
    dispatcher = _dispatcher(sink, tmp_path, queue_windows=3)
    async with running(dispatcher):
        await dispatcher.publish(_window(0))
        await until(lambda: gate.waiting)
        full[0] = True
        for number in range(1, 6):
            await dispatcher.publish(_window(number))
        await until(lambda: dispatcher.health()[0]["spool"]["disk_failures"])
        assert accounted(dispatcher.health()[0]) == 18
        gate.opened.set()
        await until(lambda: total_bytes(sink.records) == 18 * 300)
        full[0] = False
        number = 6
        while len(caplog.messages) < 2:
            await dispatcher.publish(_window(number))
            await asyncio.sleep(0.01)
            number += 1
        assert await dispatcher.drain(10) == []
    assert total_bytes(sink.records) == number * 3 * 300
    error = "OSError: [Errno 28] No space left on device"
    assert caplog.messages == [
        f"sink s: its spool fails, windows stay in memory: {error}",
        "sink s: its spool works again",
    ]


async def test_a_full_disk_costs_nothing_while_the_sink_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_queue, "RETRY_SECONDS", 0.01)
    sink, number = ScriptedSink(), 0
    with tiny_disk(tmp_path / "disk", kib=256) as disk:
        dispatcher = _dispatcher(sink, disk)
        async with running(dispatcher):

            async def publish_until(messages: int) -> None:
                nonlocal number
                while len(caplog.messages) < messages:
                    await dispatcher.publish(_window(number, records=20))
                    await dispatcher.idle()
                    await asyncio.sleep(0.01)
                    number += 1

            with contextlib.suppress(OSError):
                (disk / "filling").write_bytes(bytes(250 << 10))
            await publish_until(1)
            assert dispatcher.health()[0]["spool"]["disk_failures"] > 0
            (disk / "filling").unlink()
            await publish_until(2)
            assert await dispatcher.drain(10) == []
    assert sink.windows == [_window(index, records=20) for index in range(number)]
    assert caplog.messages[1] == "sink s: its spool works again"


async def test_a_disk_that_is_full_at_the_start_does_not_prevent_the_run(
    tmp_path: Path,
) -> None:
    sink = ScriptedSink()
    with tiny_disk(tmp_path / "disk", kib=64) as disk:
        with contextlib.suppress(OSError):
            (disk / "filling").write_bytes(bytes(64 << 10))
        dispatcher = _dispatcher(sink, disk)
        async with running(dispatcher):
            await dispatcher.publish(_window(0))
            assert await dispatcher.drain(10) == []
    assert sink.windows == [_window(0)]


async def test_a_spool_in_use_prevents_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20, "coalesce")
    spool.open()
    dispatcher = _dispatcher(ScriptedSink(), tmp_path)
    with pytest.raises(ConfigurationError, match=r"sink s: spool .*: another run or sink uses it"):
        await dispatcher.open()


async def test_a_reader_that_leaves_leaves_the_spool_unchanged(tmp_path: Path) -> None:
    sink = ScriptedSink(on_write=Script(OutputClosedError("gone")))
    dispatcher = _dispatcher(sink, tmp_path)
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await until(lambda: "close" in sink.calls)
        (left,) = await dispatcher.drain(1)
    assert left.text.startswith("sink s: 3 records kept in its spool")


async def test_a_drain_waits_for_a_sink_that_is_closing_and_releases_its_spool(
    tmp_path: Path,
) -> None:
    closing, closed = asyncio.Event(), asyncio.Event()

    async def close(*_given: object) -> None:
        closing.set()
        await asyncio.sleep(0.05)
        closed.set()

    sink = ScriptedSink(on_write=Script(OutputClosedError("gone")), on_close=close)
    dispatcher = _dispatcher(sink, tmp_path)
    async with running(dispatcher):
        await dispatcher.publish(_window(1))
        await closing.wait()
        await dispatcher.drain(1)
        assert closed.is_set()
        following = Spool(tmp_path / "spool", 1 << 20, "coalesce")
        following.open()
        assert following.counts.found == 3
        following.close()


async def test_a_record_that_is_no_json_is_dropped_with_its_window(tmp_path: Path) -> None:
    sink = ScriptedSink()
    dispatcher = _dispatcher(sink, tmp_path)
    async with running(dispatcher):
        odd = _window(1)
        odd[0]["host"] = {"name": "\ud800"}
        await dispatcher.publish(odd)
        await dispatcher.publish(_window(2))
        assert await dispatcher.drain(10) == []
    assert sink.windows == [_window(2)]
    assert dispatcher.health()[0]["dropped"] == 3


@pytest.mark.parametrize("seed", range(6))
async def test_totals_are_conserved_by_random_kills(seed: int, tmp_path: Path) -> None:
    """Runs are killed at random while a sink fails at random; repeats have the same record id."""
    rng = random.Random(seed)
    got: dict[tuple[str, int], Record] = {}
    published = 0

    class Flaky(ScriptedSink):
        async def write(self, records: list[Record]) -> None:
            if rng.random() < 0.5:
                raise OSError("down")
            for record in records:
                assert got.setdefault(record_id(record), record) == record
            await asyncio.sleep(0)
            if rng.random() < 0.2:
                raise OSError("down after it was sent")

    for life in range(6):
        dispatcher = _dispatcher(Flaky(), tmp_path)
        await dispatcher.open()
        run = asyncio.create_task(dispatcher.run())
        for number in range(rng.randint(1, 30)):
            window = _window(number, records=rng.randint(1, 9), run=f"01J{life}")
            for index, record in enumerate(window):
                record["sequence"] = number * 10 + index
            published += total_bytes(window)
            await dispatcher.publish(window)
            queue = dispatcher._workers[0]._queue
            await until(lambda: not queue._memory.queued and not queue._being_stored)  # noqa: B023
        await asyncio.sleep(rng.random() * 0.02)
        await _kill(dispatcher, run)
    last = _dispatcher(Flaky(), tmp_path)
    async with running(last):
        assert await last.drain(20) == []
    assert total_bytes(list(got.values())) == published


async def _kill(dispatcher: Dispatcher, running: asyncio.Task[None]) -> None:
    """Stop what a SIGKILL stops, at once, and release the lock as the kernel does."""
    thread = dispatcher._workers[0]._queue._spool
    thread._thread.shutdown(wait=True)
    spool, thread._spool = thread._spool, Spool(Path("/nowhere"), 1 << 20, "coalesce")
    spool._position.close()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError, ExceptionGroup, RuntimeError):
        await running
