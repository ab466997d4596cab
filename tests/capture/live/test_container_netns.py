"""Guests of links: their addresses, flows that are turned towards them, and how they are found."""

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.namespaces import Namespace, namespace, require
from support.running import Running, running, wait_until
from support.shortage import no_descriptors

from hogpipe.capture.decode.wire_flows import Direction, WireFlows, WireKey, pack_key
from hogpipe.capture.live.container_netns import ContainerNamespaces
from hogpipe.capture.live.link_selection import select_links
from hogpipe.capture.local_addresses import LocalAddresses, add_guests
from hogpipe.capture.orientation import Orientation
from hogpipe.linux.netns.namespace_processes import read_own_namespace
from hogpipe.linux.netns.nsid import NOT_ASSIGNED, parse_nsid, read_nsids
from hogpipe.linux.rtnetlink import read_link_table
from hogpipe.model import OWN_NAMESPACE, FlowBatch, FlowKey, Tally

HOST, SHARED, PEER = b"\x0a\0\0\1", b"\x0a\0\0\7", b"\xc0\0\2\1"
RED_ONE, BLUE_ONE = b"\x0a\0\0\2", b"\x0a\0\0\3"
GROUP, NOWHERE = socket.inet_aton("224.0.0.251"), bytes(4)
RED, BLUE = 4026532001, 4026532002
LOOPBACK = ((0x7F000000, 0xFF000000),)

OWN = LocalAddresses(frozenset({HOST}), LOOPBACK)
RED_GUEST = LocalAddresses(frozenset({RED_ONE, SHARED}), LOOPBACK)
BLUE_GUEST = LocalAddresses(frozenset({BLUE_ONE, SHARED}), LOOPBACK)
ON_VETH = add_guests(OWN, {RED: RED_GUEST})
ON_BRIDGE = add_guests(OWN, {RED: RED_GUEST, BLUE: BLUE_GUEST})
AT_DOOR = add_guests(LocalAddresses(), {RED: RED_GUEST}, guests_only=True)


def wire(*ends: tuple[bytes, bytes]) -> WireFlows:
    count = len(ends)
    return WireFlows(
        keys=[
            pack_key(WireKey(4, 6, Direction.UNKNOWN, one, 1000, other, 80)) for one, other in ends
        ],
        packets=[1] * count,
        bytes=[100] * count,
        opened=[False] * count,
        first_ns=[0] * count,
        last_ns=[0] * count,
    )


def sides(source: bytes, destination: bytes, local: LocalAddresses) -> tuple[object, object]:
    """Return the namespaces that a packet is sent in and received in; "-" is nowhere."""
    batch = FlowBatch()
    Orientation("veth7", local).turn(wire((source, destination)), batch)
    sent: object = "-"
    received: object = "-"
    for flow, delta in batch.flows.items():
        if delta.transmit_bytes:
            sent = flow.namespace
        if delta.receive_bytes:
            received = flow.namespace
    return sent, received


def test_a_guest_sends_and_receives_on_the_link_that_faces_it() -> None:
    assert sides(RED_ONE, PEER, ON_VETH) == (RED, "-")
    assert sides(PEER, RED_ONE, ON_VETH) == ("-", RED)


def test_between_a_guest_and_this_host_each_has_its_side() -> None:
    assert sides(RED_ONE, HOST, ON_VETH) == (RED, OWN_NAMESPACE)
    assert sides(HOST, RED_ONE, ON_VETH) == (OWN_NAMESPACE, RED)


def test_between_two_guests_each_has_its_side_where_both_are_faced() -> None:
    assert sides(RED_ONE, BLUE_ONE, ON_BRIDGE) == (RED, BLUE)
    assert sides(RED_ONE, BLUE_ONE, ON_VETH) == (RED, "-")
    assert sides(BLUE_ONE, RED_ONE, ON_VETH) == ("-", RED)


def test_an_address_that_two_guests_have_is_local_in_no_certain_one() -> None:
    assert sides(SHARED, PEER, ON_BRIDGE) == (None, "-")
    assert sides(SHARED, PEER, ON_VETH) == (RED, "-")


def test_an_address_that_a_guest_has_in_common_with_this_host_is_in_no_certain_one() -> None:
    both = add_guests(OWN, {RED: LocalAddresses(frozenset({HOST}))})
    assert sides(HOST, PEER, both) == (None, "-")


def test_the_loopback_of_a_guest_is_nobodys_here() -> None:
    guest = LocalAddresses(frozenset({bytes(15) + b"\1"}), LOOPBACK)
    assert add_guests(LocalAddresses(), {RED: guest}).guests == {}


def test_at_a_door_only_the_guest_counts() -> None:
    assert sides(RED_ONE, HOST, AT_DOOR) == (RED, "-")
    assert sides(HOST, RED_ONE, AT_DOOR) == ("-", RED)
    assert sides(HOST, PEER, AT_DOOR) == ("-", "-")


