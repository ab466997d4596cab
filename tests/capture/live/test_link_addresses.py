import socket

import pytest

from hogpipe.capture.live.link_addresses import LinkAddresses
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.linux.procfs_addresses import parse_local_addresses
from hogpipe.linux.rtnetlink import Address, Link, LinkTable


def v4(text: str) -> bytes:
    return socket.inet_aton(text)


def v6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


LO = Link(1, "lo", up=True, loopback=True, hardware=772)
ETH0 = Link(2, "eth0", up=True, loopback=False, hardware=1, master=4)
ETH1 = Link(3, "eth1", up=True, loopback=False, hardware=1)
BOND0 = Link(4, "bond0", up=True, loopback=False, hardware=1)
TABLE = LinkTable(
    (LO, ETH0, ETH1, BOND0),
    (
        Address(1, v4("127.0.0.1"), 8),
        Address(1, v6("::1"), 128),
        Address(3, v4("192.0.2.7"), 24, v4("192.0.2.255")),
        Address(3, v6("fe80::1"), 64),
        Address(4, v6("fe80::4"), 64),
        Address(4, v6("2001:db8::4"), 64),
    ),
)
HOST = LinkAddresses(TABLE)


def test_an_address_of_any_interface_is_local_on_each() -> None:
    local = HOST.seen_by(ETH0)
    assert local.is_own(v4("192.0.2.7"))
    assert local.is_own(v6("2001:db8::4"))
    assert not local.is_own(v4("192.0.2.8"))


def test_the_whole_prefix_of_a_loopback_address_is_local() -> None:
    local = HOST.seen_by(LO)
    assert local.loopback
    assert local.is_own(v4("127.9.9.9"))
    assert not local.is_own(v4("128.0.0.1"))


def test_a_link_local_address_is_local_only_on_its_own_link() -> None:
    assert HOST.seen_by(ETH1).is_own(v6("fe80::1"))
    assert not HOST.seen_by(ETH0).is_own(v6("fe80::1"))
    assert HOST.seen_by(None).is_own(v6("fe80::1"))


def test_a_port_of_a_bond_has_the_link_local_address_of_the_bond() -> None:
    assert HOST.seen_by(ETH0).is_own(v6("fe80::4"))
    assert not HOST.seen_by(ETH1).is_own(v6("fe80::4"))


def test_multicast_and_broadcast_addresses_are_groups() -> None:
    local = HOST.seen_by(ETH1)
    for address in (v4("224.0.0.251"), v4("255.255.255.255"), v4("192.0.2.255"), v6("ff02::fb")):
        assert local.is_group(address)
    for address in (v4("192.0.2.254"), v4("240.0.0.1"), v6("fe80::1")):
        assert not local.is_group(address)


FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     |-- 192.0.2.7
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000004 04 40 00 80    bond0
"""


def test_a_recorded_proc_has_the_addresses_of_its_host() -> None:
    local = LocalAddresses.from_procfs(parse_local_addresses(FIB_TRIE, IF_INET6))
    for address in (v4("192.0.2.7"), v4("127.9.9.9"), v6("::1"), v6("2001:db8::4")):
        assert local.is_own(address)
    assert local.is_group(v4("192.0.2.255"))
    assert not local.is_own(v4("192.0.2.8"))


def test_malformed_rows_of_a_recorded_proc_are_skipped() -> None:
    local = parse_local_addresses(
        "|-- nonsense\n /32 host LOCAL\n |-- 1.2.3.4\n /99 x LOCAL", "zz\n\n0"
    )
    assert not local.prefixes
    assert not local.addresses


def test_the_last_address_of_a_prefix_is_a_broadcast_even_where_none_is_configured() -> None:
    table = LinkTable((ETH0,), (Address(2, v4("10.9.0.1"), 24),))
    local = LinkAddresses(table).seen_by(ETH0)
    assert local.is_group(v4("10.9.0.255"))
    assert not local.is_group(v4("10.9.0.254"))


@pytest.mark.parametrize("length", [31, 32])
def test_a_prefix_of_two_addresses_or_one_has_no_broadcast(length: int) -> None:
    table = LinkTable((ETH0,), (Address(2, v4("10.9.0.1"), length),))
    assert not LinkAddresses(table).seen_by(ETH0).is_group(v4("10.9.0.1"))
