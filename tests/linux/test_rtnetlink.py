import errno
import select
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.namespaces import Namespace
from support.shortage import no_descriptors

from hogpipe.linux.netlink_messages import parse_messages
from hogpipe.linux.rtnetlink import LinkMonitor, LinkTable, read_link_table


def links_of(table: LinkTable) -> dict[str, object]:
    return {link.name: link for link in table.links}


def test_a_veth_and_its_addresses_are_read(veth: tuple[Namespace, Namespace]) -> None:
    left, _right = veth
    table = left.call(read_link_table)
    by_name = {link.name: link for link in table.links}
    assert by_name["lo"].loopback
    assert by_name["lo"].up
    assert by_name["left"].kind == "veth"
    assert by_name["left"].up
    found = {
        entry.address: entry.prefix_length
        for entry in table.addresses
        if entry.link == by_name["left"].index
    }
    assert found[socket.inet_aton("10.77.0.1")] == 24
    assert found[socket.inet_pton(socket.AF_INET6, "fd77::1")] == 64


def test_a_veth_is_not_stacked_on_its_peer(netns: Namespace) -> None:
    netns.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    by_name = {link.name: link for link in netns.call(read_link_table).links}
    assert by_name["one"].lower is None
    assert by_name["two"].lower is None


def test_each_end_of_a_veth_names_the_other_while_both_are_in_one_namespace(
    netns: Namespace, veth: tuple[Namespace, Namespace]
) -> None:
    netns.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    by_name = {link.name: link for link in netns.call(read_link_table).links}
    assert by_name["one"].peer == by_name["two"].index
    assert by_name["two"].peer == by_name["one"].index
    assert by_name["one"].peer_netns is None
    assert by_name["lo"].peer is None
    left, _right = veth
    apart = {link.name: link for link in left.call(read_link_table).links}["left"]
    assert apart.peer is None
    assert apart.peer_netns is not None


def test_an_end_of_a_veth_has_the_nsid_of_its_peers_namespace(
    netns: Namespace, veth: tuple[Namespace, Namespace]
) -> None:
    left, _right = veth
    netns.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    netns.ip("netns", "set", left.name, "7")
    netns.ip("link", "set", "two", "netns", left.name)
    by_name = {link.name: link for link in netns.call(read_link_table).links}
    assert (by_name["one"].peer, by_name["one"].peer_netns) == (None, 7)


def test_a_bridge_port_names_its_master_and_a_macvlan_its_lower_link(netns: Namespace) -> None:
    netns.ip("link", "add", "br0", "type", "bridge")
    netns.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    netns.ip("link", "set", "one", "master", "br0")
    netns.ip("link", "add", "link", "two", "name", "upon", "type", "macvlan")
    by_name = {link.name: link for link in netns.call(read_link_table).links}
    assert by_name["one"].master == by_name["br0"].index
    assert by_name["upon"].lower == by_name["two"].index


def test_on_a_point_to_point_link_the_address_is_the_local_one(
    netns: Namespace,
) -> None:
    netns.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    netns.ip("address", "add", "10.1.1.1", "peer", "10.1.1.2", "dev", "one")
    table = netns.call(read_link_table)
    addresses = {entry.address for entry in table.addresses}
    assert socket.inet_aton("10.1.1.1") in addresses
    assert socket.inet_aton("10.1.1.2") not in addresses


@pytest.fixture
def monitor(netns: Namespace) -> Iterator[LinkMonitor]:
    made = netns.call(LinkMonitor)
    yield made
    made.close()


def test_every_address_change_makes_the_monitor_readable(
    netns: Namespace, monitor: LinkMonitor
) -> None:
    for verb in ("add", "delete"):
        netns.ip("address", verb, "10.9.9.9/32", "dev", "lo")
        assert select.select([monitor], [], [], 10)[0]
        monitor.drain()
        assert not select.select([monitor], [], [], 0)[0]


def test_a_monitor_continues_after_lost_notifications(
    netns: Namespace, monitor: LinkMonitor
) -> None:
    lines = [f"address {verb} 10.9.9.9/32 dev lo" for verb in ("add", "delete")] * 1500
    netns.batch(*lines)
    monitor.drain()  # does not raise, although the kernel reports ENOBUFS
    netns.ip("address", "add", "10.9.9.9/32", "dev", "lo")
    assert select.select([monitor], [], [], 10)[0]
    monitor.drain()
    assert not select.select([monitor], [], [], 0)[0]


def test_a_monitor_reads_without_opening_further_sockets(
    netns: Namespace, monitor: LinkMonitor
) -> None:
    netns.ip("link", "add", "late0", "type", "veth", "peer", "name", "other")
    with no_descriptors():
        assert set(links_of(monitor.read_table())) == {"lo", "late0", "other"}


def test_a_table_is_correct_after_an_incomplete_dump(monitor: LinkMonitor) -> None:
    whole = monitor.read_table()
    monitor._requests.send(struct.pack("=IHHII4x", 20, 18, 0x301, 1, 0))  # a dump that is not read
    assert monitor.read_table() == whole


def test_a_refusal_raises_the_kernels_errno(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe.linux.rtnetlink._RTM_GETLINK", 9999)
    with pytest.raises(OSError, match="Operation not supported") as raised:
        netns.call(read_link_table)
    assert raised.value.errno == errno.EOPNOTSUPP


@given(st.binary(max_size=200))
def test_any_bytes_parse_without_an_error(data: bytes) -> None:
    for _kind, payload in parse_messages(data):
        assert len(payload) <= len(data)


def test_a_tunnel_over_udp_has_the_port_at_which_it_receives(netns: Namespace) -> None:
    netns.ip("link", "add", "vx", "type", "vxlan", "id", "5", "dstport", "4789", "dev", "lo")
    found = {link.name: link.tunnel_port for link in netns.call(read_link_table).links}
    assert (found["vx"], found["lo"]) == (4789, None)
