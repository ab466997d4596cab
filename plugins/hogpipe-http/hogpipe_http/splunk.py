"""PURE: Splunk's HTTP Event Collector, and its indexer acknowledgement.

    POST /services/collector/event         {"time":…,"host":…,"event":DOCUMENT} for each record
    POST /services/collector/ack           {"acks":[RECEIPT, ...]}, for the same channel

With 200 and code 0 the events are in the receiver's queue, and lost if it dies before they are
indexed. With `acknowledge` the answer has a receipt, and the records are delivered when the
receiver acknowledges it.

The receiver stops at the first invalid event and names it (`invalid-event-number`): events before
it are accepted, it is refused, and those after it are sent again.
"""

from collections.abc import Collection
from typing import NamedTuple

import orjson

from hogpipe import HttpAnswer, Record, extend_url
from hogpipe_http.exchange import DELIVERED, Batch, Outcome, Request, Verdict
from hogpipe_http.settings import HttpSettings, SplunkSettings
from hogpipe_http.statuses import LONGEST_ANSWER, judge_status, misunderstand

_EVENT, _ACK = "/services/collector/event", "/services/collector/ack"
_MISCONFIGURED = {
    7: "set `splunk.index` to one that the token may write to",
    10: "the token wants acknowledgement: set `splunk.acknowledge`",
    11: "",
    14: "the token has no acknowledgement: unset `splunk.acknowledge`",
}
"""Codes of 400 whose cause is not the data, with the remedy."""


class Status(NamedTuple):
    """The JSON of an answer."""

    text: str
    code: int
    receipt: int | None
    invalid_event: int | None


class SplunkPreset:
    """Events; `channel` is what acknowledgements belong to."""

    longest_answer = LONGEST_ANSWER

    def __init__(self, settings: HttpSettings, channel: str) -> None:
        options = settings.splunk or SplunkSettings()
        self.query_interval = options.acknowledge_interval
        self._place = settings.place
        self._event_url = extend_url(settings.url, _EVENT)
        self._ack_url = extend_url(settings.url, _ACK, {"channel": channel})
        self._acknowledged = options.acknowledge
        self._headers = {"Content-Type": "application/json"}
        if options.acknowledge:
            self._headers["X-Splunk-Request-Channel"] = channel
        fixed = {"source": options.source, "sourcetype": options.sourcetype}
        if options.index is not None:
            fixed["index"] = options.index
        self._fixed = orjson.dumps(fixed)[1:-1]

    def encode(self, batch: Batch) -> Request:
        """Return the events, one a line."""
        parts: list[bytes] = []
        known, head = None, b""
        for record, document in zip(batch.records, batch.documents, strict=True):
            if (key := (record["window"]["end_unix"], record["host"]["name"])) != known:
                known, head = key, self._encode_head(record)
            parts += (head, document, b"}\n")
        return Request(self._event_url, b"".join(parts), self._headers)

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:
        """Return the outcome, by status and code."""
        status = parse_status(answer.body)
        text = f"code {status.code}: {status.text}" if status else None
        verdict = judge_status(answer, self._place, text)
        if verdict is None:
            return self._judge_success(answer, status)
        if status is None or verdict.outcome is not Outcome.REFUSED:
            return verdict
        if (hint := _MISCONFIGURED.get(status.code)) is not None:
            return Verdict(Outcome.UNDELIVERED, f"{verdict.reason}; {hint}".rstrip("; "))
        return self._judge_invalid(batch, status, verdict)

    def encode_query(self, receipts: Collection[int]) -> Request:
        """Return the request that asks for acknowledgements."""
        body = orjson.dumps({"acks": sorted(receipts)})
        return Request(self._ack_url, body, self._headers)

    def parse_acknowledged(self, answer: HttpAnswer) -> Collection[int] | str:
        """Return the receipts that an answer acknowledges, or what is wrong with the answer."""
        if (verdict := judge_status(answer, self._place)) is not None:
            return verdict.reason
        try:
            acks = orjson.loads(answer.body)["acks"]
            return [int(receipt) for receipt, done in acks.items() if done is True]
        except (ValueError, LookupError, TypeError, AttributeError):  # orjson's error is the first
            return misunderstand(answer, self._place, "acknowledgements").reason

    def _encode_head(self, record: Record) -> bytes:
        fixed = {"time": record["window"]["end_unix"], "host": record["host"]["name"]}
        return orjson.dumps(fixed)[:-1] + b"," + self._fixed + b',"event":'

    def _judge_success(self, answer: HttpAnswer, status: Status | None) -> Verdict:
        if status is None or status.code != 0:
            return misunderstand(answer, self._place, "one of the HTTP Event Collector")
        if not self._acknowledged:
            return DELIVERED
        if status.receipt is None:
            text = f"{self._place} acknowledges nothing: the token has no acknowledgement"
            return Verdict(Outcome.UNDELIVERED, f"{text}; unset `splunk.acknowledge`")
        return Verdict(Outcome.DELIVERED, receipt=status.receipt)

    def _judge_invalid(self, batch: Batch, status: Status, verdict: Verdict) -> Verdict:
        number = status.invalid_event
        if number is None or not 0 <= number < len(batch.records):
            return verdict
        refused, rest = [batch.records[number]], list(batch.records[number + 1 :])
        if self._acknowledged:  # nothing would acknowledge those before it
            rest = [*batch.records[:number], *rest]
        return Verdict(Outcome.BY_RECORD, verdict.reason, rest, refused)


def parse_status(body: bytes) -> Status | None:
    """Return what an answer says, None if it is not one of the HTTP Event Collector."""
    try:
        said = orjson.loads(body)
        text, code = said["text"], said["code"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    if type(code) is not int:
        return None
    return Status(
        " ".join(str(text).split()),
        code,
        _find_number(said.get("ackId")),
        _find_number(said.get("invalid-event-number")),
    )


def _find_number(value: object) -> int | None:
    return value if type(value) is int else None
