"""Decoding of socket events: values as the kernel wrote them, and any bytes without harm."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.ledger.socket_events import (
    EVENT_BYTES,
    EventBlock,
    EventProcess,
    decode_process,
    find_released,
    measure_part,
)
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
    (one,) = EventBlock(event())
    assert (one.boot_ns, one.cookie, one.namespace_cookie, one.cgroup) == (5, 6, 7, 8)
    assert (one.pid, one.user_id, one.command) == (9, 10, "curl")
    assert (one.kind, one.protocol) == (EventKind.CONNECTED, 6)
    assert (one.local_address, one.local_port) == (b"\x0a\0\0\1", 40000)
    assert (one.remote_address, one.remote_port) == (b"\x0a\0\0\2", 443)


def test_ipv6_addresses_have_16_bytes_and_mapped_ones_are_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff\x7f\0\0\1"
    (one,) = EventBlock(event(family=10, local=bytes(15) + b"\1", remote=mapped))
    assert one.local_address == bytes(15) + b"\1"
    assert one.remote_address == b"\x7f\0\0\1"


def test_a_command_that_is_not_utf8_is_escaped() -> None:
    (one,) = EventBlock(event(command=b"a\xff\0garbage-after-z"))
    assert one.command == "a\\xff"


def test_an_unknown_kind_or_family_is_counted() -> None:
    block = EventBlock(event(kind=99) + event() + event(family=1) + event(kind=0))
    assert len(block) == len(list(block)) == 1
    assert block.malformed == 3


@given(st.binary(max_size=4 * EVENT_BYTES))
def test_any_bytes_are_decoded_or_counted(data: bytes) -> None:
    block = EventBlock(data)
    rest = 1 if len(data) % EVENT_BYTES else 0
    assert len(block) + block.malformed == len(data) // EVENT_BYTES + rest
    for one in block:
        assert len(one.local_address) in {4, 16}
        assert len(one.remote_address) in {4, 16}


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(list(EventKind)))))
def test_releases_are_found_without_decoding_whole_events(
    history: list[tuple[int, EventKind]],
) -> None:
    data = b"".join(event(kind, cookie=cookie) for cookie, kind in history)
    released = [one.cookie for one in EventBlock(data) if one.kind is EventKind.RELEASED]
    assert find_released(data + b"cut") == released


def test_a_block_names_the_process_of_each_event() -> None:
    data = event() + event(pid=0, command=bytes(16)) + event(user_id=7, command=b"x" * 16)
    assert [decode_process(one) for one in EventBlock(data).processes] == [
        EventProcess(8, 9, 10, "curl"),
        EventProcess(8, 0, 10, ""),
        EventProcess(8, 9, 7, "x" * 16),
    ]


LONG, MAPPED = bytes(15) + b"\1", bytes(10) + b"\xff\xff\x0a\0\0\1"
events = st.lists(
    st.builds(
        event,
        st.sampled_from(list(EventKind)),
        st.sampled_from([2, 10]),
        boot_ns=st.integers(1, 9),
        cookie=st.integers(1, 5),
        namespace=st.integers(0, 2),
        protocol=st.sampled_from([6, 17]),
        local_port=st.integers(0, 2),
        remote_port=st.integers(0, 2),
        local=st.sampled_from([LONG, MAPPED, MAPPED[:12] + bytes(4), MAPPED[12:] + bytes(12)]),
    ),
    max_size=8,
).map(b"".join)


@given(events)
def test_the_openings_of_a_block_are_those_of_its_events(data: bytes) -> None:
    block = EventBlock(data)
    found = block.find_openings()
    decoded = list(block)
    assert [block.decode(position) for position in range(len(block))] == decoded
    released = block.find_releases()
    assert found.positions == [
        position
        for position, one in enumerate(decoded)
        if one.kind in {EventKind.CONNECTED, EventKind.ACCEPTED} and one.protocol == 6
    ]
    others = {
        one.cookie
        for position, one in enumerate(decoded)
        if position not in found.positions and position not in released
    }
    for position, cookie, five_tuple, boot_ns, accepted, is_whole in zip(*found, strict=True):
        one = decoded[position]
        assert (cookie, boot_ns) == (one.cookie, one.boot_ns)
        assert five_tuple[:4] == (one.namespace_cookie, 6, one.local_address, one.local_port)
        assert five_tuple[4:] == (one.remote_address, one.remote_port)
        assert accepted is (one.kind is EventKind.ACCEPTED)
        has_endpoints = all(five_tuple) and any(one.local_address)
        assert is_whole is (has_endpoints and cookie not in others)
    for position, release in released.items():
        one = decoded[position]
        assert one.kind is EventKind.RELEASED
        assert release == (one.cookie, one.boot_ns, one.local_port, one.remote_port)


def test_a_part_of_a_backlog_has_more_openings_than_other_events() -> None:
    opening, other = event(), event(EventKind.BOUND)
    assert measure_part(b"", 4) == 0
    assert measure_part(other * 3, 4) == 3 * EVENT_BYTES
    assert measure_part(other * 9 + b"cut", 4) == 4 * EVENT_BYTES
    assert measure_part(opening * 99, 4) == 40 * EVENT_BYTES
    assert measure_part(other * 3 + opening * 99, 4) == 13 * EVENT_BYTES
    assert measure_part(other * 4 + b"cut", 4) == len(other * 4 + b"cut")
