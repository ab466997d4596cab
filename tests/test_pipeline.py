"""All stages together: whatever a source offers is in records, however and whenever a run ends."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flow_sums import sum_flows
from support.running import balance, read_records, stats_of, write_config
from support.traffic import make_delta

from hogpipe import pipeline
from hogpipe.attribution.resolver import FlowsInSpans, Resolution
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.config import load_config
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.errors import CaptureError
from hogpipe.factory import Input
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import RECEIVE, PacketRows
from hogpipe.linux.procfs import Procfs
from hogpipe.model import (
    OWN_NAMESPACE,
    UNATTRIBUTED,
    UNKNOWN_FLOW,
    Attribution,
    FlowDelta,
    FlowKey,
    Networks,
    Process,
    Quality,
    ResolverCounts,
    Span,
    Tally,
    User,
)

CONFIG = """
[capture]
interfaces = ["lo"]
[attribution]
hold = {hold}
ledger = "off"
[aggregation]
interval = 0.05
group_by = ["process", "flow"]
max_records = 5
[[sinks]]
type = "jsonl"
path = "records.jsonl"
queue_windows = 1
when_full = "block"
"""
CHANGES = [
    "aggregation.interval=0.1",
    'aggregation.group_by=["user"]',
    'aggregation.only=["pid:7"]',
    "aggregation.max_records=2",
    "enrichment.command_line=true",
    "sinks[0].queue_windows=2",
    'sinks[0].path="others.jsonl"',
    'sinks[0].spool="spool"',
    'capture.interfaces=["eth0"]',
]
FLOWS = [
    UNKNOWN_FLOW,
    *(
        FlowKey(6, b"\x0a\0\0\1", port, b"\x0a\0\0\2", 80, "eth0", OWN_NAMESPACE)
        for port in range(20)
    ),
]
ANSWERS = [
    UNATTRIBUTED,
    Attribution(Quality.NONE, user=User(0)),
    Attribution(Quality.INFERRED, Process(7, 70)),
    Attribution(Quality.LISTENER, Process(7, 70)),
    Attribution(Quality.EXACT, Process(8, 80)),
]


class Source:
    """Offers random batches until it is stopped, and then one more."""

    live = True

    def __init__(
        self,
        chance: random.Random,
        *,
        closes_windows: bool,
        breaks_after: int,
        error: type[BaseException] = CaptureError,
    ) -> None:
        self.closes_windows = closes_windows
        self.offered = Tally()
        self._chance = chance
        self._breaks_after = breaks_after
        self._error = error
        self._stopping = threading.Event()
        self._regrouping = threading.Event()
        self.table: FlowTable | None = None

    def open(self) -> None: ...

    def close(self) -> None: ...

    def set_batch_interval(self, seconds: float) -> None: ...

    def regroup(self, _interval_ns: int, _fields: Collection[str], _networks: Networks) -> None:
        self._regrouping.set()

    def stop(self) -> None:
        self._stopping.set()

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        for _ in range(self._breaks_after):
            offer(self._make_batch(last=False))
            if self._stopping.wait(self._chance.choice([0, 0, 0.001, 0.01])):
                break
        offer(self._make_batch(last=True))
        if not self._stopping.is_set():
            raise self._error("broken")

    def _make_batch(self, *, last: bool) -> FlowBatch:
        chance, now = self._chance, time.time_ns()
        flows = {flow: self._make_delta() for flow in chance.sample(FLOWS, chance.randrange(8))}
        moved = list(flows.values())
        batch = FlowBatch(time_ns=now)
        if not self.closes_windows:
            assert self.table is not None
            batch.rows = make_rows(self.table, flows) if flows else None
        else:
            batch.flows = flows
            moved.append(self._make_delta())
            batch.owned = sum_flows(FLOWS[1], moved[-1], ANSWERS[-1], 1)
            batch.is_last = last
            batch.regroups = self._regrouping.is_set() and not last
            ends = last or batch.regroups or chance.random() < 0.2
            batch.closed_window = Span(now - 1, now) if ends else None
            if batch.regroups:
                self._regrouping.clear()
        for delta in moved:
            batch.counts.captured.add(delta.total)
        self.offered.add(batch.counts.captured)
        return batch

    def _make_delta(self) -> FlowDelta:
        transmit = self._chance.randrange(1000), self._chance.randrange(1000)
        receive = self._chance.randrange(1000), self._chance.randrange(1000)
        return make_delta(transmit, receive, opened=self._chance.random() < 0.3)


def make_rows(table: FlowTable, flows: Mapping[FlowKey, FlowDelta]) -> PacketRows:
    """Return what each flow transmitted, and then what each received."""
    moved = flows.values()
    slots, _ = table.give_slots(table.packer.pack(list(flows)), time.monotonic())
    zeros = np.zeros(2 * len(flows), np.int64)
    return PacketRows(
        np.tile(slots, 2),
        np.repeat(np.array([0, RECEIVE]), len(flows)),
        np.array([one.transmit_bytes for one in moved] + [one.receive_bytes for one in moved]),
        np.array([one.transmit_packets for one in moved] + [one.receive_packets for one in moved]),
        np.tile([one.opened for one in moved], 2),
        zeros,
        zeros,
    )


class Resolver:
    """Gives random resolutions, with random delays and errors."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def prepare(self) -> None: ...

    def describe(self) -> str:
        return "owners come from chance"

    def describe_reading(self) -> str:
        return "/proc/1/stat"

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Resolution]:
        time.sleep(self._chance.choice([0, 0, 0.001, 0.02, 0.4]))
        if self._chance.random() < 0.2:
            raise OSError("no")
        return {flow: self._resolve() for flow in flows if self._chance.random() < 0.8}

    def _resolve(self) -> Resolution:
        return Resolution(
            self._chance.choice(ANSWERS),
            is_final=self._chance.random() < 0.5,
            may_be_reused=self._chance.random() < 0.2,
            owners_by_span=self._chance.choice([None, None, ()]),  # its packets have no times
        )

    @property
    def has_history(self) -> bool:
        return False

    def infer(self, _flow: FlowKey) -> Attribution:
        return self._chance.choice([UNATTRIBUTED, ANSWERS[2]])

    def infer_sender(self, _flow: FlowKey, _moved: FlowDelta) -> Attribution:
        return UNATTRIBUTED

    def recall(self, flows: FlowsInSpans) -> list[Resolution | None]:
        return [self._chance.choice([None, Resolution(ANSWERS[-1])]) for _ in flows]

    def invalidate(self, stale: StaleFlows) -> None:
        """Add what chance says to `stale` before each drain."""
        stale.ingest_before_drain(
            lambda: stale.add_all(self._chance.sample(FLOWS, self._chance.randrange(3)))
        )

    def counts(self) -> ResolverCounts:
        return ResolverCounts()

    def close(self) -> None: ...


