"""Named networks: which one an address is in, and what is refused."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.model import BUILT_IN_NETWORKS, Networks, make_networks
from hogpipe.model.networks import (
    MAX_NETWORKS,
    MAX_PREFIXES,
    find_network_problems,
    parse_prefix,
)

NAMES = ["zone-a", "zone-b", "private", "internet"]


def find(text: str, configured: Mapping[str, Sequence[str]] | None = None) -> str:
    networks = make_networks(configured or {})
    address = ip_address(text).packed
    assert find_in_columns(networks, [address]) == [networks.find(address)]
    return networks.find(address)


def find_in_columns(networks: Networks, addresses: Sequence[bytes]) -> list[str]:
    sizes = np.array([len(one) for one in addresses], np.uint8)
    packed = b"".join(one.ljust(16, b"\0") for one in addresses)
    words = np.frombuffer(packed, np.uint64).reshape(-1, 2)
    return [networks.names[number] for number in NetworkColumns(networks).find(sizes, words)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.53", "loopback"),
        ("::1", "loopback"),
        ("::2", "internet"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("0.0.0.0", "link-local"),
        ("::", "link-local"),
        ("255.255.255.255", "link-local"),
        ("255.255.255.254", "internet"),
        ("10.255.255.255", "private"),
        ("11.0.0.0", "internet"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "internet"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fdff::1", "private"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("8.8.8.8", "internet"),
        ("2001:db8::1", "internet"),
    ],
)
def test_each_address_is_in_one_of_the_built_in_networks(text: str, name: str) -> None:
    assert find(text) == name


def test_the_longest_prefix_wins_in_any_order() -> None:
    wide, narrow = {"internal": ["10.0.0.0/8"]}, {"zone-b": ["10.9.0.0/16", "10.1.2.3"]}
    for configured in ({**wide, **narrow}, {**narrow, **wide}):
        assert find("10.1.2.3", configured) == "zone-b"
        assert find("10.1.2.4", configured) == "internal"
        assert find("10.9.255.255", configured) == "zone-b"
        assert find("10.10.0.0", configured) == "internal"
        assert find("172.16.0.1", configured) == "private"


def test_a_built_in_prefix_can_be_given_to_another_name_and_a_built_in_name_extended() -> None:
    configured = {"office": ["0.0.0.0/0"], "private": ["203.0.113.0/24"]}
    assert find("8.8.8.8", configured) == "office"
    assert find("2001:db8::1", configured) == "internet"
    assert find("203.0.113.9", configured) == "private"
    assert find("10.0.0.1", configured) == "private"
    assert find("100.64.0.1", {"internet": ["100.64.0.0/10"]}) == "internet"


def test_a_v4_mapped_prefix_is_one_of_ipv4() -> None:
    assert parse_prefix("::ffff:10.0.0.0/104") == parse_prefix("10.0.0.0/8")
    assert find("10.1.1.1", {"mapped": ["::ffff:10.0.0.0/104"]}) == "mapped"
    assert find("::ffff:10.1.1.1", {"mapped": ["10.0.0.0/8"]}) == "internet"


def test_what_has_no_address_has_no_network() -> None:
    assert find_in_columns(BUILT_IN_NETWORKS, [b"", b"\x0a\0\0\1"]) == ["", "private"]


def make_prefix(size: int, value: int, length: int) -> str:
    length = min(length, 8 * size)
    address = ip_address((value % (1 << 8 * size)).to_bytes(size))
    return str(ip_network((address, length), strict=False))


# Few distinct high bits, so that prefixes contain one another.
values = st.builds(
    lambda high, low: high << 120 | high << 24 | low, st.integers(0, 3), st.integers(0, 3)
)
prefixes = st.builds(make_prefix, st.sampled_from([4, 16]), values, st.integers(0, 128))
addresses = st.builds(
    lambda size, value: (value % (1 << 8 * size)).to_bytes(size), st.sampled_from([4, 16]), values
)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.lists(prefixes, max_size=4)),
    st.lists(addresses, max_size=8),
)
def test_columns_have_the_network_of_each_address(
    configured: dict[str, list[str]], found: list[bytes]
) -> None:
    """Also where one prefix has two names, which is refused before: then the last one counts."""
    networks = make_networks(configured)
    assert find_in_columns(networks, found) == [networks.find(one) for one in found]
    assert "" not in [networks.find(one) for one in found]


def test_contradictions_and_what_is_no_prefix_are_problems_of_their_place() -> None:
    taken = "the prefix is already that of a[0]"
    no_prefix = "not an address or a prefix, as 10.0.0.0/8 or 2001:db8::/32"
    host_bits = "10.1.2.3/8 is an address within 10.0.0.0/8: write 10.0.0.0/8, or 10.1.2.3 alone"
    no_name = "a name is a letter or digit, then up to 62 of these, '.', '_' and '-'"
    configured = {
        "a": ["10.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"],
        "b": [
            "10.1.2.3/8",
            "::ffff:10.0.0.0/104",
            "web1",
            "10.0.0.0/33",
            "10.0.0.0/9",
            "fe80::1%lo",
        ],
        "c d": [],
        "\x1b[31m": ["192.0.2.1"],
        "-d": [],
        "x" * 63: [],
        "x" * 64: [],
    }
    assert list(find_network_problems(configured)) == [
        (("a", 1), taken),
        (("b", 0), host_bits),
        (("b", 1), taken),
        (("b", 2), no_prefix),
        (("b", 3), no_prefix),
        (("b", 5), f"{no_prefix}, and without a zone (%)"),
        (("c d",), no_name),
        (("\x1b[31m",), no_name),
        (("-d",), no_name),
        (("x" * 64,), no_name),
    ]


def test_names_and_prefixes_are_bounded() -> None:
    names: dict[str, list[str]] = {f"zone-{at}": [] for at in range(MAX_NETWORKS + 1)}
    assert [at for at, _ in find_network_problems(names)] == [()]
    prefixes = [f"{at >> 8 & 255}.{at & 255}.0.0/16" for at in range(MAX_PREFIXES + 1)]
    assert list(find_network_problems({"a": prefixes})) == [
        ((), f"at most {MAX_PREFIXES} prefixes")
    ]
