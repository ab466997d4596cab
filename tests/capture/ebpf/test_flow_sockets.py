"""What is noted of flows that are looked up, as the ledger's resolver asks for it."""

from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.linux.bpf.maps import Losses
from hogpipe.model import (
    FlowKey,
    Quality,
    SnapshotSocket,
    SocketOwner,
)

FLOW = FlowKey(6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1000, "")
OTHER = FlowKey(6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1001, "")
NGINX, WORKER = SocketOwner(10, 5, 0, "nginx", 1), SocketOwner(11, 6, 0, "nginx", 1)


def seed(cookie: int, owner: SocketOwner | None) -> SnapshotSocket:
    return SnapshotSocket(cookie, 3, 6, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 1000, owner)


def test_an_open_connection_is_known_by_its_listeners_owner() -> None:
    noted = FlowSockets()
    assert not noted.note(FLOW, 7, 3, NGINX, Quality.LISTENER)
    entry = noted.owner_of(FLOW, 3)
    assert entry is not None
    assert (entry.quality, entry.owner, entry.cookie) == (Quality.LISTENER, NGINX, 7)
    assert noted.owner_of(FLOW, 4) is None
    assert noted.owner_of(FLOW, None) == entry
    assert noted.owner_of(OTHER, 3) is None


def test_a_socket_from_before_is_known_by_who_held_it_then() -> None:
    noted = FlowSockets()
    noted.ingest_snapshot([seed(7, WORKER), seed(8, None)])
    noted.note(FLOW, 7, 0, None, Quality.EXACT)
    noted.note(OTHER, 8, 0, None, Quality.EXACT)
    entry = noted.owner_of(FLOW, 3)
    assert entry is not None
    assert (entry.quality, entry.owner) == (Quality.EXACT, WORKER)
    assert noted.owner_of(OTHER, 3) is None
    assert (noted.namespace_of(7), noted.namespace_of(9)) == (3, 0)


def test_a_flow_of_another_socket_than_before_is_told() -> None:
    noted = FlowSockets()
    answers = [noted.note(FLOW, cookie, 3, NGINX, Quality.LISTENER) for cookie in (7, 7, 8, 8)]
    assert answers == [False, False, True, False]


def test_the_flows_noted_longest_ago_are_forgotten_and_counted() -> None:
    noted = FlowSockets(max_flows=1)
    noted.note(FLOW, 7, 3, NGINX, Quality.LISTENER)
    noted.note(OTHER, 8, 3, NGINX, Quality.LISTENER)
    noted.tell_losses(Losses(1, 2, 3), 4)
    counts = noted.counts()
    assert noted.owner_of(FLOW, 3) is None
    assert noted.owner_of(OTHER, 3) is not None
    assert (counts.sockets, counts.events, counts.evicted) == (1, 2, 1)
    assert (counts.events_lost, counts.sockets_lost, counts.unidentified_processes) == (1, 2, 4)
