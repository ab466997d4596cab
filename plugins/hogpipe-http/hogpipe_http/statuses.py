"""PURE: what the status of an answer means, with every preset.

2xx                                   accepted: the preset reads the body
3xx, 401, 403, 404, 405, 407          sent again: the cause is not in the data and can be fixed
408, 425, 429, 5xx, anything below 200  sent again
413                                   too large
any other 4xx                         refused
"""

from http import HTTPStatus

from hogpipe import HttpAnswer, describe_answer, describe_redirect
from hogpipe_http.exchange import Outcome, Verdict

LONGEST_ANSWER = 1 << 16

_CREDENTIALS = "set `token`, or `user` and `password`, to what it wants"
_PATH = "see the path of `url`, and what the preset appends to it"
_HINTS = {
    401: _CREDENTIALS,
    403: f"{_CREDENTIALS}, or permit this user to write",
    404: _PATH,
    405: _PATH,
    407: "a proxy wants credentials",
    408: "",
    425: "",
    429: "",
}
"""Answers whose cause is not the data, with the remedy."""


def judge_status(answer: HttpAnswer, place: str, reason: str | None = None) -> Verdict | None:
    """Return the verdict for an answer other than success, None for success.

    `reason` is what the preset has read in the body; None stands for the text of the body.
    """
    status = answer.status
    if answer.accepted:
        return None
    text = describe_answer(answer, place, reason)
    if 300 <= status < 400:
        text += "; redirects are not followed, set `url` to where it leads: "
        return Verdict(Outcome.UNDELIVERED, text + describe_redirect(answer))
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Verdict(Outcome.TOO_LARGE, f"{text}; lower `max_mib`")
    hint = _HINTS.get(status)
    if hint is not None or not 400 <= status < 500:
        return Verdict(Outcome.UNDELIVERED, f"{text}; {hint}" if hint else text)
    return Verdict(Outcome.REFUSED, text)


def misunderstand(answer: HttpAnswer, place: str, expected: str) -> Verdict:
    """Return the verdict for an answer that has success as its status, and is not the receiver's.

    A proxy or a portal may answer so for a receiver that has seen nothing.
    """
    found = answer.media_type or "a body without a type"
    text = f"{place} answers {answer.status} with {found} instead of {expected}"
    return Verdict(Outcome.UNDELIVERED, f"{text}: is this a proxy, or another server?")
