"""Decoding of socket events: values as the kernel wrote them, and any bytes without harm."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.ledger.socket_events import EVENT_BYTES, decode_events, find_released
from hogpipe.linux.bpf.shapes import EventKind

SHAPE = struct.Struct("=QQQQIIBBBBHH16s16s16s")


def event(kind: int = EventKind.CONNECTED, family: int = 2, **changes: object) -> bytes:
    fields = {
        "boot_ns": 5,
        "cookie": 6,
        "namespace": 7,
        "cgroup": 8,
        "pid": 9,
        "user_id": 10,
        "kind": kind,
        "family": family,
        "protocol": 6,
        "padding": 0,
        "local_port": 40000,
        "remote_port": 443,
        "local": b"\x0a\0\0\1" + bytes(12),
        "remote": b"\x0a\0\0\2" + bytes(12),
        "command": b"curl" + bytes(12),
    }
    return SHAPE.pack(*(fields | changes).values())


def test_an_event_is_decoded_as_the_kernel_wrote_it() -> None:
    (one,) = decode_events(event()).events
    assert (one.boot_ns, one.cookie, one.namespace_cookie, one.cgroup) == (5, 6, 7, 8)
    assert (one.pid, one.user_id, one.command) == (9, 10, "curl")
    assert (one.kind, one.protocol) == (EventKind.CONNECTED, 6)
    assert (one.local_address, one.local_port) == (b"\x0a\0\0\1", 40000)
    assert (one.remote_address, one.remote_port) == (b"\x0a\0\0\2", 443)


def test_ipv6_addresses_have_16_bytes_and_mapped_ones_are_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff\x7f\0\0\1"
    (one,) = decode_events(event(family=10, local=bytes(15) + b"\1", remote=mapped)).events
    assert one.local_address == bytes(15) + b"\1"
    assert one.remote_address == b"\x7f\0\0\1"


def test_a_command_that_is_not_utf8_is_escaped() -> None:
    (one,) = decode_events(event(command=b"a\xff\0garbage-after-z")).events
    assert one.command == "a\\xff"


def test_an_unknown_kind_or_family_is_counted() -> None:
    decoded = decode_events(event(kind=99) + event() + event(family=1))
    assert len(decoded.events) == 1
    assert decoded.malformed == 2


@given(st.binary(max_size=4 * EVENT_BYTES))
def test_any_bytes_are_decoded_or_counted(data: bytes) -> None:
    decoded = decode_events(data)
    rest = 1 if len(data) % EVENT_BYTES else 0
    assert len(decoded.events) + decoded.malformed == len(data) // EVENT_BYTES + rest
    for one in decoded.events:
        assert len(one.local_address) in {4, 16}
        assert len(one.remote_address) in {4, 16}


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(list(EventKind)))))
def test_releases_are_found_without_decoding_whole_events(
    history: list[tuple[int, EventKind]],
) -> None:
    data = b"".join(event(kind, cookie=cookie) for cookie, kind in history)
    released = [one.cookie for one in decode_events(data).events if one.kind is EventKind.RELEASED]
    assert find_released(data + b"cut") == released
