"""PURE: what a collector's answer means (OTLP/HTTP, "Failures" and "Retryable Response Codes").

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

from hogpipe import DeliveryError, HogpipeError, RefusedError
from hogpipe_otlp.messages import decode_status

LONGEST_WAIT = 300.0
"""Seconds that a collector's Retry-After can keep hogpipe from trying again."""

_SHOWN = 200  # characters of a collector's own words
_PROTOBUF = "application/x-protobuf"
_RETRYABLE = {429, 502, 503, 504}
_HINTS = {
    401: "set the credentials that it wants in `headers`",
    403: "set the credentials that it wants in `headers`",
    404: "see the path of `endpoint`, mostly /v1/metrics",
    405: "see the path of `endpoint`, mostly /v1/metrics",
    407: "a proxy wants credentials",
    408: "it waited too long for the request",
}
"""Answers that say nothing against the data: somebody can mend the cause, so they are kept."""


class TooLargeError(RefusedError):
    """The collector takes only smaller requests."""


class Answer(NamedTuple):
    """An HTTP response; names of `headers` are in any case that HTTP allows."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def taken(self) -> bool:
        """Whether the request was taken, at least in part."""
        return 200 <= self.status < 300

    @property
    def is_message(self) -> bool:
        """Whether the body is a protobuf message."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip() == _PROTOBUF


def explain(answer: Answer, place: str) -> HogpipeError:
    """Return what an answer other than success means for the data."""
    text = f"{place} answers {answer.status} {_phrase(answer.status)}"
    if words := _words(answer):
        text += f": {words}"
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLargeError(text)
    if answer.status in _RETRYABLE:
        return DeliveryError(text)
    if 300 <= answer.status < 400:
        # A query may be ours, given back, and hold a secret.
        target = answer.headers.get("Location", "elsewhere").partition("?")[0][:_SHOWN]
        return DeliveryError(f"{text}; set `endpoint` to where it leads: {target}")
    if hint := _HINTS.get(answer.status):
        return DeliveryError(f"{text}; {hint}")
    return RefusedError(text)


def wait_of(answer: Answer, now: datetime) -> float:
    """Return for how many seconds the collector wants to be left alone (RFC 9110 section 10.2.3).

    0 where it says nothing of that, or nothing that can be understood.
    """
    said = answer.headers.get("Retry-After", "").strip()
    if answer.status not in _RETRYABLE or not said:
        return 0.0
    if said.isdecimal():
        return min(float(said[:10]), LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(said) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _words(answer: Answer) -> str:
    """Return the reason in the collector's own words, if it gives any in plain text."""
    if answer.is_message:
        return decode_status(answer.body)[:_SHOWN]
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        return ""
    return " ".join(answer.body.decode(errors="replace").split())[:_SHOWN]
