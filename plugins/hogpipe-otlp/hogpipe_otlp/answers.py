"""PURE: the meaning of a collector's answer (OTLP/HTTP, "Failures", "Retryable Response Codes").

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
"""The bound in seconds for a collector's Retry-After."""

_SHOWN = 200  # characters of a collector's own text
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
"""Answers whose cause is not the data and can be fixed, so the records are retried."""


class TooLargeError(RefusedError):
    """The collector accepts only smaller requests."""


class Answer(NamedTuple):
    """An HTTP response; the names of `headers` may have any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def accepted(self) -> bool:
        """Whether the request was accepted, at least in part."""
        return 200 <= self.status < 300

    @property
    def is_message(self) -> bool:
        """Whether the body is a protobuf message."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip() == _PROTOBUF


def explain(answer: Answer, place: str) -> HogpipeError:
    """Return the error for an answer other than success."""
    text = f"{place} answers {answer.status} {_phrase(answer.status)}"
    if reason := _reason(answer):
        text += f": {reason}"
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLargeError(text)
    if answer.status in _RETRYABLE:
        return DeliveryError(text)
    if 300 <= answer.status < 400:
        # The query may be that of the endpoint, which may hold a secret.
        target = answer.headers.get("Location", "elsewhere").partition("?")[0][:_SHOWN]
        return DeliveryError(f"{text}; set `endpoint` to where it leads: {target}")
    if hint := _HINTS.get(answer.status):
        return DeliveryError(f"{text}; {hint}")
    return RefusedError(text)


def parse_retry_after(answer: Answer, now: datetime) -> float:
    """Return the seconds after which the collector allows a retry (RFC 9110 section 10.2.3).

    0 without a valid Retry-After.
    """
    value = answer.headers.get("Retry-After", "").strip()
    if answer.status not in _RETRYABLE or not value:
        return 0.0
    if value.isdecimal():
        return min(float(value[:10]), LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _reason(answer: Answer) -> str:
    """Return the collector's own text, if it sends plain text."""
    if answer.is_message:
        return decode_status(answer.body)[:_SHOWN]
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        return ""
    return " ".join(answer.body.decode(errors="replace").split())[:_SHOWN]
