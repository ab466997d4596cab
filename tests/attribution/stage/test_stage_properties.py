"""Whatever happens: no byte is lost, and each has the owner that the rules give it one by one."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace
from support.flow_rows import rows_of
from support.stage import ScriptedExits, Stage
from support.traffic import NGINX, attributions, deltas, exact, make_delta, make_flow

from hogpipe.attribution.stage import attributor
from hogpipe.attribution.stage.flow_cache import CachedFlow, FlowCache, Validity
from hogpipe.flows import flow_table
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.lanes import PAUSE_NS
from hogpipe.model import TRANSLATED, Attribution, FlowDelta, FlowKey, TrafficCounts

CURL = replace(NGINX, pid=77, command="curl")
FLOWS = [
    *(make_flow(port) for port in range(3)),
    *(make_flow(53, protocol=17, remote_port=port) for port in (1, 2)),
    make_flow(0, protocol=1),
]


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def with_packets(delta: FlowDelta) -> FlowDelta:
    """Return a delta whose bytes have packets."""
    sent, received = bool(delta.transmit_packets), bool(delta.receive_packets)
    return replace(
        delta,
        transmit_bytes=delta.transmit_bytes * sent,
        receive_bytes=delta.receive_bytes * received,
    )


PASSING = ["pass_on", "hold_up", "pass_during_a_lookup"]
known = attributions | st.just(TRANSLATED) | st.sampled_from([exact(NGINX), exact(CURL)])
flows = st.sampled_from(FLOWS)
few = st.just(make_delta((1, 1)))
batches = st.dictionaries(flows, few) | st.dictionaries(flows, deltas.map(with_packets))
steps = st.one_of(
    st.tuples(st.sampled_from(PASSING), batches),
    st.tuples(st.just("answer_with"), st.dictionaries(flows, known)),
    st.tuples(st.just("exit"), st.sampled_from([NGINX.pid, CURL.pid])),
    st.tuples(st.just("invalidate"), st.lists(flows, max_size=2)),
    st.tuples(st.just("advance"), st.sampled_from([0.01, 0.3, 0.5, 1.0, 4.0, 11.0, 70.0])),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.sampled_from(["look_up", "resolve_pending", "emit_expired", "evict"])),
)
Script = list[tuple[Any, ...]]


class Player:
    """Plays a script; packets pass at the time of the clock."""

    def __init__(self, stage: Stage, exits: ScriptedExits | None) -> None:
        self.stage = stage
        self._exits = exits
        self._held: list[dict[FlowKey, FlowDelta]] = []
        """Batches on their way from the capture thread."""

    async def play(self, script: Script) -> None:
        for action, *what in script:
            done = getattr(self, action)(*what)
            if done is not None:
                await done
        self._receive()
        await self.stage.attributor.resolve_pending()

    def pass_on(self, batch: Mapping[FlowKey, FlowDelta]) -> None:
        self.hold_up(batch)
        self._receive()

    def hold_up(self, batch: Mapping[FlowKey, FlowDelta]) -> None:
        now_ns = round(self.stage.clock.now * 1e9)
        timed = {one: replace(batch[one], first_ns=now_ns, last_ns=now_ns) for one in batch}
        self._held.append(self.stage.count(timed))

    async def pass_during_a_lookup(self, batch: Mapping[FlowKey, FlowDelta]) -> None:
        lookup = asyncio.create_task(self.stage.attributor.resolve_pending())
        await asyncio.sleep(0)
        self.pass_on(batch)
        await lookup

    def answer_with(self, owners: dict[FlowKey, Attribution]) -> None:
        self.stage.resolver.answers = owners

    def exit(self, pid: int) -> None:
        if self._exits is not None and pid in self._exits.watched:
            self._exits.exit(pid, seen_at=self.stage.clock.now)

    def invalidate(self, flows: list[FlowKey]) -> None:
        self.stage.stale_flows.add_all(flows)

    def advance(self, seconds: float) -> None:
        self.stage.clock.now += seconds

    def fail(self, fails: bool) -> None:
        self.stage.resolver.error = OSError("no") if fails else None

    async def look_up(self) -> None:
        await self.stage.look_up()

    async def resolve_pending(self) -> None:
        await self.stage.attributor.resolve_pending()

    def emit_expired(self) -> None:
        self.stage.attributor.emit_expired()

    def evict(self) -> None:
        self.stage.table.evict(self.stage.clock.now, idle=10, idle_unowned=5)

    def _receive(self) -> None:
        held, self._held = self._held, []
        for one in held:
            self.stage.ingest_held(one)


def run(executor: ThreadPoolExecutor, script: Script, *, compares: bool, **options: Any) -> Stage:
    """Return a stage in which a script was played."""

    async def play() -> Stage:
        exits = ScriptedExits() if compares else None
        player = Player(Stage(executor, exits=exits, **options), exits)
        await player.play(script)
        return player.stage

    return asyncio.run(play())


def sum_up(counts: Iterable[TrafficCounts]) -> TrafficCounts:
    total = TrafficCounts()
    for one in counts:
        total.add_counts(one)
    return total


bounds = st.fixed_dictionaries(
    {
        "max_pending": st.integers(2, 6),
        "max_flows": st.integers(1, 6),
        "hold": st.sampled_from([0.0, 0.3]),
    }
)


@settings(max_examples=150)
@given(st.lists(steps, max_size=15), bounds, st.booleans())
def test_every_byte_that_goes_in_comes_out_once_or_is_counted_as_translated(
    executor: ThreadPoolExecutor, script: Script, bounds: dict[str, Any], compares: bool
) -> None:
    stage = run(executor, script, compares=compares, **bounds)
    passed = [step[1] for step in script if step[0] in PASSING]
    ingested = sum_up(delta for batch in passed for delta in batch.values())
    emitted = sum_up(delta for _, delta, _ in stage.emitted)
    counts = stage.attributor.drain_stats()
    total = emitted.total
    total.add(counts.translated)
    assert total == ingested.total
    if not counts.translated.packets:
        assert emitted == ingested
    assert not any(owner.is_translated for _, _, owner in stage.emitted)
    assert counts.pending_flows == 0


def by_owner(stage: Stage) -> dict[tuple[FlowKey, Attribution], tuple[int, ...]]:
    """Return what each flow moved under each owner."""
    moved: dict[tuple[FlowKey, Attribution], TrafficCounts] = {}
    for flow, traffic, owner in stage.emitted:
        moved.setdefault((flow, owner), TrafficCounts()).add_counts(traffic)
    return {key: astuple(one) for key, one in moved.items() if one.total.packets}


EACH = dict.fromkeys(FLOWS, make_delta((1, 1)))
START: Script = [
    ("answer_with", dict.fromkeys(FLOWS, exact(NGINX))), ("pass_on", EACH), ("look_up",),
    ("pass_on", EACH), ("pass_on", EACH),
]  # fmt: skip
"""So that all flows have lanes."""


@settings(max_examples=300)
@given(st.lists(steps, max_size=25), st.sampled_from([0.0, 0.3, 2.0]), st.booleans())
def test_the_fast_lane_counts_for_the_owners_that_the_stage_would_name(
    executor: ThreadPoolExecutor, script: Script, hold: float, compares: bool
) -> None:
    at_once = {"hold_up": "pass_on"}
    script = START + [(at_once.get(action, action), *what) for action, *what in script]
    fast, one_by_one = (
        run(executor, script, compares=compares, hold=hold, has_lanes=has_lanes)
        for has_lanes in (True, False)
    )
    assert by_owner(fast) == by_owner(one_by_one)
    counts, others = (stage.attributor.drain_stats() for stage in (fast, one_by_one))
    assert counts.translated == others.translated
    assert (counts.new_flows, counts.batches) == (others.new_flows, others.batches)


@settings(max_examples=150)
@given(st.lists(steps, max_size=25), st.sampled_from([0.0, 0.3, 2.0]), st.booleans())
def test_flows_that_are_judged_and_settled_together_are_as_one_by_one(
    executor: ThreadPoolExecutor, script: Script, hold: float, compares: bool
) -> None:
    script = START + [("pass_on" if step[0] in PASSING else step[0], *step[1:]) for step in script]
    with patch.object(flow_table, "_FEW", 0):
        together = run(executor, script, compares=compares, hold=hold)
    with patch.object(attributor, "_SLICE", 1):
        one_by_one = run(executor, script, compares=compares, hold=hold, part_size=1)
    assert by_owner(together) == by_owner(one_by_one)
    counts, others = (stage.attributor.drain_stats() for stage in (together, one_by_one))
    assert counts.translated == others.translated
    assert (counts.new_flows, counts.batches) == (others.new_flows, others.batches)


class Lanes:
    """Flows with lanes, of two endpoints and two owners, one of which is watched."""

    def __init__(self, flows: Mapping[FlowKey, tuple[bool, float, int, int]]) -> None:
        self.table = FlowTable(100, 100)
        self.cache = FlowCache(self.table, recheck_after=5.0)
        self.table.set_watched(exact(NGINX), is_watched=True)
        for flow, (is_watched, due_at, last_ns, max_pause_ns) in flows.items():
            owner = exact(NGINX) if is_watched else exact(CURL)
            delta = make_delta((1, 1), at_ns=(last_ns, last_ns))
            self.table.receive(self.table.count(rows_of(self.table, {flow: delta}, 0.0), 0.0), 0.0)
            cached = CachedFlow(owner, due_at, max_pause_ns=max_pause_ns)
            self.cache.put([(flow, cached, last_ns)], 0.0)

    def count(self, deltas: Mapping[FlowKey, FlowDelta], now: float) -> set[FlowKey]:
        return set(self.table.count(rows_of(self.table, deltas, now), now))

    def judge(self, flow: FlowKey, delta: FlowDelta, now: float) -> bool:
        """Return whether a flow simply goes on."""
        cached = self.cache.get(flow)
        assert cached is not None
        (validity,) = self.cache.judge([(flow, cached, delta)], [None], now)
        is_held = delta.opened or self.table.need_watch([flow]) == [True]
        return validity is Validity.HOLDS and not is_held


lane = st.tuples(
    st.booleans(),
    st.sampled_from([1.0, 2.0, 9.0]),
    st.integers(0, PAUSE_NS),
    st.sampled_from([PAUSE_NS, 3 * PAUSE_NS // 2, 4 * PAUSE_NS]),
)


@given(
    st.dictionaries(st.sampled_from(FLOWS), lane),
    st.lists(
        st.tuples(st.sets(st.sampled_from(FLOWS)), st.booleans(), st.integers(1, 2 * PAUSE_NS)),
        max_size=6,
    ),
)
def test_a_column_of_packets_passes_where_each_packet_would(
    flows: Mapping[FlowKey, tuple[bool, float, int, int]],
    packets: list[tuple[set[FlowKey], bool, int]],
) -> None:
    in_columns, one_by_one = Lanes(flows), Lanes(flows)
    time_ns, held = 0, set[FlowKey]()
    for number, (moving, opened, pause_ns) in enumerate(packets):
        time_ns += pause_ns
        now = number / 2
        deltas = {
            flow: make_delta((1, 1), opened=opened, at_ns=(time_ns, time_ns))
            for flow in FLOWS
            if flow in moving & flows.keys() - held
        }
        goes_on = {flow: one_by_one.judge(flow, one, now) for flow, one in deltas.items()}
        held |= {flow for flow, passes in goes_on.items() if not passes}
        assert in_columns.count(deltas, now) == held & deltas.keys()
