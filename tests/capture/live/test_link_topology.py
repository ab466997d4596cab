"""Which network namespaces, given by their nsid, each link leads to."""

from hogpipe.capture.live.link_topology import LinkTopology
from hogpipe.linux.rtnetlink import Link


def link(
    index: int,
    kind: str | None = "veth",
    *,
    master: int | None = None,
    lower: int | None = None,
    peer: int | None = None,
    nsid: int | None = None,
) -> Link:
    return Link(
        index=index, name=f"link{index}", up=True, loopback=False, hardware=1, kind=kind,
        master=master, lower=lower, peer=peer, peer_netns=nsid,
    )  # fmt: skip


def leads_to(links: list[Link], index: int, without: frozenset[int] = frozenset()) -> set[int]:
    return set(LinkTopology(links).leads_to(index, without))


BRIDGE = 9
TWO_CONTAINERS = [
    link(2, kind=None, master=BRIDGE),
    link(3, master=BRIDGE, nsid=30),
    link(4, master=BRIDGE, nsid=40),
    link(BRIDGE, "bridge"),
]


def test_a_veth_leads_to_the_namespace_of_its_peer() -> None:
    assert leads_to([link(3, nsid=0)], 3) == {0}


def test_a_bridge_leads_where_its_ports_lead_and_each_port_to_its_own_container() -> None:
    assert leads_to(TWO_CONTAINERS, BRIDGE) == {30, 40}
    assert leads_to(TWO_CONTAINERS, 3) == {30}


def test_a_physical_link_leads_to_no_container_even_as_the_port_of_a_bridge() -> None:
    assert leads_to(TWO_CONTAINERS, 2) == set()


def test_a_bridge_does_not_lead_to_what_is_counted_on_container_ports() -> None:
    assert leads_to(TWO_CONTAINERS, BRIDGE, frozenset({3})) == {40}
    assert leads_to(TWO_CONTAINERS, 3, frozenset({2, 3, 4, BRIDGE})) == {30}


def test_a_vlan_on_a_bridge_leads_where_the_bridge_leads() -> None:
    assert leads_to([*TWO_CONTAINERS, link(10, "vlan", lower=BRIDGE)], 10) == {30, 40}


def test_bridges_joined_by_a_veth_lead_to_containers_of_both_and_its_ends_to_those_of_one() -> None:
    joined = [
        link(3, master=8, nsid=30),
        link(4, master=BRIDGE, nsid=40),
        link(5, master=8, peer=6),
        link(6, master=BRIDGE, peer=5),
        link(8, "bridge"),
        link(BRIDGE, "bridge"),
    ]
    assert leads_to(joined, 8) == leads_to(joined, BRIDGE) == {30, 40}
    assert leads_to(joined, 5) == {40}
    assert leads_to(joined, 6) == {30}


def test_a_veth_with_both_ends_here_leads_to_no_container() -> None:
    assert leads_to([link(5, peer=6), link(6, peer=5)], 5) == set()


def test_a_link_whose_lower_link_is_in_another_namespace_does_not_lead_there() -> None:
    assert leads_to([link(5, "macvlan", nsid=3)], 5) == set()


def test_no_link_leads_to_a_namespace_without_an_nsid() -> None:
    assert leads_to([link(5, nsid=-1)], 5) == set()


def test_links_that_form_a_cycle_are_visited_once() -> None:
    cycle = [link(5, "bridge", master=6, lower=7), link(6, "bridge", master=5), link(7, lower=6)]
    assert leads_to(cycle, 5) == set()
    assert leads_to([], 5) == set()
