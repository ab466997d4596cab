"""Containers behind links: addresses, orientation of their flows, and how they are read."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.namespaces import Namespace, namespace, require
from support.running import Running, inhabitant, wait_until
from support.shortage import no_descriptors
from support.wired import SIZE, Wiretap, make_key

from hogpipe.capture.live.container_netns import ContainerNamespaces
from hogpipe.capture.live.link_selection import select_links
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.linux.netns.namespace_processes import read_own_namespace
from hogpipe.linux.netns.nsid import NOT_ASSIGNED, read_nsids
from hogpipe.linux.rtnetlink import read_link_table
from hogpipe.model import OWN_NAMESPACE, FlowKey, Tally

HOST, SHARED, PEER = b"\x0a\0\0\1", b"\x0a\0\0\7", b"\xc0\0\2\1"
RED_ONE, BLUE_ONE = b"\x0a\0\0\2", b"\x0a\0\0\3"
GROUP, NO_PATH = socket.inet_aton("224.0.0.251"), bytes(4)
RED, BLUE = 4026532001, 4026532002
LOOPBACK = ((0x7F000000, 0xFF000000),)

OWN = LocalAddresses(frozenset({HOST}), LOOPBACK)
IN_RED = LocalAddresses(frozenset({RED_ONE, SHARED}), LOOPBACK)
IN_BLUE = LocalAddresses(frozenset({BLUE_ONE, SHARED}), LOOPBACK)
ON_VETH = OWN.with_containers({RED: IN_RED})
ON_BRIDGE = OWN.with_containers({RED: IN_RED, BLUE: IN_BLUE})
ON_CONTAINER_PORT = LocalAddresses().with_containers({RED: IN_RED}, containers_only=True)


def on_veth(local: LocalAddresses, on_unknown: Callable[[], None] | None = None) -> Wiretap:
    tap = Wiretap()
    tap.add("veth7", local, on_unknown)
    return tap


def sides(source: bytes, destination: bytes, local: LocalAddresses) -> tuple[object, object]:
    """Return the namespaces that transmit and receive a packet; "-" for none."""
    transmitter: object = "-"
    receiver: object = "-"
    for flow, delta in on_veth(local).capture(make_key(source, destination)).items():
        if delta.transmit_bytes:
            transmitter = flow.namespace
        if delta.receive_bytes:
            receiver = flow.namespace
    return transmitter, receiver


def test_a_container_transmits_and_receives_on_the_link_that_leads_to_it() -> None:
    assert sides(RED_ONE, PEER, ON_VETH) == (RED, "-")
    assert sides(PEER, RED_ONE, ON_VETH) == ("-", RED)


def test_between_a_container_and_the_host_each_has_its_side() -> None:
    assert sides(RED_ONE, HOST, ON_VETH) == (RED, OWN_NAMESPACE)
    assert sides(HOST, RED_ONE, ON_VETH) == (OWN_NAMESPACE, RED)


def test_between_two_containers_each_has_its_side_where_the_link_leads_to_both() -> None:
    assert sides(RED_ONE, BLUE_ONE, ON_BRIDGE) == (RED, BLUE)
    assert sides(RED_ONE, BLUE_ONE, ON_VETH) == (RED, "-")
    assert sides(BLUE_ONE, RED_ONE, ON_VETH) == ("-", RED)


def test_an_address_of_two_containers_is_in_no_certain_namespace() -> None:
    assert sides(SHARED, PEER, ON_BRIDGE) == (None, "-")
    assert sides(SHARED, PEER, ON_VETH) == (RED, "-")


def test_an_address_of_a_container_and_the_host_is_in_no_certain_namespace() -> None:
    both = OWN.with_containers({RED: LocalAddresses(frozenset({HOST}))})
    assert sides(HOST, PEER, both) == (None, "-")


def test_a_loopback_address_of_a_container_is_not_local() -> None:
    container = LocalAddresses(frozenset({bytes(15) + b"\1"}), LOOPBACK)
    assert LocalAddresses().with_containers({RED: container}).container_namespaces == {}


def test_on_a_container_port_only_the_container_counts() -> None:
    assert sides(RED_ONE, HOST, ON_CONTAINER_PORT) == (RED, "-")
    assert sides(HOST, RED_ONE, ON_CONTAINER_PORT) == ("-", RED)
    assert sides(HOST, PEER, ON_CONTAINER_PORT) == ("-", "-")


def test_a_multicast_is_received_on_the_other_side_of_its_sender() -> None:
    assert sides(RED_ONE, GROUP, ON_VETH) == (RED, OWN_NAMESPACE)
    assert sides(HOST, GROUP, ON_VETH) == (OWN_NAMESPACE, RED)
    assert sides(PEER, GROUP, ON_VETH) == ("-", RED)
    assert sides(RED_ONE, GROUP, ON_BRIDGE) == (RED, OWN_NAMESPACE)
    assert sides(HOST, GROUP, ON_BRIDGE) == (OWN_NAMESPACE, "-")


def test_a_multicast_on_a_container_port_counts_for_the_container_only() -> None:
    assert sides(HOST, GROUP, ON_CONTAINER_PORT) == ("-", RED)
    assert sides(RED_ONE, GROUP, ON_CONTAINER_PORT) == (RED, "-")
    assert sides(NO_PATH, GROUP, ON_CONTAINER_PORT) == ("-", "-")


ADDRESSES = st.sampled_from([HOST, RED_ONE, BLUE_ONE, SHARED, PEER, GROUP, NO_PATH])


@given(
    st.lists(st.tuples(ADDRESSES, ADDRESSES), max_size=20),
    st.sampled_from([OWN, ON_VETH, ON_BRIDGE, ON_CONTAINER_PORT]),
)
def test_every_byte_is_on_a_side_or_in_a_count(
    packets: list[tuple[bytes, bytes]], local: LocalAddresses
) -> None:
    tap = on_veth(local)
    tap.capture(*[make_key(*packet) for packet in packets])
    assert tap.is_conserved


def test_new_flows_without_a_known_container_have_unknown_endpoints() -> None:
    reports: list[str] = []
    report = partial(reports.append, "unknown")
    tap = on_veth(OWN, report)
    red, red_and_peer = make_key(HOST, RED_ONE), make_key(PEER, RED_ONE)
    tap.capture(make_key(HOST, GROUP))
    assert reports == []
    tap.capture(red)
    assert reports == ["unknown"]
    tap.capture(red)
    assert reports == ["unknown"], "they are reported once"
    tap.capture(red, red_and_peer)
    assert reports == ["unknown"] * 2
    tap.wire.interfaces.update(0, "veth7", ON_VETH, report)
    tap.capture(red, red_and_peer)
    assert reports == ["unknown"] * 2


def test_unknown_endpoints_at_an_interface_that_leads_to_no_container_are_not_reported() -> None:
    tap = on_veth(OWN)
    tap.capture(make_key(HOST, RED_ONE))
    assert tap.counts.captured.packets == 1


def test_flows_of_a_container_that_becomes_known_are_oriented_again() -> None:
    tap, packet = on_veth(OWN), make_key(RED_ONE, HOST)
    tap.capture(packet)
    tap.wire.interfaces.update(0, "veth7", ON_VETH)
    assert FlowKey(6, RED_ONE, 1000, HOST, 80, "veth7", RED) in tap.capture(packet)
    assert tap.counts.both_sides == Tally(1, SIZE)


@contextmanager
def containers_of(where: Namespace) -> Iterator[ContainerNamespaces]:
    """Follow the containers behind all links of a namespace."""
    containers = ContainerNamespaces(Path("/proc"))
    update_links(containers, where)
    yield containers


def update_links(containers: ContainerNamespaces, where: Namespace) -> None:
    links = where.call(read_link_table).links
    containers.update_links(links, select_links(["*"], links))


def wait_until_inside(inside: Running, where: Namespace) -> None:
    link = Path(f"/proc/{inside.process.pid}/ns/net")
    there = where.call(read_own_namespace)
    wait_until(lambda: link.readlink().name == f"net:[{there}]")


def answer_first_with(monkeypatch: pytest.MonkeyPatch, answer: int | None) -> None:
    """Let all nsids be `answer` the first time that they are read."""
    asked: list[None] = []

    def read(paths: Sequence[Path]) -> list[int | None]:
        asked.append(None)
        return [answer] * len(paths) if len(asked) == 1 else read_nsids(paths)

    monkeypatch.setattr("hogpipe.capture.live.container_netns.read_nsids", read)


def index_of(where: Namespace, name: str) -> int:
    (index,) = [link.index for link in where.call(read_link_table).links if link.name == name]
    return index


def refresh(where: Namespace, containers: ContainerNamespaces, now: float = 0.0) -> LocalAddresses:
    index = index_of(where, "left")
    containers.request_refresh(index)
    where.call(lambda: containers.refresh(now))
    return local_at(containers, index)


def local_at(containers: ContainerNamespaces, index: int) -> LocalAddresses:
    return LocalAddresses().with_containers(containers.addresses_behind(index))


def test_the_namespace_of_a_veths_peer_is_found_with_its_addresses(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    require("ip")
    left, right = container_veth
    inside = right.call(read_own_namespace)
    with containers_of(left) as containers, inhabitant(right):
        wait_until(lambda: refresh(left, containers).peer_namespaces == (inside,))
        known = refresh(left, containers).container_namespaces
        for address in (
            socket.inet_aton("10.77.0.2"),
            socket.inet_pton(socket.AF_INET6, "fd77::2"),
        ):
            assert known[address] == (inside,)
        assert socket.inet_aton("10.77.0.1") not in known
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        right.ip("address", "delete", "10.77.0.2/24", "dev", "right")
        known = refresh(left, containers).container_namespaces
        assert socket.inet_aton("10.78.0.9") in known
        assert socket.inet_aton("10.77.0.2") not in known
    assert refresh(left, containers).peer_namespaces == ()


def test_links_that_lead_to_no_container_cost_nothing(netns: Namespace, tmp_path: Path) -> None:
    containers = ContainerNamespaces(tmp_path / "no such procfs")
    update_links(containers, netns)
    assert not containers.is_due(time.monotonic())
    assert not containers.refresh(time.monotonic())


def test_containers_are_read_on_request_and_periodically(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = container_veth
    with containers_of(left) as containers, inhabitant(right) as inside:
        wait_until_inside(inside, right)
        assert containers.is_due(100.0)
        refresh(left, containers, 100.0)
        assert not containers.is_due(104.9)
        assert containers.is_due(105.0)
        containers.request_refresh(2)
        assert containers.is_due(104.9)


def test_while_a_namespace_has_no_known_process_reading_is_more_frequent(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, _right = container_veth
    with containers_of(left) as containers:
        refresh(left, containers, 100.0)
        assert not containers.is_due(100.4)
        assert containers.is_due(102.0)


def test_addresses_without_a_suspicion_are_read_again_periodically(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = container_veth
    new = socket.inet_aton("10.78.0.9")

    def known(containers: ContainerNamespaces, now: float) -> set[bytes]:
        containers.request_refresh(99)  # unknown endpoints on another link
        left.call(lambda: containers.refresh(now))
        return set(local_at(containers, index_of(left, "left")).container_namespaces)

    with containers_of(left) as containers, inhabitant(right):
        wait_until(lambda: refresh(left, containers, 10.0).peer_namespaces != ())
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        assert new not in known(containers, 14.0)
        assert new in known(containers, 15.0)


def test_a_container_stays_known_when_one_of_its_processes_exits(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = container_veth
    with containers_of(left) as containers, inhabitant(right) as one:
        wait_until(lambda: refresh(left, containers).peer_namespaces != ())
        before = refresh(left, containers)
        with inhabitant(right) as other:
            inside = Path(f"/proc/{other.process.pid}/ns/net")
            wait_until(lambda: inside.readlink().name == f"net:[{before.peer_namespaces[0]}]")
            one.close()
            assert refresh(left, containers) == before
            assert refresh(left, containers, 1.0) == before
    assert refresh(left, containers, 2.0).peer_namespaces == ()


def test_a_namespace_whose_nsid_could_not_be_read_is_read_again(
    container_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = container_veth
    answer_first_with(monkeypatch, None)
    with containers_of(left) as containers, inhabitant(right) as inside:
        wait_until_inside(inside, right)
        assert refresh(left, containers, 10.0).peer_namespaces == ()
        assert refresh(left, containers, 11.0).peer_namespaces == (right.call(read_own_namespace),)


@pytest.mark.parametrize("links_change", [False, True])
def test_an_unrelated_namespace_is_read_again_after_a_while_or_a_change_of_links(
    container_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch, links_change: bool
) -> None:
    left, right = container_veth
    answer_first_with(monkeypatch, NOT_ASSIGNED)
    with containers_of(left) as containers, inhabitant(right) as inside:
        wait_until_inside(inside, right)
        assert refresh(left, containers, 10.0).peer_namespaces == ()
        assert refresh(left, containers, 11.0).peer_namespaces == ()
        if links_change:
            update_links(containers, left)
        now = 12.0 if links_change else 15.0
        assert refresh(left, containers, now).peer_namespaces == (right.call(read_own_namespace),)


def test_containers_stay_known_while_there_are_no_descriptors_and_that_is_logged_once(
    container_veth: tuple[Namespace, Namespace], caplog: pytest.LogCaptureFixture
) -> None:
    left, right = container_veth

    def refresh_again(
        containers: ContainerNamespaces, index: int, *, starved: bool
    ) -> LocalAddresses:
        def work() -> None:
            containers.request_refresh(index)
            with no_descriptors() if starved else nullcontext():
                containers.refresh(20.0)

        left.call(work)
        return local_at(containers, index)

    with containers_of(left) as containers, inhabitant(right):
        wait_until(lambda: refresh(left, containers, 10.0).peer_namespaces != ())
        known = refresh(left, containers, 10.0)
        index = index_of(left, "left")
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        assert refresh_again(containers, index, starved=True) == known
        assert refresh_again(containers, index, starved=True) == known
        assert (
            socket.inet_aton("10.78.0.9")
            in refresh_again(containers, index, starved=False).container_namespaces
        )
    (line,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert line == (
        "network namespaces at captured interfaces cannot be read now: Too many open files; "
        "allow more open files (ulimit -n, LimitNOFILE=); the known ones stay in use, and reading "
        "is retried"
    )


def test_addresses_of_many_containers_are_read_again_in_several_refreshes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hogpipe.capture.live.container_netns._MAX_READ_SECONDS", 0.0)
    with ExitStack() as stack:
        host, *rooms = (stack.enter_context(namespace()) for _ in range(4))
        for number, room in enumerate(rooms):
            end = ("type", "veth", "peer", "name", "eth0", "netns", room.name)
            host.ip("link", "add", f"v{number}", *end)
            host.ip("link", "set", f"v{number}", "up")
            inside = stack.enter_context(inhabitant(room))
            wait_until_inside(inside, room)
        containers = stack.enter_context(containers_of(host))
        indices = [link.index for link in host.call(read_link_table).links if link.name != "lo"]

        def known(now: float) -> int:
            host.call(lambda: containers.refresh(now))
            found = {one for i in indices for one in local_at(containers, i).container_namespaces}
            return sum(socket.inet_ntoa(one).startswith("10.78.") for one in found if len(one) == 4)

        assert known(10.0) == 0
        assert all(local_at(containers, index).peer_namespaces for index in indices)
        for number, room in enumerate(rooms):
            room.ip("address", "add", f"10.78.0.{number}/32", "dev", "eth0")
            room.ip("link", "set", "eth0", "up")
        assert [known(now) for now in (15.0, 15.1, 15.2)] == [1, 2, 3]
        assert not containers.is_due(15.3), "nothing is left to read"


def test_refreshes_that_find_nothing_new_become_rarer(
    container_veth: tuple[Namespace, Namespace],
) -> None:
    left, _right = container_veth
    with containers_of(left) as containers:
        now, pauses = 100.0, []
        refresh(left, containers, now)
        for _ in range(8):
            containers.request_refresh(2)
            before = now
            while not containers.is_due(now):
                now += 0.01
            pauses.append(now - before)
            left.call(lambda now=now: containers.refresh(now))
        assert pauses[-1] >= 0.49
        assert pauses[-1] < 0.6


def test_reading_containers_takes_a_small_share_of_the_time(
    container_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that only the CPU share limits refreshes.
    monkeypatch.setattr("hogpipe.capture.live.container_netns._MAX_BACKOFF", 0.0)
    left, _right = container_veth
    with containers_of(left) as containers:
        refreshes = 0
        for _ in range(10_000):
            containers.request_refresh(2)
            if not containers.is_due(100.0):
                break
            refresh(left, containers, 100.0)
            refreshes += 1
        assert 0 < refreshes < 10_000
        assert containers.is_due(105.0)


def test_a_procfs_that_cannot_be_listed_shows_no_container(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = container_veth
    containers = ContainerNamespaces(tmp_path / "gone")
    update_links(containers, left)
    assert left.call(lambda: containers.refresh(0.0)) is False
