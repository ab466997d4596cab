"""What the kernel reports of destroyed TCP sockets, and that any bytes parse."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.namespaces import Namespace, require
from support.running import wait_until

from hogpipe.linux.destroyed_messages import DestroyedSocket, parse_destroyed
from hogpipe.linux.destroyed_sockets import DestroyedSockets
from hogpipe.model import TcpHealth

V4, V6 = bytes([10, 0, 0, 1]), bytes(15) + b"\x01"
MAPPED = bytes(10) + b"\xff\xff"
FIELDS = {
    "rtt": (68, "I"), "total_retrans": (100, "I"), "bytes_acked": (120, "Q"),
    "bytes_received": (128, "Q"), "min_rtt": (148, "I"), "data_segs_in": (152, "I"),
    "bytes_sent": (200, "Q"), "bytes_retrans": (208, "Q"),
}  # fmt: skip
"""Of struct tcp_info (include/uapi/linux/tcp.h)."""
USUAL = {
    "rtt": 900, "total_retrans": 2, "bytes_acked": 1001, "bytes_received": 501, "min_rtt": 700,
    "data_segs_in": 3, "bytes_sent": 1200, "bytes_retrans": 200,
}  # fmt: skip


def make_message(
    *, family: int = 2, address: bytes = V4, remote_port: int = 443, size: int = 248, **info: int
) -> bytes:
    packed = bytearray(size)
    for name, value in (USUAL | info).items():
        offset, kind = FIELDS[name]
        struct.pack_into(f"={kind}", packed, offset, value)
    body = struct.pack("=BBxx", family, 7) + struct.pack(">HH", 40000, remote_port)
    body += struct.pack("=16s16sIQ20x", address, address, 0, 77)
    body += struct.pack("=HHB3x", 5, 10, 6) + struct.pack("=HH", 4 + size, 2) + packed
    return struct.pack("=IHHII", 16 + len(body), 20, 0, 0, 0) + body


def health_of(message: bytes) -> TcpHealth:
    found = parse_destroyed(message)
    assert found is not None
    return found.health


def test_a_message_has_the_endpoints_and_the_last_state_of_a_connection() -> None:
    expected = TcpHealth(
        transmit_payload_bytes=1000,
        receive_payload_bytes=500,
        retransmits=2,
        rtt_samples=1,
        rtt_sum_us=900,
        rtt_min_us=700,
    )
    found = parse_destroyed(make_message())
    assert found == DestroyedSocket(V4, 40000, V4, 443, 77, expected)


@pytest.mark.parametrize(("address", "expected"), [(V6, V6), (MAPPED + V4, V4)])
def test_addresses_are_those_of_the_packets(address: bytes, expected: bytes) -> None:
    found = parse_destroyed(make_message(family=10, address=address))
    assert found is not None
    assert found.local_address == found.remote_address == expected


def test_bytes_that_were_not_acknowledged_do_not_count() -> None:
    assert health_of(make_message(bytes_acked=300)).transmit_payload_bytes == 300


def test_a_fin_alone_is_no_payload() -> None:
    assert health_of(make_message(bytes_received=1, data_segs_in=0)).receive_payload_bytes == 0


def test_an_attempt_without_an_answer_has_no_round_trip_time() -> None:
    health = health_of(make_message(rtt=0, min_rtt=0xFFFFFFFF, total_retrans=4))
    assert (health.rtt_samples, health.rtt_min_us, health.retransmits) == (0, 0, 4)


@pytest.mark.parametrize(
    "message", [b"", make_message()[:80], make_message(remote_port=0), make_message(family=1),
                make_message(size=216)[:-1]]
)  # fmt: skip
def test_what_is_not_of_a_connection_is_left_out(message: bytes) -> None:
    assert parse_destroyed(message) is None


@given(st.binary(max_size=400), st.integers(0, 340))
def test_any_bytes_parse(noise: bytes, at: int) -> None:
    message = make_message()
    parse_destroyed(noise)
    parse_destroyed(message[:at] + noise + message[at + len(noise) :])


@pytest.fixture
def listener(netns: Namespace) -> Iterator[socket.socket]:
    require("ip")
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as made:
        yield made


def exchange(netns: Namespace, listener: socket.socket) -> None:
    with netns.call(lambda: socket.create_connection(listener.getsockname())) as client:
        served, _ = listener.accept()
        with served:
            client.sendall(b"x" * 1000)
            served.recv(1000, socket.MSG_WAITALL)
            served.sendall(b"y" * 300)
            client.recv(300, socket.MSG_WAITALL)
            client.shutdown(socket.SHUT_WR)
            served.recv(1)
            served.close()
            client.recv(1)


def test_both_ends_of_a_connection_are_reported_with_their_payload(
    netns: Namespace, listener: socket.socket
) -> None:
    with closing(netns.call(DestroyedSockets)) as link:
        exchange(netns, listener)
        found: list[TcpHealth] = []

        def has_both() -> bool:
            parsed = map(parse_destroyed, link.read(100))
            found.extend(one.health for one in parsed if one is not None)
            return len(found) == 2

        wait_until(has_both)
    payload = {(one.transmit_payload_bytes, one.receive_payload_bytes) for one in found}
    assert payload == {(1000, 300), (300, 1000)}
    assert all(one.rtt_samples == 1 and one.rtt_min_us <= one.rtt_sum_us for one in found)
    assert link.overruns == 0


def test_messages_for_which_there_is_no_room_are_counted(
    netns: Namespace, listener: socket.socket
) -> None:
    with closing(netns.call(lambda: DestroyedSockets(buffer_bytes=1))) as link:
        for _ in range(50):
            exchange(netns, listener)
        wait_until(lambda: link.read(1000) is not None and link.overruns > 0)