def test_a_multicast_is_received_on_the_other_side_of_its_sender() -> None:
    assert sides(RED_ONE, GROUP, ON_VETH) == (RED, OWN_NAMESPACE)
    assert sides(HOST, GROUP, ON_VETH) == (OWN_NAMESPACE, RED)
    assert sides(PEER, GROUP, ON_VETH) == ("-", RED)
    assert sides(RED_ONE, GROUP, ON_BRIDGE) == (RED, OWN_NAMESPACE)
    assert sides(HOST, GROUP, ON_BRIDGE) == (OWN_NAMESPACE, "-")


def test_a_multicast_at_a_door_is_received_by_the_guest_or_elsewhere() -> None:
    assert sides(HOST, GROUP, AT_DOOR) == ("-", RED)
    assert sides(RED_ONE, GROUP, AT_DOOR) == (RED, "-")
    assert sides(NOWHERE, GROUP, AT_DOOR) == ("-", "-")


ADDRESSES = st.sampled_from([HOST, RED_ONE, BLUE_ONE, SHARED, PEER, GROUP, NOWHERE])


@given(
    st.lists(st.tuples(ADDRESSES, ADDRESSES), max_size=20),
    st.sampled_from([OWN, ON_VETH, ON_BRIDGE, AT_DOOR]),
)
def test_every_byte_is_on_a_side_or_in_a_count(
    packets: list[tuple[bytes, bytes]], local: LocalAddresses
) -> None:
    batch = FlowBatch()
    direction = Orientation("veth7", local)
    direction.meets_strangers(wire(*packets))
    direction.turn(wire(*packets), batch)
    counts = batch.counts
    moved = sum(delta.total_bytes for delta in batch.flows.values())
    assert moved == counts.captured.bytes - counts.not_local.bytes + counts.both_sides.bytes


def test_strangers_are_new_flows_without_a_known_guest() -> None:
    direction = Orientation("veth7", OWN)
    assert not direction.meets_strangers(wire((HOST, GROUP)))
    assert direction.meets_strangers(wire((HOST, RED_ONE)))
    assert not direction.meets_strangers(wire((HOST, RED_ONE))), "they are met once"
    assert direction.meets_strangers(wire((HOST, RED_ONE), (PEER, RED_ONE)))
    direction.update("veth7", ON_VETH)
    assert not direction.meets_strangers(wire((HOST, RED_ONE), (PEER, RED_ONE)))


def test_flows_of_a_guest_that_becomes_known_are_turned_anew() -> None:
    direction, batch = Orientation("veth7", OWN), FlowBatch()
    direction.turn(wire((RED_ONE, HOST)), batch)
    direction.update("veth7", ON_VETH)
    direction.turn(wire((RED_ONE, HOST)), batch)
    assert FlowKey(6, RED_ONE, 1000, HOST, 80, "veth7", RED) in batch.flows
    assert batch.counts.both_sides == Tally(1, 100)


def answer(kind: int, attribute: int, number: int) -> bytes:
    return struct.pack("=IHHII4xHHi", 28, kind, 0, 1, 0, 8, attribute, number)


def test_an_answer_tells_the_id_of_a_namespace() -> None:
    assert parse_nsid(answer(88, 1, 7)) == 7
    assert parse_nsid(answer(88, 1, 0)) == 0
    assert parse_nsid(answer(88, 1, -1)) == NOT_ASSIGNED


@pytest.mark.parametrize(
    "other", [answer(88, 1, -2), answer(88, 2, 7), answer(2, 1, 7), answer(88, 1, 7)[:-1], b""]
)
def test_an_answer_that_tells_no_id_is_none(other: bytes) -> None:
    assert parse_nsid(other) is None


@contextmanager
def guests_of(where: Namespace) -> Iterator[ContainerNamespaces]:
    """Follow the guests of all links of a namespace."""
    guests = ContainerNamespaces(Path("/proc"))

    def follow() -> None:
        links = read_link_table().links
        guests.follow(links, select_links(["*"], links))

    where.call(follow)
    yield guests


def wait_until_inside(inside: Running, where: Namespace) -> None:
    link = Path(f"/proc/{inside.process.pid}/ns/net")
    there = where.call(read_own_namespace)
    wait_until(lambda: link.readlink().name == f"net:[{there}]")


def answer_first_with(monkeypatch: pytest.MonkeyPatch, answer: int | None) -> None:
    """Let the ids of namespaces be this the first time that they are asked for."""
    asked: list[None] = []

    def read(paths: Sequence[Path]) -> list[int | None]:
        asked.append(None)
        return [answer] * len(paths) if len(asked) == 1 else read_nsids(paths)

    monkeypatch.setattr("hogpipe.capture.live.container_netns.read_nsids", read)


