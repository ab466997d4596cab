"""Endpoints, and the order in which a sink tries them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.sinks.tcp.endpoints import Endpoint, EndpointOrder, make_endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("collector:6514", "collector", 6514),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:6514", "fe80::1%eth0", 6514),
        ("bücher.example:6514", "bücher.example", 6514),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_endpoint(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:", ":1", "a:0", "a:65536", "a:99999999", "a:x", "a:-1", "a:²", "::1", "::1:1",
     "[]:1", "[::1]", "a..b:1", "a" * 64 + ":1", "a\0b:1", "a b:1", "http://a:1", "u:p@a:1",
     "[a:1]:1", "a:1:1"],
)  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["::1", "::1:1", "2001:db8::7:6514", "fe80::1%eth0:1"])
def test_the_error_of_an_ipv6_address_without_brackets_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="an IPv6 address needs brackets"):
        parse_endpoint(text)


@pytest.mark.parametrize("host", ["a:5170", "http://a", "a b", "user@a"])
def test_a_host_has_neither_a_port_nor_a_scheme(host: str) -> None:
    with pytest.raises(ValueError, match="no name or address"):
        make_endpoint(host, 1)


@given(st.text())
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert 1 <= endpoint.port <= 65535
    assert endpoint.host


def test_brackets_are_no_part_of_a_host() -> None:
    assert make_endpoint("[::1]", 1) == make_endpoint("::1", 1)
    assert str(make_endpoint("::1", 1)) == "[::1] port 1"


def test_the_order_of_the_configuration_is_the_order_of_preference() -> None:
    order = EndpointOrder(3)
    assert order.all() == [0, 1, 2]
    assert order.better_than(2) == [0, 1]
    assert order.better_than(0) == []


def test_a_broken_endpoint_comes_last_until_a_window_is_delivered() -> None:
    order = EndpointOrder(3)
    order.mark_broken(0)
    assert order.all() == [1, 2, 0]
    order.mark_broken(1)
    assert order.all() == [2, 0, 1]
    order.mark_delivered()
    assert order.all() == [0, 1, 2]


@given(count=st.integers(1, 6))
def test_each_endpoint_is_tried_even_if_all_break(count: int) -> None:
    order = EndpointOrder(count)
    tried = []
    for _ in range(2 * count):
        first = order.all()[0]
        tried.append(first)
        order.mark_broken(first)
        assert sorted(order.all()) == list(range(count))
    assert tried == [*range(count), *range(count)]
