"""URLs and headers of sinks that send over HTTP."""

import pytest

from hogpipe.sinks.http_addresses import (
    extend_url,
    find_header_problems,
    find_url_problem,
    name_place,
)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://localhost/x?key=sesame", "localhost:80"),
        ("https://es.example", "es.example:443"),
        ("http://[::1]:9200/", "[::1]:9200"),
    ],
)
def test_the_place_of_a_url_is_host_and_port(url: str, place: str) -> None:
    assert name_place(url) == place
    assert find_url_problem(url) is None


@pytest.mark.parametrize(
    "url", ["", "x:1", "ftp://x/", "http://", "http://x:99999/", "http://a b/", "http://x\n/"]
)
def test_what_is_no_url_is_a_problem(url: str) -> None:
    assert "http://" in str(find_url_problem(url))


def test_a_url_with_a_password_is_a_problem_that_does_not_name_it() -> None:
    text = find_url_problem("http://user:sesame@x/")
    assert text
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("url", "extended"),
    [
        ("http://x", "http://x/_bulk?a=b+c"),
        ("http://x/", "http://x/_bulk?a=b+c"),
        ("http://x/es/?key=1", "http://x/es/_bulk?key=1&a=b+c"),
    ],
)
def test_a_url_gets_a_further_path_and_query(url: str, extended: str) -> None:
    assert extend_url(url, "/_bulk", {"a": "b c"}) == extended


def test_a_url_alone_stays_the_same() -> None:
    assert extend_url("https://x/a/b/?c=d") == "https://x/a/b/?c=d"


def test_headers_that_cannot_be_sent_are_problems_without_their_values() -> None:
    headers = {"x-ok": "fine", "no good": "1", "x": "sesame\nx", "Host": "y", "authorization": "z"}
    problems = list(find_header_problems(headers, {"authorization"}))
    assert [problem.key_path[1] for problem in problems] == [
        "no good",
        "x",
        "Host",
        "authorization",
    ]
    assert "sesame" not in str(problems)
