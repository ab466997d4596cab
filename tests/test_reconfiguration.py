"""A run takes over another configuration between two windows, or refuses it as a whole."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.resolving import BlankResolver
from support.running import balance, stats_of, traffic_of
from support.sinks import Gate, Script, ScriptedSink, until
from support.traffic import make_delta, make_flow

from hogpipe import pipeline
from hogpipe.attribution.resolver import FlowSpans, Resolution
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.config import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    ConfiguredSink,
    EnrichmentSettings,
    Settings,
)
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.errors import ConfigurationError
from hogpipe.factory import Input
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.linux.procfs import Procfs
from hogpipe.model import Attribution, FlowKey, Networks, Process, Quality, Span
from hogpipe.reconfiguration import Reconfiguration
from hogpipe.sinks.contract import SinkSettings, SinkType

HOUR = 3600.0
OWNER = Attribution(Quality.EXACT, Process(7, 70, command_line=("curl", "--user=me:secret")))


class Source:
    """Offers the batches that a test makes."""

    live = True

    def __init__(self, *, closes_windows: bool) -> None:
        self.closes_windows = closes_windows
        self.regrouped: list[tuple[int, Collection[str]]] = []
        self._batches: queue.Queue[FlowBatch | None] = queue.Queue()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def set_batch_interval(self, seconds: float) -> None: ...

    def regroup(self, interval_ns: int, fields: Collection[str], _networks: Networks) -> None:
        self.regrouped.append((interval_ns, list(fields)))
        if self.closes_windows:
            self._batches.put(self._make_end(regroups=True))

    def stop(self) -> None:
        self._batches.put(None)

    def offer(self, flow: FlowKey, size: int) -> None:
        batch = FlowBatch(flows={flow: make_delta((size, 1))}, time_ns=time.time_ns())
        batch.counts.captured.add(batch.flows[flow].total)
        self._batches.put(batch)

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        while (batch := self._batches.get()) is not None:
            offer(batch)
        if self.closes_windows:
            offer(self._make_end(is_last=True))

    def _make_end(self, **changes: bool) -> FlowBatch:
        now = time.time_ns()
        return FlowBatch(closed_window=Span(now - 1, now), time_ns=now, **changes)


class Resolver(BlankResolver):
    """Knows one owner, at once."""

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        return {flow: Resolution(OWNER, is_final=True) for flow in flows}


class Run:
    """A pipeline that runs, its source, and the records of all of its sinks."""

    def __init__(self, one: pipeline.Pipeline, source: Source) -> None:
        self.pipeline = one
        self.source = source

    async def offer(self, size: int) -> None:
        """Offer the first traffic of a window, and wait until it has an owner."""
        self.source.offer(make_flow(), size)
        await until(lambda: self.pipeline._table._added)

    async def change(self, settings: Settings) -> Reconfiguration:
        async with asyncio.timeout(20):
            return await self.pipeline.reconfigure(settings)


def configured(sink: ScriptedSink, name: str = "s", **changes: object) -> ConfiguredSink:
    chosen = SinkSettings(type="test", name=name, retry_initial=0.001, **changes)  # type: ignore[arg-type]
    return ConfiguredSink(SinkType("test", SinkSettings, lambda _settings: sink), chosen)


def configure(*sinks: ConfiguredSink, source: str = "pcap", **aggregation: object) -> Settings:
    aggregation.setdefault("interval", HOUR)
    return Settings(
        capture=CaptureSettings(source=source),  # type: ignore[arg-type]
        attribution=AttributionSettings(ledger="off"),
        aggregation=AggregationSettings(**aggregation),  # type: ignore[arg-type]
        sinks=sinks,
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Run]:
    source = Source(closes_windows=settings.capture.source == "ebpf")

    def make_input(
        settings: Settings,
        _table: object,
        _clock: object,
        _stale: StaleFlows,
        _service_ports: object,
        **_rights: object,
    ) -> Input:
        command_line = settings.enrichment.command_line
        processes = ProcessReader(Procfs(Path("/proc")), command_line=command_line)
        return Input(source, Resolver(), processes)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "make_input", make_input)
        one = pipeline.Pipeline(settings)
    await one.open()
    task = asyncio.create_task(one.run())
    try:
        yield Run(one, source)
    finally:
        one.stop()
        await task


def sorted_records(*sinks: ScriptedSink) -> list[Any]:
    """Return the records of all sinks; none is there twice or missing."""
    records: list[Any] = sorted(
        (record for sink in sinks for record in sink.records), key=lambda one: one["sequence"]
    )
    assert [record["sequence"] for record in records] == [*range(1, len(records) + 1)]
    assert len({record["run"] for record in records}) == 1
    return records


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
async def test_each_window_follows_from_one_configuration_and_no_byte_is_lost(source: str) -> None:
    sink = ScriptedSink()
    async with running(configure(configured(sink), source=source)) as run:
        await run.offer(100)
        wanted = configure(configured(sink), source=source, interval=60.0, group_by=("transport",))
        assert await run.change(wanted) == Reconfiguration(
            ("aggregation.interval", "aggregation.group_by")
        )
        await run.offer(20)
        fields = ["protocol"] if source == "ebpf" else []
        assert run.source.regrouped == [(60_000_000_000, fields)]
    records = sorted_records(sink)
    before, after = traffic_of(records)
    assert (before["process"]["pid"], before["network"]["io"]["transmit"]["bytes"]) == (7, 100)
    assert "process" not in after
    assert (after["network"]["transport"], after["network"]["io"]["transmit"]["bytes"]) == (
        "tcp",
        20,
    )
    assert before["window"]["end"] <= after["window"]["start"]
    assert balance(records) == (120, 120)
    assert len(stats_of(records)) == 2
    assert sink.calls.count("open") == 1


async def test_command_lines_are_in_no_record_after_they_were_switched_off() -> None:
    sink = ScriptedSink()
    with_them = EnrichmentSettings(command_line=True)
    present = configure(configured(sink))
    async with running(msgspec.structs.replace(present, enrichment=with_them)) as run:
        await run.offer(100)
        assert (await run.change(present)).taken_over == ("enrichment.command_line",)
        await run.offer(20)
    before, after = traffic_of(sorted_records(sink))
    assert before["process"]["command_args"] == ["curl", "--user=me:secret"]
    assert "command_args" not in after["process"]


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
async def test_windows_before_the_change_go_to_the_former_sinks_and_later_ones_to_the_new(
    source: str,
) -> None:
    stays, leaves, comes = ScriptedSink(), ScriptedSink(), ScriptedSink()
    present = configure(configured(stays, "stays"), configured(leaves, "old"), source=source)
    async with running(present) as run:
        await run.offer(100)
        wanted = configure(
            configured(comes, "new"), configured(stays, "stays"), source=source, only=("pid:7",)
        )
        assert (await run.change(wanted)).taken_over == (
            "aggregation.only", "sink new added", "sink old removed",
        )  # fmt: skip
        await run.offer(20)
    assert [one["attribution"] for one in traffic_of(leaves.records)] == [{"exact": 100}]
    assert [one["attribution"] for one in traffic_of(comes.records)] == [{"exact": 20}]
    assert sorted_records(stays) == sorted_records(leaves, comes)
    assert stays.calls.count("open") == 1


async def test_a_change_of_sinks_alone_closes_no_window() -> None:
    former, new = ScriptedSink(), ScriptedSink()
    async with running(configure(configured(former))) as run:
        await run.offer(100)
        await run.change(configure(configured(new, queue_windows=2)))
        await until(lambda: former.calls == ["open", "close"])
    assert len(stats_of(sorted_records(new))) == 1


async def test_the_same_configuration_in_another_order_changes_nothing() -> None:
    one, other = ScriptedSink(), ScriptedSink()
    async with running(configure(configured(one, "one"), configured(other, "other"))) as run:
        swapped = configure(configured(ScriptedSink(), "other"), configured(ScriptedSink(), "one"))
        for _ in range(2):
            assert await run.change(swapped) == Reconfiguration()
        await run.change(configure(configured(ScriptedSink(), "other")))
        await until(lambda: one.calls == ["open", "close"])
        assert other.calls == ["open"]


async def test_a_sink_that_can_never_be_opened_refuses_all_of_the_configuration() -> None:
    sink = ScriptedSink()
    bad = ScriptedSink(on_open=Script(ConfigurationError("no such folder")))
    async with running(configure(configured(sink))) as run:
        await run.offer(100)
        wanted = configure(configured(sink), configured(bad, "bad"), group_by=("user",))
        with pytest.raises(ConfigurationError, match="sink bad: no such folder"):
            await run.change(wanted)
        assert (await run.change(configure(configured(sink), only=("pid:7",)))).taken_over == (
            "aggregation.only",
        )
    (record,) = traffic_of(sorted_records(sink))
    assert record["process"]["pid"] == 7


async def test_changes_that_come_together_are_made_one_after_the_other() -> None:
    sinks = [ScriptedSink() for _ in range(4)]
    async with running(configure(configured(sinks[0]))) as run:
        wanted = [
            configure(configured(sink, queue_windows=number), max_records=number)
            for number, sink in enumerate(sinks[1:], 1)
        ]
        await asyncio.gather(*map(run.change, wanted))
    assert [sink.calls.count("close") for sink in sinks] == [1, 1, 1, 1]
    assert len(stats_of(sorted_records(*sinks))) == 4


async def test_the_end_of_the_run_ends_a_change_and_closes_its_sinks() -> None:
    gate, sink = Gate(), ScriptedSink()
    opening = ScriptedSink(on_open=gate)
    async with running(configure(configured(sink))) as run:
        await run.offer(100)
        change = asyncio.create_task(run.change(configure(configured(opening, "new"))))
        await until(lambda: gate.waiting)
    assert await change == Reconfiguration()
    assert opening.calls == ["open", "close"]
    assert balance(sorted_records(sink)) == (100, 100)
    assert await run.change(configure()) == Reconfiguration()
    assert sink.calls[-1] == "close"


async def test_a_caller_that_is_cancelled_leaves_the_change_to_be_made() -> None:
    gate, former = Gate(), ScriptedSink()
    new = ScriptedSink(on_open=gate)
    async with running(configure(configured(former))) as run:
        change = asyncio.create_task(run.change(configure(configured(new, "new"))))
        await until(lambda: gate.waiting)
        change.cancel()
        await asyncio.wait({change})
        gate.opened.set()
        await until(lambda: "close" in former.calls)
    assert len(stats_of(new.records)) == 1
