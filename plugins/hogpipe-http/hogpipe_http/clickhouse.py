"""PURE: inserts into a table of ClickHouse, as rows of JSON.

    POST /?query=INSERT INTO DATABASE.TABLE FORMAT JSONEachRow&insert_deduplication_token=…

A document is a row: its top-level keys are columns, nested objects are Tuple columns (docs/http.md
has a table). The token is made of the run and the range of sequences, so ClickHouse inserts a
request that is sent again only once, if the table keeps tokens: with a Replicated engine or
`non_replicated_deduplication_window`. For that a request is always the same for the same records,
and is not inserted asynchronously.

ClickHouse answers a success with an empty body and headers of its own; an insert that fails inserts
nothing, or, if it spans partitions, parts that its repeat does not insert again.
"""

from hogpipe import HttpAnswer, extend_url, record_id
from hogpipe_http.exchange import DELIVERED, Batch, Request, Verdict
from hogpipe_http.ndjson import HEADERS, join_lines
from hogpipe_http.settings import ClickHouseSettings, HttpSettings
from hogpipe_http.statuses import LONGEST_ANSWER, judge_status, misunderstand

_SETTINGS = {
    "async_insert": "0",  # else the token would be that of a buffer
    "date_time_input_format": "best_effort",  # of which ISO 8601 is one
    "input_format_skip_unknown_fields": "1",  # keys that the table has no column for
    "wait_end_of_query": "1",  # no success before the end
}
_MARKS = ("X-ClickHouse-Summary", "X-ClickHouse-Query-Id")


class ClickHousePreset:
    """Inserts, each with a token."""

    longest_answer = LONGEST_ANSWER

    def __init__(self, settings: HttpSettings) -> None:
        options = settings.clickhouse or ClickHouseSettings()
        table = f"{_quote(options.database)}.{_quote(options.table)}"
        query = {"query": f"INSERT INTO {table} FORMAT JSONEachRow", **_SETTINGS}
        self._url = extend_url(settings.url, query=query)
        self._place = settings.place

    def encode(self, batch: Batch) -> Request:
        """Return the rows, and a URL with their token."""
        url = self._url
        if batch.records:
            url = extend_url(url, query={"insert_deduplication_token": make_token(batch)})
        return Request(url, join_lines(batch), HEADERS)

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:  # noqa: ARG002 - the protocol
        """Return what the status means; ClickHouse's success has no body."""
        if (verdict := judge_status(answer, self._place)) is not None:
            return verdict
        if answer.body.strip() or not any(mark in answer.headers for mark in _MARKS):
            return misunderstand(answer, self._place, "one of ClickHouse")
        return DELIVERED


def make_token(batch: Batch) -> str:
    """Return what identifies the records of a batch: the run, and the range and number."""
    run, first = record_id(batch.records[0])
    _run, last = record_id(batch.records[-1])
    return f"{run}:{first}-{last}:{len(batch.records)}"


def _quote(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
