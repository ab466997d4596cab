"""Which links are selected.

A path in these tests names the links on which the kernel shows a packet to a capture.
"""

from collections.abc import Iterable

import pytest

from hogpipe.capture.live.link_selection import (
    Selection,
    choose_transmitting,
    find_unmatched,
    select_links,
    selects_new_links,
)
from hogpipe.capture.live.link_topology import LinkStack
from hogpipe.linux.rtnetlink import Link

LO = Link(1, "lo", up=True, loopback=True, hardware=772)
ETH0 = Link(2, "eth0", up=True, loopback=False, hardware=1)
ETH1 = Link(3, "eth1", up=False, loopback=False, hardware=1)


def names(found: Iterable[Selection]) -> list[str]:
    return [selection.link.name for selection in found]


def link(
    index: int,
    name: str,
    kind: str | None = None,
    *,
    up: bool = True,
    master: int | None = None,
    lower: int | None = None,
    peer: int | None = None,
    peer_netns: int | None = None,
    hardware: int = 1,
) -> Link:
    return Link(
        index=index, name=name, up=up, loopback=False, hardware=hardware, kind=kind,
        master=master, lower=lower, peer=peer, peer_netns=peer_netns,
    )  # fmt: skip


def auto(*links: Link) -> list[str]:
    return names(select_links(["auto"], links))


def counted_on(links: Iterable[Link], path: str) -> list[str]:
    """Return the links on which "auto" counts, for this host, a packet with this path."""
    found = select_links(["auto"], list(links))
    return [
        one.link.name
        for one in found
        if one.link.name in path.split() and not one.is_container_port
    ]


def test_auto_takes_what_is_up_and_leaves_the_loopback() -> None:
    assert auto(LO, ETH0, ETH1) == ["eth0"]


BRIDGE = link(9, "br0", "bridge")


def test_auto_takes_a_bridge_in_place_of_its_ports() -> None:
    links = (link(4, "a", master=9), link(5, "b", master=9), BRIDGE)
    assert auto(*links) == ["br0"]
    # A broadcast of this host leaves through every port.
    assert counted_on(links, "br0 a b") == ["br0"]


def test_auto_takes_the_port_of_a_bridge_that_is_down() -> None:
    assert auto(link(4, "a", master=9), link(9, "br0", "bridge", up=False)) == ["a"]


def test_auto_takes_a_bridge_whose_ports_are_all_down() -> None:
    assert auto(BRIDGE, link(4, "a", master=9, up=False)) == ["br0"]


@pytest.mark.parametrize("kind", ["bond", "team", None])
def test_auto_takes_a_bond_in_place_of_its_ports_and_of_the_vlans_upon_it(
    kind: str | None,
) -> None:
    links = (
        link(4, "a", master=8),
        link(5, "b", master=8),
        link(8, "bond0", kind),
        link(9, "bond0.7", "vlan", lower=8),
    )
    assert auto(*links) == ["bond0"]
    assert counted_on(links, "a bond0 bond0.7") == ["bond0"]


def test_auto_takes_a_bridge_upon_a_bond_and_a_vlan_of_that_bond_beside_it() -> None:
    links = (
        link(4, "a", master=8),
        link(8, "bond0", "bond", master=9),
        BRIDGE,
        link(10, "bond0.7", "vlan", lower=8),
    )
    assert counted_on(links, "a bond0 br0") == ["br0"]
    assert counted_on(links, "a bond0 bond0.7") == ["bond0.7"]


