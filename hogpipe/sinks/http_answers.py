"""PURE: the answer of an HTTP server, and what of it is the same for every receiver.

In: a status, headers and a body, or the part of it that was read. Out: the text of an error in one
line, and the wait that the server asks for. Nothing here fails: headers and bodies are untrusted.
What an answer means for the records of a request is the decision of the sink.
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

LONGEST_WAIT = 300.0
"""The bound in seconds for Retry-After."""

_SHOWN = 200  # characters of a server's own text
_WAITING = (408, 425, 429)  # beside 5xx: the answers for which Retry-After counts


class HttpAnswer(NamedTuple):
    """An HTTP response; `headers` ignores the case of names."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True
    """Whether `body` is the whole body; the rest of a long one is not read."""

    @property
    def accepted(self) -> bool:
        """Whether the status is success."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """The type of the body without parameters, in lower case; empty if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        """The body in one line, shortened; empty for a page, which a proxy may have sent."""
        start = self.body[: 4 * _SHOWN].decode(errors="replace")
        if self.media_type == "text/html" or start.lstrip()[:1] == "<":
            return ""
        return " ".join(start.split())[:_SHOWN]


def describe_answer(answer: HttpAnswer, place: str, reason: str | None = None) -> str:
    """Return one line: who answers with which status, and why.

    `reason` is what the sink has read in the body; None stands for the text of the body.
    """
    text = f"{place} answers {answer.status} {_name_status(answer.status)}".rstrip()
    reason = answer.text if reason is None else reason[:_SHOWN]
    return f"{text}: {reason}" if reason else text


def describe_redirect(answer: HttpAnswer) -> str:
    """Return the target of a redirect, without its query, which may hold a secret."""
    return answer.headers.get("Location", "elsewhere").partition("?")[0][:_SHOWN]


def parse_retry_after(answer: HttpAnswer, now: datetime) -> float:
    """Return the seconds after which the server allows a retry (RFC 9110 section 10.2.3).

    0 without a valid Retry-After, at most `LONGEST_WAIT`.
    """
    value = answer.headers.get("Retry-After", "").strip()
    if not value or not (answer.status in _WAITING or answer.status >= 500):
        return 0.0
    if value.isascii() and value.isdecimal():
        return min(float(value[:10]), LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one without a time zone
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _name_status(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