def run_until(
    folder: Path,
    source: Source,
    resolver: Resolver,
    *,
    hold: float,
    stops: list[float],
    changes: Sequence[tuple[float, Sequence[str]]] = (),
) -> list[dict[str, Any]]:
    """Run, call `stop` after each of `stops` seconds, and return the records.

    `changes` are overrides that the run takes over after so many seconds.
    """

    async def reconfigure(one: pipeline.Pipeline, path: Path) -> None:
        waited = 0.0
        for seconds, overrides in sorted(changes):
            await asyncio.sleep(seconds - waited)
            waited = seconds
            await one.reconfigure(load_config(path, overrides))

    async def run() -> None:
        path = write_config(folder, CONFIG.format(hold=hold))
        one = pipeline.Pipeline(load_config(path))
        await one.open()
        changing = asyncio.create_task(reconfigure(one, path))
        for seconds in stops:
            asyncio.get_running_loop().call_later(seconds, one.stop)
            # The event loop is blocked for a while: windows are late, and batches wait or merge.
            asyncio.get_running_loop().call_later(seconds / 2, time.sleep, 0.03)
        await one.run()
        await changing

    def make_input(
        _settings: object,
        table: FlowTable,
        _clock: object,
        stale: StaleFlows,
        _service_ports: object,
        **_rights: object,
    ) -> Input:
        source.table = table
        resolver.invalidate(stale)
        return Input(source, resolver, ProcessReader(Procfs(Path("/proc"))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "make_input", make_input)
        asyncio.run(run())
    # A sink that came right before the end may have got no window.
    written = [path for path in folder.glob("*.jsonl") if path.stat().st_size]
    records = [one for path in written for one in read_records(path)]
    return sorted(records, key=lambda record: record["sequence"])


def assert_all_is_recorded(records: list[dict[str, Any]], offered: Tally) -> None:
    captured = [record["capture"] for record in stats_of(records)]
    assert sum(one["bytes"] for one in captured) == offered.bytes
    assert sum(one["packets"] for one in captured) == offered.packets
    recorded, counted = balance(records)
    assert recorded == counted
    assert [record["sequence"] for record in records] == [*range(1, len(records) + 1)]
    assert stats_of(records)[-1]["attribution"]["pending"] == {"flows": 0, "bytes": 0}


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 2.0]),
    st.lists(st.floats(0, 0.4), min_size=1, max_size=3),
)
def test_batches_offered_until_a_stop_are_recorded(
    seed: int, closes_windows: bool, hold: float, stops: list[float]
) -> None:
    chance = random.Random(seed)
    source = Source(chance, closes_windows=closes_windows, breaks_after=10**9)
    with TemporaryDirectory() as folder:
        records = run_until(Path(folder), source, Resolver(chance), hold=hold, stops=stops)
    assert_all_is_recorded(records, source.offered)


@settings(max_examples=8)
@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.lists(
        st.tuples(st.floats(0, 0.3), st.lists(st.sampled_from(CHANGES), unique=True)),
        min_size=1,
        max_size=4,
    ),
)
def test_batches_offered_while_the_configuration_changes_are_recorded(
    seed: int, closes_windows: bool, changes: list[tuple[float, list[str]]]
) -> None:
    chance = random.Random(seed)
    source = Source(chance, closes_windows=closes_windows, breaks_after=10**9)
    with TemporaryDirectory() as folder:
        records = run_until(
            Path(folder), source, Resolver(chance), hold=0.05, stops=[0.3], changes=changes
        )
    assert_all_is_recorded(records, source.offered)


@settings(max_examples=8)
@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.integers(0, 40),
    st.sampled_from([CaptureError, ValueError, SystemExit]),
)
def test_batches_offered_until_a_source_breaks_off_are_recorded(
    seed: int, closes_windows: bool, breaks_after: int, error: type[BaseException]
) -> None:
    chance = random.Random(seed)
    source = Source(chance, closes_windows=closes_windows, breaks_after=breaks_after, error=error)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with pytest.raises(CaptureError, match="broken"):
            run_until(folder, source, Resolver(chance), hold=0.1, stops=[])
        records = read_records(folder / "records.jsonl")
    assert_all_is_recorded(records, source.offered)
