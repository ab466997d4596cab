import pytest
from hogpipe_otlp.answers import TooLargeError, explain

from hogpipe import DeliveryError, HttpAnswer, RefusedError


def answer(status: int, body: bytes = b"", **headers: str) -> HttpAnswer:
    return HttpAnswer(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, body
    )


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_answers_that_otlp_calls_retryable_are_retried(status: int) -> None:
    assert isinstance(explain(answer(status), "c:1"), DeliveryError)


@pytest.mark.parametrize("status", [400, 415, 422, 500, 501, 505, 599])
def test_other_answers_are_refusals(status: int) -> None:
    error = explain(answer(status), "c:1")
    assert isinstance(error, RefusedError)
    assert not isinstance(error, TooLargeError)


def test_an_answer_to_a_large_request_has_an_error_of_its_own() -> None:
    assert isinstance(explain(answer(413), "c:1"), TooLargeError)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "c:1 answers 401 Unauthorized; set the credentials that it wants in `headers`"),
        (403, "c:1 answers 403 Forbidden; set the credentials that it wants in `headers`"),
        (404, "c:1 answers 404 Not Found; see the path of `endpoint`, mostly /v1/metrics"),
    ],
)
def test_answers_whose_cause_is_not_the_data_are_retried(status: int, text: str) -> None:
    error = explain(answer(status), "c:1")
    assert isinstance(error, DeliveryError)
    assert str(error) == text


def test_the_error_of_a_redirect_names_the_target() -> None:
    error = explain(answer(308, Location="https://other/v1/metrics?key=sesame"), "c:1")
    assert isinstance(error, DeliveryError)
    assert str(error).endswith("; set `endpoint` to where it leads: https://other/v1/metrics")


def test_the_text_of_the_collector_is_shortened_to_one_line() -> None:
    status = b"\x08\x03\x12\x09bad point"  # google.rpc.Status
    found = answer(400, status, Content_Type="application/x-protobuf")
    assert str(explain(found, "c:1")) == "c:1 answers 400 Bad Request: bad point"
    plain = answer(400, b"no\n  such\ttenant\xff" + b"x" * 1000, Content_Type="text/plain")
    text = str(explain(plain, "c:1"))
    assert text.startswith("c:1 answers 400 Bad Request: no such tenant\ufffdxxx")
    assert len(text) < 240
    page = answer(502, b"<html>", Content_Type="text/html")
    assert str(explain(page, "c:1")) == "c:1 answers 502 Bad Gateway"