@pytest.mark.parametrize("kind", ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"])
def test_auto_takes_a_link_in_place_of_what_shows_its_packets_upon_it(kind: str) -> None:
    assert auto(ETH0, link(4, "upon", kind, lower=2)) == ["eth0"]
    down = link(2, "eth0", up=False)
    assert auto(down, link(4, "upon", kind, lower=2)) == ["upon"]


def test_auto_takes_the_trunk_and_not_a_bridge_upon_one_of_its_vlans() -> None:
    links = (ETH0, link(4, "eth0.7", "vlan", lower=2, master=9), BRIDGE)
    assert counted_on(links, "eth0 eth0.7 br0") == ["eth0"]
    assert counted_on(links, "eth0") == ["eth0"]


@pytest.mark.parametrize(
    "kind", ["vxlan", "gre", "gretap", "ipip", "sit", "ip6tnl", "vti", "xfrm", "macsec", "dsa"]
)
def test_auto_takes_a_tunnel_for_what_is_inside_and_its_carrier_for_what_is_around(
    kind: str,
) -> None:
    links = (ETH0, link(4, "tunnel", kind, lower=2))
    assert counted_on(links, "tunnel") == ["tunnel"]
    assert counted_on(links, "eth0") == ["eth0"]


def test_auto_takes_a_tunnel_that_is_bound_to_no_link() -> None:
    assert auto(ETH0, link(4, "wg0", "wireguard", hardware=65534)) == ["eth0", "wg0"]


def test_auto_takes_a_bridge_in_place_of_a_tunnel_that_is_its_port() -> None:
    links = (ETH0, link(4, "vxlan7", "vxlan", lower=2, master=9), BRIDGE)
    assert counted_on(links, "br0 vxlan7") == ["br0"]
    assert counted_on(links, "eth0") == ["eth0"]


def test_auto_takes_one_end_of_a_veth_that_has_both_here_and_nothing_upon_either() -> None:
    links = (
        link(4, "one", "veth", peer=5),
        link(5, "two", "veth", peer=4),
        link(6, "one.7", "vlan", lower=4),
        link(7, "two.7", "vlan", lower=5),
    )
    assert counted_on(links, "one two") == ["one"]
    assert counted_on(links, "one.7 one two two.7") == ["one"]


def test_auto_takes_the_end_of_a_veth_that_is_up() -> None:
    assert auto(link(4, "one", "veth", peer=5, up=False), link(5, "two", "veth", peer=4)) == ["two"]


def test_auto_takes_the_free_end_of_a_veth_beside_the_bridge_that_has_the_other() -> None:
    links = (
        link(3, "eth1", master=9),
        link(4, "one", "veth", peer=5, master=9),
        link(5, "two", "veth", peer=4),
        BRIDGE,
    )
    assert counted_on(links, "two one eth1") == [
        "two"
    ]  # forwarded: the bridge device gets no frame
    assert counted_on(links, "br0 eth1") == ["br0"]


def test_auto_takes_both_bridges_that_a_veth_joins_and_neither_of_its_ends() -> None:
    links = (
        link(3, "eth1", master=8),
        link(4, "one", "veth", peer=5, master=8),
        link(5, "two", "veth", peer=4, master=9),
        link(8, "br0", "bridge"),
        link(9, "br1", "bridge"),
    )
    assert counted_on(links, "br1 two one eth1") == ["br1"]
    assert counted_on(links, "br0 eth1") == ["br0"]


def test_auto_takes_ends_of_veths_whose_other_ends_are_in_other_namespaces() -> None:
    links = (link(4, "one", "veth", peer_netns=0), link(5, "two", "veth", peer_netns=-1))
    assert [counted_on(links, "one"), counted_on(links, "two")] == [["one"], ["two"]]


@pytest.mark.parametrize("kind", ["veth", "netkit"])
def test_a_container_port_counts_the_container_and_the_bridge_the_host(
    kind: str,
) -> None:
    links = [link(4, "port", kind, master=9, peer_netns=0), BRIDGE]
    port, bridge = select_links(["auto"], links)
    assert (port.link.name, port.is_container_port) == ("port", True)
    assert port.counted_elsewhere == {4, 9}
    assert (bridge.link.name, bridge.is_container_port) == ("br0", False)
    assert bridge.counted_elsewhere == {4}


def test_a_link_selected_by_name_counts_all_that_is_local() -> None:
    links = [link(4, "port", "veth", master=9, peer_netns=0), BRIDGE]
    assert select_links(["*"], links) == [Selection(one) for one in links]
    port, bridge = select_links(["port", "auto"], links)
    assert port == Selection(links[0])
    assert bridge.counted_elsewhere == {4}


def test_packets_of_a_ppp_link_count_there_and_not_on_the_ethernet_that_carries_it() -> None:
    ethernet, ppp = select_links(["auto"], [ETH0, link(4, "ppp0", "ppp", hardware=512)])
    assert ethernet.counted_elsewhere == {4}
    assert ppp.counted_elsewhere == frozenset()


def test_auto_leaves_out_a_vrf_and_takes_what_is_in_it() -> None:
    assert auto(link(4, "a", master=9), link(9, "red", "vrf")) == ["a"]
    both = (link(4, "a", "veth", peer=5, master=9), link(5, "b", "veth", peer=4))
    assert auto(*both, link(9, "red", "vrf")) == ["a"]


def test_auto_leaves_out_an_ifb_that_shows_packets_of_other_links_again() -> None:
    assert auto(ETH0, link(4, "ifb0", "ifb")) == ["eth0"]


def test_auto_takes_the_internal_port_of_open_vswitch_and_not_what_is_attached_to_it() -> None:
    links = (
        link(4, "a", master=8),
        link(8, "ovs-system", "openvswitch", up=False),
        link(9, "br-ex", "openvswitch"),
    )
    assert auto(*links) == ["br-ex"]


def test_auto_leaves_out_links_that_carry_no_ip() -> None:
    assert auto(link(4, "nlmon0", hardware=824)) == []


def test_globs_and_names_choose_each_link_once() -> None:
    assert names(select_links(["eth*", "eth0", "lo"], [LO, ETH0, ETH1])) == ["lo", "eth0"]


def test_names_choose_each_of_a_stack() -> None:
    links = [ETH0, link(4, "eth0.7", "vlan", lower=2)]
    assert names(select_links(["auto", "eth0.7"], links)) == ["eth0", "eth0.7"]


def test_each_end_of_a_veth_carries_the_packets_of_the_other_and_of_what_is_upon_it() -> None:
    links = [
        link(4, "one", "veth", peer=5),
        link(5, "two", "veth", peer=4),
        link(6, "one.7", "vlan", lower=4),
    ]
    stack = LinkStack(links)
    assert stack.above(5) == {4, 6}
    assert stack.above(4) == {5, 6}
    assert stack.above(6) == set()


def test_patterns_that_match_no_link_are_found_and_links_that_are_down_count() -> None:
    assert find_unmatched(["auto", "any", "eth1", "wlan*", "eth9"], [LO, ETH0, ETH1]) == [
        "wlan*",
        "eth9",
    ]


@pytest.mark.parametrize(
    ("patterns", "may_select"),
    [
        (["auto"], True),
        (["eth0", "veth*"], True),
        (["eth?"], True),
        (["eth[01]"], True),
        (["eth0", "lo", "any"], False),
    ],
)
def test_links_that_are_new_are_selected_by_auto_and_by_globs(
    patterns: list[str], may_select: bool
) -> None:
    assert selects_new_links(patterns) is may_select


def test_of_what_this_host_transmits_each_packet_passes_one_chosen_link() -> None:
    bridge = link(4, "bridge0", "bridge")
    ports = [link(5, "veth5", "veth", master=4, peer_netns=1), link(6, "eth6", master=4)]
    vlan = link(7, "eth0.5", "vlan", lower=2)
    tunnel = link(8, "wg0", "wireguard")
    chosen = choose_transmitting([LO, ETH0, ETH1, bridge, *ports, vlan, tunnel])
    assert {one.name for one in chosen} == {"lo", "eth0", "bridge0", "wg0"}