def look(where: Namespace, guests: ContainerNamespaces, now: float = 0.0) -> LocalAddresses:
    (index,) = [link.index for link in where.call(read_link_table).links if link.name == "left"]
    guests.want(index)
    where.call(lambda: guests.refresh(now))
    return guests.add_to(LocalAddresses(), index)


def test_the_namespace_at_the_other_end_of_a_veth_is_found_with_its_addresses(
    guest_veth: tuple[Namespace, Namespace],
) -> None:
    require("ip")
    left, right = guest_veth
    inside = right.call(read_own_namespace)
    with guests_of(left) as guests, running(right, "sleep", "60"):
        wait_until(lambda: look(left, guests).faced == (inside,))
        known = look(left, guests).guests
        for address in (
            socket.inet_aton("10.77.0.2"),
            socket.inet_pton(socket.AF_INET6, "fd77::2"),
        ):
            assert known[address] == (inside,)
        assert socket.inet_aton("10.77.0.1") not in known
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        right.ip("address", "delete", "10.77.0.2/24", "dev", "right")
        known = look(left, guests).guests
        assert socket.inet_aton("10.78.0.9") in known
        assert socket.inet_aton("10.77.0.2") not in known
    assert look(left, guests).faced == ()


def test_a_namespace_is_asked_for_its_id(guest_veth: tuple[Namespace, Namespace]) -> None:
    left, right = guest_veth
    (link,) = [one for one in left.call(read_link_table).links if one.name == "left"]
    paths = [Path(f"/run/netns/{right.name}"), Path("/proc/0/ns/net")]
    assert left.call(lambda: read_nsids(paths)) == [link.peer_netns, None]


def test_links_that_face_nobody_cost_nothing(netns: Namespace, tmp_path: Path) -> None:
    guests = ContainerNamespaces(tmp_path / "no such procfs")
    links = netns.call(read_link_table).links
    guests.follow(links, select_links(["*"], links))
    assert not guests.is_due(time.monotonic())
    assert not guests.refresh(time.monotonic())


