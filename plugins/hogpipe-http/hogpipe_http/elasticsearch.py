"""PURE: the bulk API of Elasticsearch and OpenSearch.

    POST /INDEX/_bulk     a line {"create":{"_id":"RUN-SEQUENCE"}} before each document

The id is that of the record: a record that was sent before is answered with 409 and counts as
delivered, so a repeat changes nothing. `create` is what data streams take; they need `@timestamp`,
which documents of the schema `otel` get in addition.

The answer has one item for each record, in order (status and error alone, by `filter_path`):

    2xx, 409                         delivered
    401, 403, 404, 408, 429, 5xx     sent again: a missing right or index is not the record's fault
    any other                        refused

Known limit: ids are unique in one index. A data stream that rolls over between a record and its
repeat has the record twice.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from hogpipe import HttpAnswer, Record, extend_url, record_id
from hogpipe_http.exchange import DELIVERED, Batch, Outcome, Request, Verdict
from hogpipe_http.ndjson import HEADERS
from hogpipe_http.settings import ElasticsearchSettings, HttpSettings
from hogpipe_http.statuses import judge_status, misunderstand

_ANSWER_BYTES = 4096  # at most, of one record
_FILTER = "errors,items.*.status,items.*.error.type,items.*.error.reason"
_DELIVERED = {*range(200, 300), 409}
_RETRYABLE = {401, 403, 404, 408, 429}
_SHOWN = 160  # characters of a reason


class Item(NamedTuple):
    """What the receiver answers for one record."""

    status: int
    reason: str


class ElasticsearchPreset:
    """Bulk requests of `create` actions."""

    def __init__(self, settings: HttpSettings) -> None:
        index = (settings.elasticsearch or ElasticsearchSettings()).index
        self._url = extend_url(settings.url, f"/{index}/_bulk", {"filter_path": _FILTER})
        self._place = settings.place
        self._timed = settings.schema == "ecs"
        self.longest_answer = _ANSWER_BYTES * settings.max_records

    def encode(self, batch: Batch) -> Request:
        """Return an action and a document for each record."""
        return Request(self._url, b"".join(self._encode_lines(batch)), HEADERS)

    def _encode_lines(self, batch: Batch) -> Iterator[bytes]:
        for record, document in zip(batch.records, batch.documents, strict=True):
            run, sequence = record_id(record)
            if self._timed:
                head, rest = "", document
            else:
                head, rest = f'{{"@timestamp":"{record["timestamp"]}",', document[1:]
            yield f'{{"create":{{"_id":"{run}-{sequence}"}}}}\n{head}'.encode()
            yield rest
            yield b"\n"

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:
        """Return the outcome of each record, by its item."""
        if (verdict := judge_status(answer, self._place, _read_reason(answer))) is not None:
            return verdict
        if not answer.complete:
            return Verdict(Outcome.TOO_LARGE, f"{self._place}: its answer is too long to be read")
        items = parse_items(answer.body)
        if items is None or len(items) != len(batch.records):
            return misunderstand(answer, self._place, "one of the bulk API")
        return self._judge(batch.records, items)

    def _judge(self, records: Sequence[Record], items: Sequence[Item]) -> Verdict:
        retried = [one for one in zip(records, items, strict=True) if _is_retried(one[1])]
        refused = [one for one in zip(records, items, strict=True) if _is_refused(one[1])]
        if not (retried or refused):
            return DELIVERED
        item = (refused or retried)[0][1]
        what = f"{len(refused)} are refused, {len(retried)} sent again"
        return Verdict(
            Outcome.BY_RECORD,
            f"{self._place}: of {len(records)} records {what}: {item.status} {item.reason}",
            undelivered=[record for record, _item in retried],
            refused=[record for record, _item in refused],
            busy=bool(retried),
        )


def _is_retried(item: Item) -> bool:
    return item.status in _RETRYABLE or not 200 <= item.status < 500


def _is_refused(item: Item) -> bool:
    return not (item.status in _DELIVERED or _is_retried(item))


def parse_items(body: bytes) -> list[Item] | None:
    """Return the items of an answer, None if it is not one of the bulk API."""
    try:
        items = orjson.loads(body)["items"]
        return [_parse_item(next(iter(item.values()))) for item in items]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _parse_item(item: dict[str, object]) -> Item:
    status, error = item["status"], item.get("error")
    if type(status) is not int:
        raise TypeError("a status is a number")
    return Item(status, _describe_error(error))


def _read_reason(answer: HttpAnswer) -> str | None:
    """Return the reason in the body of an error, None if it is not JSON."""
    try:
        return _describe_error(orjson.loads(answer.body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def _describe_error(error: object) -> str:
    if not isinstance(error, dict):
        return str(error or "")
    text = f"{error.get('type', '')}: {error.get('reason', '')}"
    return " ".join(text.split())[:_SHOWN]
