import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.flow_sums import FlowAggregator
from support.traffic import (
    NGINX,
    attributions,
    deltas,
    dimensions,
    exact,
    flows,
    make_delta,
    make_flow,
)

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.model import (
    Attribution,
    AttributionCounts,
    CaptureCounts,
    FlowDelta,
    FlowKey,
    Latency,
    Quality,
    ResolverCounts,
    Tally,
)
from hogpipe.records import stats
from hogpipe.records.schema import Record, SinkInfo, StatsBody
from hogpipe.records.stamp import RecordStamper, make_run_id

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "record.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
RUN = make_run_id(1_795_330_800_000_000_000, bytes(10))
SECOND = 1_000_000_000

times = st.integers(0, 4_000_000_000 * SECOND)
counts = st.integers(0, 1 << 60)
tallies = st.builds(Tally, counts, counts)


def examples() -> Iterator[dict[str, Any]]:
    """Yield what docs/record.md shows."""
    for text in re.findall(r"```json\n(.*?)```", (DOCS / "record.md").read_text(), re.DOTALL):
        yield json.loads(text)


def validate(record: Record) -> None:
    """Check a record as its readers get it: through the encoder."""
    VALIDATOR.validate(orjson.loads(orjson.dumps(record)))


def objects(schema: object) -> Iterator[dict[str, Any]]:
    """Yield each part of `schema` that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


def test_the_schema_is_one_and_closes_every_object() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert len(list(objects(SCHEMA))) > 20
    assert all(part["additionalProperties"] is False for part in objects(SCHEMA))


@given(
    st.lists(st.tuples(flows, deltas, attributions), max_size=8),
    dimensions,
    st.booleans(),
    st.integers(1, 3),
    times,
)
def test_traffic_records_are_valid(
    moved: list[tuple[FlowKey, FlowDelta, Attribution]],
    group_by: list[str],
    selective: bool,
    max_records: int,
    start_ns: int,
) -> None:
    only = [parse_selector("pid:1")] * selective
    aggregator = FlowAggregator(group_by, only, max_records)
    for item in moved:
        aggregator.ingest_flow(*item)
    stamper = RecordStamper(RUN, "web1")
    for body in aggregator.drain():
        validate(stamper.traffic(body, start_ns, start_ns + SECOND))


@given(
    st.builds(
        CaptureCounts,
        captured=tallies,
        not_local=tallies,
        kernel_dropped=counts,
        overflowed=tallies,
    ),
    st.builds(
        AttributionCounts,
        new_flows=counts,
        overflowed=tallies,
        lookup_seconds=st.floats(0, 1e6),
        latency=st.none() | st.builds(Latency, st.floats(0, 1e6), st.floats(0, 1e6)),
        resolver=st.builds(ResolverCounts, counts, counts),
    ),
    st.dictionaries(st.sampled_from(list(Quality)).map(str), st.integers(1, 1 << 60)),
    st.booleans(),
    times,
)
def test_stats_records_are_valid(
    capture: CaptureCounts,
    attribution: AttributionCounts,
    qualities: dict[str, int],
    timed: bool,
    start_ns: int,
) -> None:
    body: StatsBody = {
        "capture": stats.capture_info(capture),
        "attribution": stats.attribution_info(attribution, qualities, timed=timed),
        "aggregation": stats.aggregation_info(records=3, folded_groups=0, uncounted_flows=0),
    }
    stamper = RecordStamper(RUN, "web1")
    validate(stamper.stats(body, start_ns, start_ns + SECOND))
    sink: SinkInfo = {
        "name": "out",
        "type": "stdout",
        "queued": 1,
        "delivered": 2,
        "dropped": 3,
        "coalesced": 4,
        "retries": 5,
        "last_error": "Broken pipe",
        "spool": {
            "records": 1,
            "bytes": 700,
            "recovered": 0,
            "damaged_files": 0,
            "disk_failures": 0,
        },
    }
    body["sinks"] = [sink]
    body["self"] = stats.self_info(cpu_seconds=0.5, memory_bytes=1 << 25, loop_delay_seconds=0.01)
    validate(stamper.stats(body, start_ns, start_ns + SECOND))


@pytest.mark.parametrize("part", ["capture", "attribution", "aggregation", "sink"])
def test_every_key_of_the_stats_is_explained_in_a_table(part: str) -> None:
    page = (DOCS / "record.md").read_text()
    first_cells = re.findall(r"^\| (?:key of )?(`.*?) \|", page, re.MULTILINE)
    explained = set(re.findall(r"\w+", " ".join(first_cells)))
    assert set(SCHEMA["$defs"][f"{part}_stats"]["properties"]) - {"name", "type"} <= explained


def test_the_documented_examples_are_valid_and_of_every_kind() -> None:
    shown = list(examples())
    for record in shown:
        VALIDATOR.validate(record)
    assert [record["type"] for record in shown] == ["traffic", "traffic", "stats"]


def test_the_documented_examples_conserve_bytes_as_the_text_says() -> None:
    *traffic, stats_record = examples()
    moved = [record["network"]["io"] for record in traffic]
    total = sum(io[way]["bytes"] for io in moved for way in ("transmit", "receive"))
    capture, pending = stats_record["capture"], stats_record["attribution"]["pending"]
    left_out = sum(capture[why]["bytes"] for why in ("not_local", "not_ip", "undecoded"))
    left_out += stats_record["attribution"]["translated"]["bytes"]
    assert total == capture["bytes"] - left_out + capture["both_sides"]["bytes"] - pending["bytes"]
    assert total == sum(stats_record["attribution"]["bytes"].values())


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"remainder": True},
        {"k8s": {"pod": {}}},
        {"k8s": {"pod": {"uid": ""}}},
        {"surprise": 1},
        {"process": None},
        {"process": {}},
        {"attribution": {"exact": 0}},
        {"attribution": {"guessed": 1}},
        {"timestamp": "2026-11-22 07:00:10"},
        {"run": "short"},
    ],
)
def test_the_schema_rejects_what_is_not_a_record(change: dict[str, object]) -> None:
    record = next(examples())
    assert VALIDATOR.is_valid(record)
    assert not VALIDATOR.is_valid({**record, **change})


def test_keys_come_in_the_documented_order() -> None:
    aggregator = FlowAggregator(["process"], [], 1)
    aggregator.ingest_flow(make_flow(), make_delta((10, 1), (460, 2)), exact(NGINX))
    (body,) = aggregator.drain()
    start = 1_795_330_809 * SECOND
    record = RecordStamper(RUN, "web1").traffic(body, start, start + SECOND)
    example = next(examples())
    example.update(run=RUN, sequence=1, attribution={"exact": 470})
    example["network"]["flows"] = 1
    assert orjson.dumps(record) == orjson.dumps(example)
