"""What every answer of an HTTP server says, and the wait that it asks for."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.sinks.http_answers import (
    LONGEST_WAIT,
    HttpAnswer,
    describe_answer,
    describe_redirect,
    parse_retry_after,
)

NOW = datetime(2026, 11, 22, 7, 0, 0, tzinfo=UTC)


def answer(status: int, body: bytes = b"", **headers: str) -> HttpAnswer:
    names = {name: name.replace("_", "-") for name in headers}
    return HttpAnswer(status, {names[name]: text for name, text in headers.items()}, body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("Sun, 22 Nov 2026 07:00:30 GMT", 30),
        ("Sun, 22 Nov 2026 06:00:00 GMT", 0),
        ("99999999999999999999999", LONGEST_WAIT),
        ("Sun, 22 Nov 2099 07:00:30 GMT", LONGEST_WAIT),
        ("-1", 0),
        ("soon", 0),
        ("", 0),
        ("1e9", 0),
        ("\u0663", 0),
        ("Sun, 22 Nov 2026 07:00:30", 0),
    ],
)
def test_retry_after_is_bounded(value: str, seconds: float) -> None:
    assert parse_retry_after(answer(503, Retry_After=value), NOW) == seconds


@pytest.mark.parametrize(("status", "seconds"), [(408, 7), (429, 7), (500, 7), (400, 0), (200, 0)])
def test_only_an_answer_that_can_be_retried_has_a_wait(status: int, seconds: float) -> None:
    assert parse_retry_after(answer(status, Retry_After="7"), NOW) == seconds
    assert parse_retry_after(answer(status), NOW) == 0


def test_an_error_has_the_text_of_the_server_in_one_short_line() -> None:
    plain = answer(400, b"no\n  such\ttenant\xff" + b"x" * 1000, Content_Type="text/plain")
    text = describe_answer(plain, "c:1")
    assert text.startswith("c:1 answers 400 Bad Request: no such tenant\ufffdxxx")
    assert len(text) < 240
    assert describe_answer(plain, "c:1", "why") == "c:1 answers 400 Bad Request: why"
    assert describe_answer(answer(599), "c:1") == "c:1 answers 599"


@pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "TEXT/HTML", "text/plain"])
def test_an_error_has_nothing_of_a_page(media_type: str) -> None:
    page = answer(502, b"\n <html>busy</html>", Content_Type=media_type)
    assert describe_answer(page, "c:1") == "c:1 answers 502 Bad Gateway"


def test_the_target_of_a_redirect_has_no_query() -> None:
    assert describe_redirect(answer(307, Location="https://x/y?key=sesame")) == "https://x/y"
    assert describe_redirect(answer(307)) == "elsewhere"


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=40), st.text(max_size=40))
def test_any_answer_gives_one_line(status: int, body: bytes, media_type: str, wait: str) -> None:
    found = answer(status, body, Content_Type=media_type, Retry_After=wait)
    assert len(describe_answer(found, "c:1").splitlines()) == 1
    assert 0 <= parse_retry_after(found, NOW) <= LONGEST_WAIT
