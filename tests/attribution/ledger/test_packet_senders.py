"""Flows that processes send through packet sockets get the sender that the kernel recorded."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from hogpipe.attribution.ledger.packet_senders import PacketSenders
from hogpipe.attribution.ledger.socket_events import EventProcess
from hogpipe.linux.bpf.sender_map import PacketSender
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.model import FlowKey, LedgerEntry, Quality, SocketOwner, Span
from hogpipe.protocols import NANOSECONDS, UDP

HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
FLOW = FlowKey(UDP, HERE, 68, THERE, 67, "eth0")
SENT = PacketSender(100, 200, 9, 1, 77, 0, False, "dhclient")
OWNER = SocketOwner(77, 1000, 0, "dhclient", 1)


class ScriptedMap:
    def __init__(self, *senders: PacketSender) -> None:
        self.senders = {encode_endpoints(HERE, 68, THERE, 67, UDP): one for one in senders}
        self.asked = 0
        self.error = 0

    def is_empty(self) -> bool:
        return not self.senders

    def find(self, endpoints: bytes) -> PacketSender | None:
        self.asked += 1
        if self.error:
            raise OSError(self.error, "")
        return self.senders.get(endpoints)


class ScriptedOwners:
    def identify(self, process: EventProcess, boot_ns: int, _now: float) -> SocketOwner | None:
        assert (process.pid, process.command, boot_ns) == (77, "dhclient", 100)
        return OWNER


@contextmanager
def senders_of(known: ScriptedMap) -> Iterator[PacketSenders]:
    yield PacketSenders(known, ScriptedOwners())  # type: ignore[arg-type]


def find(known: ScriptedMap, span: Span, flow: FlowKey = FLOW) -> LedgerEntry | None:
    with senders_of(known) as senders:
        (entry,) = senders.find([(flow, span)], 0.0)
        return entry


def test_the_sender_of_a_flow_is_exact_and_its_socket_needs_no_further_lookup() -> None:
    entry = find(ScriptedMap(SENT), Span(150, 160))
    assert entry == LedgerEntry(Quality.EXACT, OWNER, 9, is_released=True)


def test_without_a_recorded_sender_no_flow_costs_a_question() -> None:
    known = ScriptedMap()
    assert find(known, Span(150, 160)) is None
    assert known.asked == 0


@pytest.mark.parametrize(
    "flow",
    [
        msgspec.structs.replace(FLOW, local_port=69),
        msgspec.structs.replace(FLOW, namespace=7),
        msgspec.structs.replace(FLOW, namespace=None),
    ],
)
def test_another_flow_or_one_of_a_container_has_no_sender(flow: FlowKey) -> None:
    assert find(ScriptedMap(SENT), Span(150, 160), flow) is None


def test_packets_long_after_the_last_one_are_of_another() -> None:
    at = 200 + 60 * NANOSECONDS
    assert find(ScriptedMap(SENT), Span(at, at + 1)) is not None
    assert find(ScriptedMap(SENT), Span(at + 1, at + 2)) is None


def test_of_two_senders_in_turn_neither_has_the_packets_of_both() -> None:
    shared = msgspec.structs.replace(SENT, is_shared=True)
    assert find(ScriptedMap(shared), Span(90, 160)) is None
    assert find(ScriptedMap(shared), Span(100, 160)) is not None


def test_a_map_that_cannot_be_read_has_no_senders() -> None:
    known = ScriptedMap(SENT)
    known.error = errno.EBADF
    assert find(known, Span(150, 160)) is None
