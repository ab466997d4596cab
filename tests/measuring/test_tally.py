"""Sums by peer, and readings of them."""

import json
import socket

import pytest

from hogpipe.measuring.results import Totals, Traffic
from hogpipe.measuring.tally import PeerKey, Tally, make_peer_key
from hogpipe.model import Quality

ONE = socket.inet_aton("10.0.0.1")
STATE = Traffic(source="ebpf")


def test_traffic_is_summed_by_peer_with_the_largest_first() -> None:
    tally = Tally(0.0)
    server = PeerKey(ONE, 6, 443, None)
    tally.add(server, Totals(100, 1, 10, 1, 60, 0), {Quality.EXACT: 110})
    tally.add(server, Totals(100, 1, 10, 1, 60, 0), {Quality.LISTENER: 110})
    tally.add(PeerKey(bytes(16), 17, None, 53), Totals(900, 1, 0, 0, 872, 0), {Quality.EXACT: 900})
    found = tally.read(2.0, STATE)
    assert [(one.endpoint, one.protocol, one.totals.bytes) for one in found.peers] == [
        ("::", "udp", 900),
        ("10.0.0.1:443", "tcp", 220),
    ]
    assert found.totals == Totals(1100, 3, 20, 2, 992, 0)
    assert found.quality == {"exact": 1010, "listener": 110}
    assert found.seconds == 2.0
    assert json.loads(json.dumps(found.to_json()))["totals"]["transmit_bytes"] == 1100


def test_rates_are_those_since_the_reading_before() -> None:
    tally, peer = Tally(0.0), PeerKey(ONE, 6, 443, None)
    tally.add(peer, Totals(100), {})
    assert tally.read(2.0, STATE).rates.transmit_bytes == pytest.approx(50)
    tally.add(peer, Totals(400, 0, 8), {})
    rates = tally.read(4.0, STATE).rates
    assert (rates.transmit_bytes, rates.receive_bytes) == pytest.approx((200, 4))


def test_payload_that_is_unknown_once_is_unknown_in_the_sum() -> None:
    assert (Totals(transmit_payload_bytes=None) + Totals(1)).transmit_payload_bytes is None
    assert Totals(transmit_payload_bytes=None).payload_bytes is None


def test_further_peers_than_the_bound_are_one_without_an_address() -> None:
    tally = Tally(0.0, max_peers=2)
    for number in range(9):
        tally.add(PeerKey(bytes([10, 0, 0, number]), 6, 443, None), Totals(1), {})
    found = tally.read(1.0, STATE)
    assert [(one.address, one.totals.bytes) for one in found.peers] == [
        ("", 7),
        ("10.0.0.0", 1),
        ("10.0.0.1", 1),
    ]


@pytest.mark.parametrize(
    ("service_port", "port", "local_port"),
    [(443, 443, None), (50_000, None, 50_000), (0, None, None)],
)
def test_a_peer_has_the_port_of_the_service(
    service_port: int, port: int | None, local_port: int | None
) -> None:
    found = make_peer_key(ONE, 6, 50_000, 443, service_port)
    assert (found.port, found.local_port) == (port, local_port)
