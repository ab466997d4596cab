"""The address of a sink that others connect to, and the errors of listening there."""

import errno
import os

import pytest

from hogpipe.errors import ConfigurationError, DeliveryError, HogpipeError, InUseError
from hogpipe.sinks.listening import explain_listen_error, parse_listen


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        ("127.0.0.1:9750", ("127.0.0.1", 9750)),
        ("[::1]:1", ("::1", 1)),
        ("monitor.example:80", ("monitor.example", 80)),
    ],
)
def test_an_address_has_a_host_and_a_port(listen: str, found: tuple[str, int]) -> None:
    assert parse_listen(listen, 9750) == found


@pytest.mark.parametrize(
    "listen",
    ["", "9750", "host", ":9750", "host:0", "host:65536", "a@b:1", "h:1/x", "::1:1", "..:1"],
)
def test_an_example_is_in_the_error_for_what_is_no_address(listen: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT, such as 127\.0\.0\.1:7 or \[::1\]:7"):
        parse_listen(listen, 7)


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.EADDRINUSE, InUseError, "listen h:1: something else listens there"),
        (errno.EACCES, ConfigurationError, "listen h:1: ports below 1024 need CAP_NET_BIND_SER"),
        (errno.EADDRNOTAVAIL, DeliveryError, "cannot listen at h:1: Cannot assign requested"),
    ],
)
def test_an_error_says_whether_to_retry(number: int, kind: type[HogpipeError], text: str) -> None:
    error = explain_listen_error(OSError(number, os.strerror(number)), "h:1")
    assert type(error) is kind
    assert str(error).startswith(text)
