"""PURE: JSON lines, for any server that takes them (Vector, Fluent Bit, a script of one's own).

A batch is delivered with any 2xx: what a server's body says is known to nobody but that server.
"""

from hogpipe import HttpAnswer
from hogpipe_http.exchange import DELIVERED, Batch, Request, Verdict
from hogpipe_http.settings import HttpSettings
from hogpipe_http.statuses import LONGEST_ANSWER, judge_status

HEADERS = {"Content-Type": "application/x-ndjson"}


class NdjsonPreset:
    """Lines of JSON, one for each record."""

    longest_answer = LONGEST_ANSWER

    def __init__(self, settings: HttpSettings) -> None:
        self._url, self._place = settings.url, settings.place

    def encode(self, batch: Batch) -> Request:
        """Return the lines, each with its line end."""
        return Request(self._url, join_lines(batch), HEADERS)

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:  # noqa: ARG002 - the protocol
        """Return what the status means."""
        return judge_status(answer, self._place) or DELIVERED


def join_lines(batch: Batch) -> bytes:
    """Return the documents as lines, each with its line end."""
    return b"\n".join((*batch.documents, b""))
