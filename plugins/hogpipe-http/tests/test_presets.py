"""What each preset sends, and what it takes an answer for."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hogpipe_http import HttpSettings, hogpipe_sinks
from hogpipe_http.clickhouse import make_token
from hogpipe_http.elasticsearch import parse_items
from hogpipe_http.exchange import Batch, Outcome, Preset, Verdict
from hogpipe_http.presets import make_preset
from hogpipe_http.splunk import SplunkPreset, parse_status
from hypothesis import given
from hypothesis import strategies as st

from hogpipe import HttpAnswer, JsonEncoder, record_id
from hogpipe.testing import RecordMaker, read_settings

(SINK_TYPE,) = hogpipe_sinks()
PRESETS = ("ndjson", "elasticsearch", "loki", "splunk", "clickhouse")
WITH_BODIES = ("elasticsearch", "loki", "splunk", "clickhouse")
PAGE = HttpAnswer(200, {"Content-Type": "text/html"}, b"<html>Please log in</html>")


def settings_of(preset: str, **keys: Any) -> HttpSettings:
    settings = read_settings(
        SINK_TYPE, {"url": "http://store:1/up?key=1", "preset": preset, **keys}
    )
    assert isinstance(settings, HttpSettings)
    return settings


def make(preset: str, **keys: Any) -> Preset:
    return make_preset(settings_of(preset, **keys), "channel-1")


def make_batch(number: int = 8, **keys: Any) -> Batch:
    records = RecordMaker().window(number)
    return Batch(records, JsonEncoder(settings_of("ndjson", **keys)).documents(records))


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def answer(status: int, body: object = b"", **headers: str) -> HttpAnswer:
    names = {name: name.replace("_", "-") for name in headers}
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpAnswer(status, {names[name]: value for name, value in headers.items()}, text)


# What is sent


@pytest.mark.parametrize(
    ("preset", "path"),
    [
        ("ndjson", "/up"),
        ("elasticsearch", "/up/logs-hogpipe-default/_bulk"),
        ("loki", "/up/loki/api/v1/push"),
        ("splunk", "/up/services/collector/event"),
        ("clickhouse", "/up"),
    ],
)
def test_a_preset_appends_its_path_and_keeps_that_of_the_url(preset: str, path: str) -> None:
    url = urlsplit(make(preset).encode(make_batch()).url)
    assert url.path == path
    assert parse_qs(url.query)["key"] == ["1"]


def test_ndjson_is_a_line_for_each_record() -> None:
    batch = make_batch()
    assert lines(make("ndjson").encode(batch).body) == batch.records


@pytest.mark.parametrize("schema", ["otel", "ecs"])
@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_each_document_of_a_bulk_request_has_an_id_and_a_time(schema: str, layout: str) -> None:
    shape = {"schema": schema, "layout": layout}
    batch = make_batch(**shape)
    sent = lines(make("elasticsearch", **shape).encode(batch).body)
    for action, document, record in zip(sent[::2], sent[1::2], batch.records, strict=True):
        run, sequence = record_id(record)
        assert action == {"create": {"_id": f"{run}-{sequence}"}}
        assert document["@timestamp"] == record["timestamp"]


def test_the_lines_of_loki_are_in_streams_with_times_in_order() -> None:
    batch = make_batch()
    pushed = json.loads(make("loki").encode(batch).body)["streams"]
    assert [one["stream"] for one in pushed] == [{"host": "web1", "source": "hogpipe"}]
    (values,) = (one["values"] for one in pushed)
    assert [json.loads(line) for _time, line in values] == batch.records
    times = [int(time) for time, _line in values]
    assert times == sorted(set(times))
    end = batch.records[0]["window"]["end_unix"]
    assert all(0 <= time - end * 1e9 < 1e6 for time in times)


def test_the_streams_of_loki_are_bounded_and_no_line_is_lost() -> None:
    preset = make("loki", loki={"labels": ["unit", "type"], "max_streams": 4})
    batch = make_batch(100)
    found = set()
    for _window in range(3):
        pushed = json.loads(preset.encode(batch).body)["streams"]
        found |= {json.dumps(one["stream"]) for one in pushed}
        assert sum(len(one["values"]) for one in pushed) == 100
    assert len(found) == 5  # and the one without the additional labels
    assert json.dumps({"source": "hogpipe", "host": "web1"}) in found


@pytest.mark.parametrize("label", ["program", "unit", "user", "container", "pod", "interface"])
def test_a_label_of_loki_is_absent_where_a_record_lacks_it(label: str) -> None:
    preset = make("loki", loki={"labels": [label]})
    pushed = json.loads(preset.encode(make_batch(30)).body)["streams"]
    assert all("" not in one["stream"].values() for one in pushed)
    assert any(label not in one["stream"] for one in pushed)


def test_an_event_of_splunk_has_time_host_source_and_the_record() -> None:
    batch = make_batch()
    preset = make("splunk", splunk={"index": "net", "sourcetype": "hogpipe"})
    for event, record in zip(lines(preset.encode(batch).body), batch.records, strict=True):
        assert event == {
            "time": record["window"]["end_unix"],
            "host": "web1",
            "source": "hogpipe",
            "sourcetype": "hogpipe",
            "index": "net",
            "event": record,
        }


def test_acknowledgement_has_a_channel() -> None:
    preset = make("splunk", splunk={"acknowledge": True})
    assert preset.encode(make_batch()).headers["X-Splunk-Request-Channel"] == "channel-1"
    assert isinstance(preset, SplunkPreset)
    query = preset.encode_query({3, 1})
    assert parse_qs(urlsplit(query.url).query)["channel"] == ["channel-1"]
    assert json.loads(query.body) == {"acks": [1, 3]}
    assert "X-Splunk-Request-Channel" not in make("splunk").encode(make_batch()).headers


def test_an_insert_has_a_token_of_the_run_and_the_range() -> None:
    preset = make("clickhouse", clickhouse={"database": "d`x", "table": "t"})
    batch = make_batch()
    query = parse_qs(urlsplit(preset.encode(batch).url).query)
    assert query["query"] == [r"INSERT INTO `d\`x`.`t` FORMAT JSONEachRow"]
    run, first = record_id(batch.records[0])
    assert query["insert_deduplication_token"] == [f"{run}:{first}-{first + 7}:8"]
    assert make_token(Batch(batch.records[:-1], ())) != make_token(batch)
    assert "insert_deduplication_token" not in preset.encode(Batch()).url


# What an answer means


def judge(preset: str, found: HttpAnswer, batch: Batch | None = None) -> Verdict:
    return make(preset).classify(batch or make_batch(), found)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.UNDELIVERED) for status in (300, 302, 307, 401, 403, 404, 405, 407)),
        *(
            (status, Outcome.UNDELIVERED)
            for status in (408, 425, 429, 500, 502, 503, 504, 599, 101)
        ),
        (413, Outcome.TOO_LARGE),
        *((status, Outcome.REFUSED) for status in (400, 406, 410, 411, 415, 422, 431)),
    ],
)
def test_a_status_means_the_same_with_each_preset(
    preset: str, status: int, outcome: Outcome
) -> None:
    verdict = judge(preset, answer(status, b"<html>no</html>", Content_Type="text/html"))
    assert verdict.outcome is outcome
    assert f"store:1 answers {status}" in verdict.reason
    assert "html" not in verdict.reason


@pytest.mark.parametrize("status", [401, 403, 404, 407, 413])
def test_what_can_be_fixed_has_a_remedy(status: int) -> None:
    assert "; " in judge("ndjson", answer(status)).reason


def test_a_redirect_names_its_target() -> None:
    reason = judge("loki", answer(301, Location="https://store:1/loki?key=1")).reason
    assert "not followed" in reason
    assert reason.endswith("https://store:1/loki")


@pytest.mark.parametrize("preset", WITH_BODIES)
def test_the_page_of_a_proxy_is_no_delivery(preset: str) -> None:
    verdict = judge(preset, PAGE)
    assert verdict.outcome is Outcome.UNDELIVERED
    assert "200 with text/html instead of" in verdict.reason


def test_any_success_is_a_delivery_of_json_lines() -> None:
    assert judge("ndjson", PAGE).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"text":"ok"}', b'"x"', b"\xff"])
@pytest.mark.parametrize("preset", ["elasticsearch", "splunk"])
def test_json_of_another_kind_is_no_delivery(preset: str, body: bytes) -> None:
    assert judge(preset, answer(200, body)).outcome is Outcome.UNDELIVERED


def item(status: int, reason: str = "") -> dict[str, Any]:
    error = {"error": {"type": "kind", "reason": reason}} if reason else {}
    return {"create": {"status": status, **error}}


def test_each_item_of_a_bulk_answer_is_judged() -> None:
    batch = make_batch(9)
    statuses = [201, 409, 400, 429, 503, 404, 403, 200, 422]
    items = [item(status, "" if status < 300 else f"why\n {status}") for status in statuses]
    verdict = judge("elasticsearch", answer(200, {"errors": True, "items": items}), batch)
    assert verdict.outcome is Outcome.BY_RECORD
    assert verdict.refused == [batch.records[2], batch.records[8]]
    assert verdict.undelivered == list(batch.records[3:7])
    assert verdict.busy
    what = "of 9 records 2 are refused, 4 sent again: 400 kind: why 400"
    assert verdict.reason == f"store:1: {what}"


def test_a_bulk_answer_for_other_records_is_no_delivery() -> None:
    verdict = judge("elasticsearch", answer(200, {"items": [item(201)]}), make_batch(2))
    assert verdict.outcome is Outcome.UNDELIVERED


def test_a_bulk_answer_that_is_too_long_asks_for_less() -> None:
    found = HttpAnswer(200, {}, b'{"items":[', complete=False)
    assert judge("elasticsearch", found).outcome is Outcome.TOO_LARGE


def test_the_error_of_a_bulk_request_is_named() -> None:
    body = {"error": {"type": "index_not_found_exception", "reason": "no such index [x]"}}
    reason = judge("elasticsearch", answer(404, body)).reason
    assert "404 Not Found: index_not_found_exception: no such index [x]; " in reason


KEYS = st.sampled_from(["items", "create", "status", "error", "text", "code"])
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_JSON)
def test_any_json_is_an_answer_or_none(found: object) -> None:
    body = json.dumps(found).encode()
    items, status = parse_items(body), parse_status(body)
    assert items is None or all(type(one.status) is int for one in items)
    assert status is None or type(status.code) is int


SUCCESS = {"text": "Success", "code": 0}


def test_splunk_delivers_with_code_zero_alone() -> None:
    assert judge("splunk", answer(200, SUCCESS)).outcome is Outcome.DELIVERED
    busy = judge("splunk", answer(503, {"text": "Server is busy", "code": 9}))
    assert busy.outcome is Outcome.UNDELIVERED
    assert "503 Service Unavailable: code 9: Server is busy" in busy.reason


@pytest.mark.parametrize("code", [7, 10, 11, 14])
def test_splunk_without_its_configuration_is_no_refusal(code: int) -> None:
    assert judge("splunk", answer(400, {"text": "x", "code": code})).outcome is Outcome.UNDELIVERED


def test_splunk_names_the_event_that_it_refuses() -> None:
    body = {"text": "Invalid data format", "code": 6, "invalid-event-number": 3}
    batch = make_batch()
    verdict = judge("splunk", answer(400, body), batch)
    assert (verdict.refused, verdict.undelivered) == ([batch.records[3]], batch.records[4:])
    assert not verdict.busy
    # With acknowledgement those before it have no receipt.
    verdict = make("splunk", splunk={"acknowledge": True}).classify(batch, answer(400, body))
    assert verdict.undelivered == [*batch.records[:3], *batch.records[4:]]
    for number in (8, -1, "3", None):
        wrong = {**body, "invalid-event-number": number}
        assert judge("splunk", answer(400, wrong), batch).outcome is Outcome.REFUSED


def test_splunk_acknowledges_by_receipt() -> None:
    preset = make("splunk", splunk={"acknowledge": True})
    assert isinstance(preset, SplunkPreset)
    verdict = preset.classify(make_batch(), answer(200, {**SUCCESS, "ackId": 5}))
    assert (verdict.outcome, verdict.receipt) == (Outcome.DELIVERED, 5)
    unacknowledged = preset.classify(make_batch(), answer(200, SUCCESS))
    assert unacknowledged.outcome is Outcome.UNDELIVERED
    acks = {"acks": {"5": True, "6": False}}
    assert preset.parse_acknowledged(answer(200, acks)) == [5]
    for wrong in (PAGE, answer(503), answer(200, {"acks": {"x": True}}), answer(200, [])):
        assert isinstance(preset.parse_acknowledged(wrong), str)


def test_loki_and_clickhouse_deliver_with_an_empty_answer() -> None:
    assert judge("loki", answer(204)).outcome is Outcome.DELIVERED
    summary = answer(200, b"", X_ClickHouse_Summary="{}")
    assert judge("clickhouse", summary).outcome is Outcome.DELIVERED
    assert judge("clickhouse", answer(200)).outcome is Outcome.UNDELIVERED
