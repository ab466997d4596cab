"""Measuring by captured packets: what the records of a pipeline become, and how it ends."""

import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from hogpipe.measuring import packet_meter
from hogpipe.measuring.packet_meter import PacketMeter
from hogpipe.measuring.results import Totals

if TYPE_CHECKING:
    from hogpipe.measuring.scope import Scope

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "expected.jsonl"
PATIENCE = 30.0


class CountingScope:
    """A scope of all processes, which counts how often it learns of new ones."""

    follows_children, lost_forks = True, 0

    def __init__(self) -> None:
        self.refreshed = 0
        self.is_closed = threading.Event()

    def refresh(self) -> None:
        self.refreshed += 1

    def includes_path(self, _pid: int, _parent: int | None, _cgroup: str | None) -> bool:
        return True

    def is_running(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed.set()


def replace_stream(
    monkeypatch: pytest.MonkeyPatch, records: Sequence[dict[str, Any]], begins: threading.Event
) -> threading.Event:
    """Have a pipeline begin with an event, and give records; return the event of their end."""
    given = threading.Event()

    async def give() -> AsyncIterator[dict[str, Any]]:
        for record in records:
            yield record
        given.set()
        await packet_meter.asyncio.Event().wait()

    @asynccontextmanager
    async def stream(_settings: object) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        assert begins.wait(PATIENCE)
        yield give()

    monkeypatch.setattr(packet_meter, "stream_records", stream)
    return given


@pytest.fixture
def scope() -> Iterator[CountingScope]:
    made = CountingScope()
    yield made
    assert made.is_closed.is_set()


def test_the_scope_learns_of_new_processes_once_a_window(
    monkeypatch: pytest.MonkeyPatch, scope: CountingScope
) -> None:
    records = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    named = [one for one in records if one["type"] == "traffic" and "pid" in one.get("process", {})]
    stats = next(one for one in records if one["type"] == "stats")
    begins = threading.Event()
    begins.set()
    given = replace_stream(monkeypatch, [*named, *named, stats, *named], begins)
    meter = PacketMeter(cast("Scope", scope))
    assert given.wait(PATIENCE)
    meter.close()
    assert scope.refreshed == 2


def test_the_payload_of_nothing_is_not_known_either(
    monkeypatch: pytest.MonkeyPatch, scope: CountingScope
) -> None:
    begins = threading.Event()
    begins.set()
    monkeypatch.setattr(packet_meter, "_LATEST", 0.0)
    replace_stream(monkeypatch, [], begins)
    meter = PacketMeter(cast("Scope", scope))
    assert meter.read().totals == Totals(0, 0, 0, 0, None, None)
    meter.close()


def test_an_interruption_while_the_capture_is_opened_ends_it(
    monkeypatch: pytest.MonkeyPatch, scope: CountingScope
) -> None:
    begins = threading.Event()
    replace_stream(monkeypatch, [], begins)
    threads: list[threading.Thread] = []

    class Interrupted(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            del timeout
            raise KeyboardInterrupt

    class Opening(threading.Thread):
        """A thread that opens the capture only while it is waited for."""

        def join(self, timeout: float | None = None) -> None:
            del timeout
            threads.append(self)
            begins.set()
            super().join(PATIENCE)

    monkeypatch.setattr(packet_meter, "Future", Interrupted)
    monkeypatch.setattr(packet_meter.threading, "Thread", Opening)
    with pytest.raises(KeyboardInterrupt):
        PacketMeter(cast("Scope", scope))
    assert [one.is_alive() for one in threads] == [False]