def test_guests_are_looked_for_when_wanted_and_now_and_then(
    guest_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = guest_veth
    with guests_of(left) as guests, running(right, "sleep", "60") as inside:
        wait_until_inside(inside, right)
        assert guests.is_due(100.0)
        look(left, guests, 100.0)
        assert not guests.is_due(104.9)
        assert guests.is_due(105.0)
        guests.want(2)
        assert guests.is_due(104.9)


def test_while_a_namespace_has_no_process_that_is_known_it_is_looked_for_more_often(
    guest_veth: tuple[Namespace, Namespace],
) -> None:
    left, _right = guest_veth
    with guests_of(left) as guests:
        look(left, guests, 100.0)
        assert not guests.is_due(100.4)
        assert guests.is_due(102.0)


def test_what_nobody_doubts_is_made_sure_of_now_and_then(
    guest_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = guest_veth
    new = socket.inet_aton("10.78.0.9")

    def known(guests: ContainerNamespaces, now: float) -> set[bytes]:
        guests.want(99)  # strangers at another link
        left.call(lambda: guests.refresh(now))
        (index,) = [link.index for link in left.call(read_link_table).links if link.name == "left"]
        return set(guests.add_to(LocalAddresses(), index).guests)

    with guests_of(left) as guests, running(right, "sleep", "60"):
        wait_until(lambda: look(left, guests, 10.0).faced != ())
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        assert new not in known(guests, 14.0)
        assert new in known(guests, 15.0)


def test_a_guest_is_followed_from_one_of_its_processes_to_the_next(
    guest_veth: tuple[Namespace, Namespace],
) -> None:
    left, right = guest_veth
    with guests_of(left) as guests, running(right, "sleep", "60") as one:
        wait_until(lambda: look(left, guests).faced != ())
        before = look(left, guests)
        with running(right, "sleep", "60") as other:
            inside = Path(f"/proc/{other.process.pid}/ns/net")
            wait_until(lambda: inside.readlink().name == f"net:[{before.faced[0]}]")
            one.close()
            assert look(left, guests) == before
            assert look(left, guests, 1.0) == before
    assert look(left, guests, 2.0).faced == ()


def test_a_namespace_that_could_not_be_asked_is_asked_again(
    guest_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = guest_veth
    answer_first_with(monkeypatch, None)
    with guests_of(left) as guests, running(right, "sleep", "60") as inside:
        wait_until_inside(inside, right)
        assert look(left, guests, 10.0).faced == ()
        assert look(left, guests, 11.0).faced == (right.call(read_own_namespace),)


@pytest.mark.parametrize("links_change", [False, True])
def test_a_namespace_that_was_another_is_asked_again_after_a_while_or_a_change_of_links(
    guest_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch, links_change: bool
) -> None:
    left, right = guest_veth
    answer_first_with(monkeypatch, NOT_ASSIGNED)
    with guests_of(left) as guests, running(right, "sleep", "60") as inside:
        wait_until_inside(inside, right)
        assert look(left, guests, 10.0).faced == ()
        assert look(left, guests, 11.0).faced == ()
        if links_change:
            links = left.call(read_link_table).links
            guests.follow(links, select_links(["*"], links))
        now = 12.0 if links_change else 15.0
        assert look(left, guests, now).faced == (right.call(read_own_namespace),)


def test_guests_stay_known_while_there_are_no_descriptors_and_that_is_told_once(
    guest_veth: tuple[Namespace, Namespace], caplog: pytest.LogCaptureFixture
) -> None:
    left, right = guest_veth

    def look_again(guests: ContainerNamespaces, index: int, *, starved: bool) -> LocalAddresses:
        def work() -> None:
            guests.want(index)
            with no_descriptors() if starved else nullcontext():
                guests.refresh(20.0)

        left.call(work)
        return guests.add_to(LocalAddresses(), index)

    with guests_of(left) as guests, running(right, "sleep", "60"):
        wait_until(lambda: look(left, guests, 10.0).faced != ())
        known = look(left, guests, 10.0)
        (index,) = [link.index for link in left.call(read_link_table).links if link.name == "left"]
        right.ip("address", "add", "10.78.0.9/32", "dev", "right")
        assert look_again(guests, index, starved=True) == known
        assert look_again(guests, index, starved=True) == known
        assert socket.inet_aton("10.78.0.9") in look_again(guests, index, starved=False).guests
    (line,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert line == (
        "network namespaces at captured interfaces cannot be looked for now: Too many open files; "
        "allow more open files (ulimit -n, LimitNOFILE=); those known stay, and it is tried again"
    )


def test_addresses_of_many_guests_are_read_again_in_several_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hogpipe.capture.live.container_netns._MOST_READING", 0.0)
    with ExitStack() as stack:
        host, *rooms = (stack.enter_context(namespace()) for _ in range(4))
        for number, room in enumerate(rooms):
            end = ("type", "veth", "peer", "name", "eth0", "netns", room.name)
            host.ip("link", "add", f"v{number}", *end)
            host.ip("link", "set", f"v{number}", "up")
            inside = stack.enter_context(running(room, "sleep", "60"))
            wait_until_inside(inside, room)
        guests = stack.enter_context(guests_of(host))
        indices = [link.index for link in host.call(read_link_table).links if link.name != "lo"]

        def known(now: float) -> int:
            host.call(lambda: guests.refresh(now))
            found = {one for i in indices for one in guests.add_to(LocalAddresses(), i).guests}
            return sum(socket.inet_ntoa(one).startswith("10.78.") for one in found if len(one) == 4)

        assert known(10.0) == 0
        assert all(guests.add_to(LocalAddresses(), index).faced for index in indices)
        for number, room in enumerate(rooms):
            room.ip("address", "add", f"10.78.0.{number}/32", "dev", "eth0")
            room.ip("link", "set", "eth0", "up")
        assert [known(now) for now in (15.0, 15.1, 15.2)] == [1, 2, 3]
        assert not guests.is_due(15.3), "nothing is left to read"


def test_looks_that_find_nothing_new_become_rarer(guest_veth: tuple[Namespace, Namespace]) -> None:
    left, _right = guest_veth
    with guests_of(left) as guests:
        now, pauses = 100.0, []
        look(left, guests, now)
        for _ in range(8):
            guests.want(2)
            before = now
            while not guests.is_due(now):
                now += 0.01
            pauses.append(now - before)
            left.call(lambda now=now: guests.refresh(now))
        assert pauses[-1] >= 0.49
        assert pauses[-1] < 0.6


def test_looking_for_guests_takes_a_small_share_of_the_time(
    guest_veth: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that it is the share that makes looks rare.
    monkeypatch.setattr("hogpipe.capture.live.container_netns._MOST_PATIENCE", 0.0)
    left, _right = guest_veth
    with guests_of(left) as guests:
        looks = 0
        for _ in range(10_000):
            guests.want(2)
            if not guests.is_due(100.0):
                break
            look(left, guests, 100.0)
            looks += 1
        assert 0 < looks < 10_000
        assert guests.is_due(105.0)


def test_a_procfs_that_cannot_be_listed_shows_no_guests(
    guest_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = guest_veth
    guests = ContainerNamespaces(tmp_path / "gone")
    links = left.call(read_link_table).links
    guests.follow(links, select_links(["*"], links))
    assert left.call(lambda: guests.refresh(0.0)) is False
