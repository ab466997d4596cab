"""Documents in the Elastic Common Schema agree with docs/layouts.md."""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support.records import DOCS, FULL, read_schema, windows
from support.sinks import stats, traffic

from hogpipe import JsonEncoder, JsonSettings, Record
from hogpipe.records.stamp import make_window
from hogpipe.sinks.ecs import ECS_KEYWORDS, ECS_NAMES, ECS_VERSION

PAGE = (DOCS / "layouts.md").read_text()
RECORD_SCHEMA = read_schema("record.schema.json")
ECS_SCHEMA = read_schema("record.ecs.schema.json")
VALIDATOR = Draft202012Validator(
    ECS_SCHEMA,
    registry=Registry().with_resource("record.schema.json", Resource.from_contents(RECORD_SCHEMA)),
)


def encode(record: Record, layout: str = "flat", schema: str = "ecs") -> dict[str, Any]:
    settings = JsonSettings(type="x", layout=layout, schema=schema)
    (text,) = JsonEncoder(settings).documents([record])
    document: dict[str, Any] = orjson.loads(text)
    return document


def rows(mark: str) -> list[list[str]]:
    """Return the cells of the table of the page after a comment."""
    found = re.search(rf"<!-- {mark}[^\n]*-->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE)
    assert found, mark
    return [
        [cell.strip().strip("`") for cell in row.split("|")[1:-1]]
        for row in found[1].split("\n")
        if row
    ]


def example(mark: str) -> dict[str, Any]:
    found = re.search(rf"<!-- {mark} -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert found, mark
    document: dict[str, Any] = json.loads(found[1])
    return document


NAMES = {record: ecs for record, ecs, _ in rows("names")}
DERIVED = {row[0] for row in rows("derived")}


def expect(path: str, value: object) -> tuple[str, object]:
    """Return key and value in ECS of a value of the record, by the tables of the page."""
    match path:
        case "type":
            return "event.dataset", f"hogpipe.{value}"
        case "process.user.id":
            return "user.id", str(value)
        case "network.transport" if str(value).isdecimal():
            return "network.iana_number", value
        case "network.transport":
            return "network.transport", ECS_KEYWORDS.get(str(value), value)
        case _:
            return NAMES.get(path, f"hogpipe.{path}"), value


def schema_leaves(schema: dict[str, Any], *path: str) -> Iterator[str]:
    """Yield the path of each value that a record can have."""
    while "$ref" in schema:
        schema = RECORD_SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "object":
        for key, part in schema["properties"].items():
            yield from schema_leaves(part, *path, key)
    else:
        yield ".".join(path)


def test_the_table_of_the_page_agrees_with_the_code() -> None:
    assert NAMES == ECS_NAMES
    assert ["ecs.version", ECS_VERSION] in rows("derived")


def test_the_table_of_the_page_names_existing_keys() -> None:
    known = {*schema_leaves({"$ref": "#/$defs/traffic"}), *schema_leaves({"$ref": "#/$defs/stats"})}
    assert known >= NAMES.keys()
    assert len(known) > 80
    full = {*encode(FULL, "flat", "otel"), "remainder", "kernel.name"}
    assert full == {*schema_leaves({"$ref": "#/$defs/traffic"})}


@given(windows)
def test_each_value_of_the_record_is_in_ecs(records: list[Record]) -> None:
    for record in records:
        document, plain = encode(record), encode(record, "flat", "otel")
        expected = dict(expect(path, value) for path, value in plain.items())
        assert {key: document.get(key) for key in expected} == expected
        assert document.keys() - expected.keys() <= DERIVED


@given(windows)
def test_documents_are_valid_by_their_schema(records: list[Record]) -> None:
    for record in records:
        VALIDATOR.validate(encode(record, "nested"))


def test_the_schema_is_valid_and_refuses_other_documents() -> None:
    Draft202012Validator.check_schema(ECS_SCHEMA)
    assert VALIDATOR.is_valid(encode(FULL, "nested"))
    assert not VALIDATOR.is_valid(FULL)
    assert not VALIDATOR.is_valid({**encode(FULL, "nested"), "source": {"ip": "10.0.0.1"}})


def test_derived_keys_follow_from_the_record() -> None:
    document = encode(FULL)
    assert {key: document[key] for key in DERIVED & document.keys()} == {
        "ecs.version": "8.17.0",
        "event.kind": "metric",
        "event.category": ["network"],
        "event.type": ["info"],
        "event.module": "hogpipe",
        "event.duration": 1_000_000_000,
        "event.id": f"{FULL['run']}-17",
        "network.bytes": 470,
        "network.packets": 3,
        "process.args_count": 3,
        "orchestrator.type": "kubernetes",
        "orchestrator.resource.type": "pod",
        "related.ip": ["10.0.0.1", "10.0.0.2"],
        "related.hosts": ["www.example.com"],
    }


@pytest.mark.parametrize("record", [FULL, traffic(), stats()], ids=["full", "some", "stats"])
def test_no_key_says_which_end_opened_a_connection(record: Record) -> None:
    fields = {"source", "destination", "client", "server"}
    ends = {key for key in encode(record) if key.partition(".")[0] in fields}
    assert ends <= {"server.port"}  # of the service, whoever connected
    assert "network.direction" not in encode(record)


def test_stats_are_not_network_events() -> None:
    assert not {"event.category", "event.type"} & encode(stats()).keys()


@pytest.mark.parametrize(
    ("transport", "key", "value"),
    [
        ("tcp", "network.transport", "tcp"),
        ("icmpv6", "network.transport", "ipv6-icmp"),
        ("47", "network.iana_number", "47"),
    ],
)
def test_a_transport_has_its_iana_keyword_or_number(transport: str, key: str, value: str) -> None:
    record = traffic()
    record["network"]["transport"] = transport
    found = encode(record)
    assert found[key] == value
    assert len({"network.transport", "network.iana_number"} & found.keys()) == 1


def test_a_process_without_an_executable_has_its_name_alone() -> None:
    record = traffic()
    record["process"] = {"pid": 7, "name": "curl", "command": "curl-7"}
    assert encode(record)["process.name"] == "curl"
    assert encode(FULL | {"process": {"user": {"id": 0}}}).keys().isdisjoint({"process.name"})


def test_the_duration_is_exactly_that_of_the_window() -> None:
    settings = JsonSettings(type="x", layout="flat", schema="ecs")
    encoder = JsonEncoder(settings)
    start, month = 1_795_330_800_000_000_000, 30 * 86_400_000_000_000
    spans = [
        (start, start + 50_000_000),
        (1_000_000, 1_000_000),
        (start, start + month + 1_000_000),
    ]
    records = [FULL | {"window": make_window(*span)} for span in spans]
    durations = [orjson.loads(text)["event.duration"] for text in encoder.documents(records)]
    assert durations == [end - start for start, end in spans]


def test_the_examples_of_the_page_encode_the_example_record() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", (DOCS / "record.md").read_text(), re.DOTALL)[:1]
    record = json.loads(text)
    assert example("flat") == encode(record, "flat", "otel")
    assert list(example("flat")) == list(encode(record, "flat", "otel"))
    assert example("ecs") == encode(record, "nested", "ecs")
    assert list(example("ecs")) == list(encode(record, "nested", "ecs"))
