"""Each shape of a record says what the record says."""

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
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


@settings(deadline=None)
@given(windows)
def test_flat_has_each_value_at_its_path(records: list[Record]) -> None:
    for record, flat in zip(records, encode(records, "flat", "otel"), strict=True):
        assert flat == dict(leaves(record))


@settings(deadline=None)
@given(windows)
def test_both_layouts_of_ecs_say_the_same(records: list[Record]) -> None:
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
def test_portions_are_the_lines_bit_by_bit(layout: str, schema: str) -> None:
    encoder = make_encoder(layout, schema)
    records = [traffic(sequence, pid=sequence) for sequence in range(1, 1001)]
    portions = list(encoder.portions(records))
    assert len(portions) > 2
    assert all(portion.endswith(b"\n") for portion in portions)
    assert b"".join(portions) == encoder.lines(records)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_a_document_begins_as_a_torn_one_is_known_by(layout: str, schema: str) -> None:
    for text in make_encoder(layout, schema).documents([FULL, traffic(pid=None), stats()]):
        assert text.startswith(RECORD_STARTS)


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_a_process_that_changes_is_told_anew(layout: str, schema: str) -> None:
    encoder = make_encoder(layout, schema)
    before, after = traffic(1, pid=7), traffic(2, pid=7)
    after["process"]["executable"] = {"name": "other", "path": "/bin/other"}
    told = [dict(leaves(orjson.loads(text))) for text in encoder.documents([before, after, before])]
    assert [list(one.values()).count("/bin/other") for one in told] == [0, 1, 0]
    assert told[0] == told[2]


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_more_owners_than_are_remembered_are_told_right(
    layout: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_MOST_OWNERS", 5)
    encoder = make_encoder(layout, schema)
    records = [traffic(sequence, pid=sequence % 7 + 1) for sequence in range(1, 200)]
    alone = [make_encoder(layout, schema).documents([record])[0] for record in records]
    assert encoder.documents(records) == alone
    assert len(encoder._tails) <= 5


def test_of_more_owners_than_are_remembered_most_still_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MOST_OWNERS", 100)
    encoder = make_encoder("flat", "otel")
    made = []
    make = encoder._make_tail
    monkeypatch.setattr(encoder, "_make_tail", lambda *words: made.append(1) or make(*words))
    for turn in range(50):
        if turn == 25:
            made.clear()
        first = 1 if turn < 25 else 1001  # from here on it is other processes
        encoder.lines([traffic(1, pid=pid) for pid in range(first, first + 110)])
    assert len(made) < 25 * 110 / 2


def test_what_is_remembered_of_an_owner_takes_little_memory() -> None:
    encoder = make_encoder("flat", "otel")
    tracemalloc.start()
    try:
        for pid in range(2000):
            encoder.documents([traffic(pid, pid=pid)])
        assert tracemalloc.get_traced_memory()[0] < 1000 * 2000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("layout", "schema"), SHAPES)
def test_records_stay_as_they_are(layout: str, schema: str) -> None:
    before = orjson.dumps([FULL, stats()])
    record = orjson.loads(before)
    make_encoder(layout, schema).documents(record)
    assert orjson.dumps(record) == before
