"""PURE: the meaning of a collector's answer (OTLP/HTTP, "Failures", "Retryable Response Codes").

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from http import HTTPStatus

from hogpipe import (
    DeliveryError,
    HogpipeError,
    HttpAnswer,
    RefusedError,
    describe_answer,
    describe_redirect,
)
from hogpipe_otlp.messages import decode_status

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


def is_message(answer: HttpAnswer) -> bool:
    """Return whether the body is a protobuf message."""
    return answer.media_type == _PROTOBUF


def explain(answer: HttpAnswer, place: str) -> HogpipeError:
    """Return the error for an answer other than success."""
    reason = decode_status(answer.body) if is_message(answer) else None
    text = describe_answer(answer, place, reason)
    if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLargeError(text)
    if answer.status in _RETRYABLE:
        return DeliveryError(text)
    if 300 <= answer.status < 400:
        target = describe_redirect(answer)
        return DeliveryError(f"{text}; set `endpoint` to where it leads: {target}")
    if hint := _HINTS.get(answer.status):
        return DeliveryError(f"{text}; {hint}")
    return RefusedError(text)
