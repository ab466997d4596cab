"""What is behind each link; the numbers of namespaces are those that the kernel gives as ids."""

from hogpipe.capture.live.link_topology import LinkTopology
from hogpipe.linux.rtnetlink import Link


def link(
    index: int,
    kind: str | None = "veth",
    *,
    master: int | None = None,
    lower: int | None = None,
    peer: int | None = None,
    inside: int | None = None,
) -> Link:
    return Link(
        index=index, name=f"link{index}", up=True, loopback=False, hardware=1, kind=kind,
        master=master, lower=lower, peer=peer, peer_netns=inside,
    )  # fmt: skip


def faced(links: list[Link], index: int, elsewhere: frozenset[int] = frozenset()) -> set[int]:
    return set(LinkTopology(links).faced_by(index, elsewhere))


BRIDGE = 9
TWO_GUESTS = [
    link(2, kind=None, master=BRIDGE),
    link(3, master=BRIDGE, inside=30),
    link(4, master=BRIDGE, inside=40),
    link(BRIDGE, "bridge"),
]


def test_a_veth_faces_the_namespace_of_its_other_end() -> None:
    assert faced([link(3, inside=0)], 3) == {0}


def test_a_bridge_faces_what_its_ports_face_and_each_port_its_own() -> None:
    assert faced(TWO_GUESTS, BRIDGE) == {30, 40}
    assert faced(TWO_GUESTS, 3) == {30}


def test_a_physical_link_faces_none_even_as_the_port_of_a_bridge() -> None:
    assert faced(TWO_GUESTS, 2) == set()


def test_a_bridge_does_not_face_what_is_counted_at_doors_elsewhere() -> None:
    assert faced(TWO_GUESTS, BRIDGE, frozenset({3})) == {40}
    assert faced(TWO_GUESTS, 3, frozenset({2, 3, 4, BRIDGE})) == {30}


def test_a_vlan_on_a_bridge_faces_what_the_bridge_faces() -> None:
    assert faced([*TWO_GUESTS, link(10, "vlan", lower=BRIDGE)], 10) == {30, 40}


def test_bridges_that_a_veth_joins_face_the_guests_of_both_but_its_ends_those_of_one() -> None:
    joined = [
        link(3, master=8, inside=30),
        link(4, master=BRIDGE, inside=40),
        link(5, master=8, peer=6),
        link(6, master=BRIDGE, peer=5),
        link(8, "bridge"),
        link(BRIDGE, "bridge"),
    ]
    assert faced(joined, 8) == faced(joined, BRIDGE) == {30, 40}
    assert faced(joined, 5) == {40}
    assert faced(joined, 6) == {30}


def test_a_veth_with_both_ends_here_faces_none_of_itself() -> None:
    assert faced([link(5, peer=6), link(6, peer=5)], 5) == set()


def test_a_link_whose_lower_one_is_in_another_namespace_does_not_face_it() -> None:
    assert faced([link(5, "macvlan", inside=3)], 5) == set()


def test_a_namespace_without_an_id_is_not_faced() -> None:
    assert faced([link(5, inside=-1)], 5) == set()


def test_links_that_name_one_another_in_a_circle_end() -> None:
    circle = [link(5, "bridge", master=6, lower=7), link(6, "bridge", master=5), link(7, lower=6)]
    assert faced(circle, 5) == set()
    assert faced([], 5) == set()
