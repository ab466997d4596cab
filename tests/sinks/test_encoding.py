"""Each layout and schema of a record has the content of the record."""

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from support.records import FULL, windows
from support.sinks import stats, traffic

from hogpipe import Record
from hogpipe.sinks import encoding
from hogpipe.sinks.encoding import RECORD_STARTS, JsonEncoder, JsonSettings

SHAPES = [(layout, schema) for layout in ("nested", "flat") for schema in ("otel", "ecs")]


def make_encoder(layout: str, schema: str) -> JsonEncoder:
    return JsonEncoder(JsonSettings(type="x", layout=layout, schema=schema))


def encode(records: list[Record], layout: str, schema: str) -> list[dict[str, Any]]:
    return [orjson.loads(text) for text in make_encoder(layout, schema).documents(records)]


def leaves(document: dict[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    """Yield each value with its path; a list is a value."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, *path, key)
        else:
            yield ".".join((*path, key)), value


def test_the_default_is_the_record_itself() -> None:
    settings = JsonSettings(type="x")
    assert (settings.layout, settings.schema) == ("nested", "otel")
    assert JsonEncoder(settings).documents([FULL]) == [orjson.dumps(FULL)]


@given(windows)
def test_flat_has_each_value_at_its_path(records: list[Record]) -> None:
    for record, flat in zip(records, encode(records, "flat", "otel"), strict=True):
        assert flat == dict(leaves(record))


@given(windows)
def test_both_layouts_of_ecs_have_the_same_content(records: list[Record]) -> None:
    nested, flat = encode(records, "nested", "ecs"), encode(records, "flat", "ecs")
    assert [dict(leaves(document)) for document in nested] == flat


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_a_key_is_in_a_document_once(layout: str, schema: str) -> None:
    def refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    for text in make_encoder(layout, schema).documents([FULL, stats()]):
        json.loads(text, object_pairs_hook=refuse_repeats)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_each_line_has_one_document_and_its_end(layout: str, schema: str) -> None:
    encoder = make_encoder(layout, schema)
    records = [FULL, traffic(2), traffic(3, pid=None), stats(4)]
    documents = encoder.documents(records)
    assert encoder.lines(records) == b"".join(text + b"\n" for text in documents)
    assert encoder.lines([]) == b""
    assert all(b"\n" not in text for text in documents)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_batches_are_the_lines_in_parts(layout: str, schema: str) -> None:
    encoder = make_encoder(layout, schema)
    records = [traffic(sequence, pid=sequence) for sequence in range(1, 1001)]
    batches = list(encoder.batches(records))
    assert len(batches) > 2
    assert all(batch.endswith(b"\n") for batch in batches)
    assert b"".join(batches) == encoder.lines(records)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_documents_begin_as_a_torn_one_is_recognised(layout: str, schema: str) -> None:
    for text in make_encoder(layout, schema).documents([FULL, traffic(pid=None), stats()]):
        assert text.startswith(RECORD_STARTS)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_a_process_that_changes_is_encoded_again(layout: str, schema: str) -> None:
    encoder = make_encoder(layout, schema)
    before, after = traffic(1, pid=7), traffic(2, pid=7)
    after["process"]["executable"] = {"name": "other", "path": "/bin/other"}
    found = [
        dict(leaves(orjson.loads(text))) for text in encoder.documents([before, after, before])
    ]
    assert [list(one.values()).count("/bin/other") for one in found] == [0, 1, 0]
    assert found[0] == found[2]


@pytest.mark.parametrize("limit", [1, 5, 1000])
@given(records=windows)
def test_the_cache_changes_no_byte(limit: int, records: list[Record]) -> None:
    for layout, schema in SHAPES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoding, "_MAX_TAILS", limit)
            patch.setattr(encoding, "_MAX_OWNERS", limit)
            encoder = make_encoder(layout, schema)
        alone = [make_encoder(layout, schema).documents([record])[0] for record in records]
        assert encoder.documents(records * 2) == alone * 2


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
@pytest.mark.parametrize("left", [("pid",), ("parent_pid",), ("creation",), ("pid", "creation")])
def test_processes_that_differ_in_known_keys_are_distinguished(
    layout: str, schema: str, left: tuple[str, ...]
) -> None:
    less, other = orjson.loads(orjson.dumps([FULL, FULL]))
    for key in left:
        del less["process"][key]
    other["process"] |= {"pid": 7, "parent_pid": 0, "creation": {"time": ""}}
    records = [FULL, less, other, FULL, less]
    alone = [make_encoder(layout, schema).documents([record])[0] for record in records]
    assert make_encoder(layout, schema).documents(records) == alone
    assert len({*alone}) == 3
    values = [sorted(map(str, dict(leaves(orjson.loads(text))).values())) for text in alone]
    assert len(values[0]) - len(values[1]) == len(left)


@pytest.mark.parametrize(("layout", "schema"), SHAPES[1:])
def test_processes_of_one_program_share_the_cached_owner(
    layout: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(layout, schema)
    shape = encoder._shape
    assert shape is not None
    made = []
    write = shape.write_owner
    monkeypatch.setattr(shape, "write_owner", lambda record: made.append(1) or write(record))
    records = orjson.loads(orjson.dumps([FULL] * 50))
    for pid, record in enumerate(records, 1000):
        record["process"]["pid"] = pid
    encoder.documents(records)
    assert len(made) == 1


def test_the_cache_takes_less_than_a_kilobyte_for_an_owner() -> None:
    encoder = make_encoder("flat", "otel")
    tracemalloc.start()
    try:
        for pid in range(2000):
            encoder.documents([traffic(pid, pid=pid)])
        assert tracemalloc.get_traced_memory()[0] < 1000 * 2000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_records_are_not_changed(layout: str, schema: str) -> None:
    before = orjson.dumps([FULL, stats()])
    record = orjson.loads(before)
    make_encoder(layout, schema).documents(record)
    assert orjson.dumps(record) == before
