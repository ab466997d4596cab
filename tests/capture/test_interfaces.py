from hogpipe.capture.interfaces import find_unknown, select_links
from hogpipe.capture.netlink import Link

LO = Link(1, "lo", up=True, loopback=True, hardware=772)
ETH0 = Link(2, "eth0", up=True, loopback=False, hardware=1)
ETH1 = Link(3, "eth1", up=False, loopback=False, hardware=1)


def names(found: list[Link]) -> list[str]:
    return [link.name for link in found]


def port(index: int, name: str, master: int) -> Link:
    return Link(index, name, up=True, loopback=False, hardware=1, master=master)


def test_auto_takes_what_is_up_and_leaves_the_loopback() -> None:
    assert names(select_links(["auto"], [LO, ETH0, ETH1])) == ["eth0"]


def test_auto_takes_the_ports_of_a_bridge_and_not_the_bridge() -> None:
    bridge = Link(9, "br0", up=True, loopback=False, hardware=1, kind="bridge")
    found = select_links(["auto"], [bridge, port(4, "a", 9), port(5, "b", 9)])
    assert names(found) == ["a", "b"]


def test_auto_takes_a_bridge_whose_ports_are_all_down() -> None:
    bridge = Link(9, "br0", up=True, loopback=False, hardware=1, kind="bridge")
    down = Link(4, "a", up=False, loopback=False, hardware=1, master=9)
    assert names(select_links(["auto"], [bridge, down])) == ["br0"]


def test_auto_takes_only_the_bottom_of_a_stack_of_three() -> None:
    bond = Link(8, "bond0", up=True, loopback=False, hardware=1, kind="bond")
    vlan = Link(9, "bond0.7", up=True, loopback=False, hardware=1, kind="vlan", lower=8)
    assert names(select_links(["auto"], [port(4, "a", 8), bond, vlan])) == ["a"]


def test_auto_leaves_out_links_that_carry_no_ip() -> None:
    nlmon = Link(4, "nlmon0", up=True, loopback=False, hardware=824)
    assert select_links(["auto"], [nlmon]) == []


def test_globs_and_names_choose_each_link_once() -> None:
    assert names(select_links(["eth*", "eth0", "lo"], [LO, ETH0, ETH1])) == ["lo", "eth0"]


def test_patterns_that_no_link_answers_to_are_found_even_of_links_that_are_down() -> None:
    assert find_unknown(["auto", "any", "eth1", "wlan*", "eth9"], [LO, ETH0, ETH1]) == [
        "wlan*",
        "eth9",
    ]
