"""Receivers in processes, and sinks in the delivery of a run."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from hogpipe import Record, SinkSettings
from hogpipe.testing import (
    BrokenPromiseError,
    RecordingSink,
    RecordMaker,
    deliver_through_outages,
    enlarge,
    free_ports,
    opened,
    oversized,
    running_program,
    suspended,
)

SETTINGS = SinkSettings(type="recording", retry_initial=0.001, retry_max=0.002)


def test_a_program_ends_with_its_context() -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    with running_program(sys.executable, "-c", program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert process.poll() is None
    assert process.returncode is not None


def test_a_suspended_process_is_stopped_until_the_context_ends() -> None:
    with running_program("sleep", "60") as process:
        stat = Path(f"/proc/{process.pid}/stat")
        with suspended(process):
            assert stat.read_text().split()[2] == "T"
        assert stat.read_text().split()[2] != "T"
        assert process.poll() is None


def test_free_ports_differ() -> None:
    assert len(set(free_ports(5))) == 5


async def test_a_record_grows_beyond_the_limit_of_a_receiver() -> None:
    first, second, *_rest = RecordMaker().window()
    enlarge(first, 5000)
    async with oversized(7000)(second):
        assert len(orjson.dumps(first)) > 5000
        assert len(orjson.dumps(second)) > 7000


async def test_a_sink_is_closed_also_if_it_could_not_be_opened() -> None:
    class Closed(RecordingSink):
        async def open(self) -> None:
            await super().open()
            raise OSError("no")

    sink = Closed()
    with pytest.raises(OSError, match="no"):
        async with opened(sink):
            pass
    assert sink.calls == ["open", "close"]


class Receiver(RecordingSink):
    """A sink that fails while its receiver is down."""

    down = False
    lost = False

    async def write(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if self.down or self.lost:
            raise OSError("down")
        await super().write(records)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.down = True
        yield
        self.down = False


async def test_a_sink_gets_all_records_in_spite_of_outages() -> None:
    sink = Receiver()
    report = await deliver_through_outages(sink, SETTINGS, sink.outage, rounds=2, windows=3)
    assert sink.records == report.records
    assert len(report.records) > 6
    assert report.counts["delivered"] == len(report.records)
    assert sink.calls[-1] == "close"


async def test_records_still_queued_after_the_outages_are_a_broken_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hogpipe.testing.outages._DELIVERY_SECONDS", 0.05)
    sink = Receiver()
    sink.lost = True
    with pytest.raises(BrokenPromiseError, match="records not delivered"):
        await deliver_through_outages(sink, SETTINGS, sink.outage, rounds=1, windows=1)
