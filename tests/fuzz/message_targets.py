"""Targets: messages of the kernel, which hold what processes and their peers chose."""

import struct
from collections.abc import Iterator

import numpy as np
from fuzz.target import Target

from hogpipe.attribution.ledger.socket_events import (
    EVENT_BYTES,
    EventBlock,
    decode_process,
    find_released,
    measure_part,
)
from hogpipe.linux import ctnetlink_messages, sock_diag_messages
from hogpipe.linux.bpf.process_events import decode_process_events
from hogpipe.linux.bpf.shapes import PROCESS_EVENT, SOCKET_EVENT, TRAFFIC_ROW, EventKind
from hogpipe.linux.bpf.traffic_rows import decode_rows, encode_endpoints, set_owners, tally_rows
from hogpipe.linux.netlink_messages import parse_messages
from hogpipe.linux.netns.nsid import parse_nsid
from hogpipe.linux.rtnetlink import parse_address, parse_link

_HEADER = struct.Struct("=IHHII")
_ENDS = "local_address", "local_port", "remote_address", "remote_port", "protocol"
_A4, _B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])


def message(kind: int, body: bytes, flags: int = 2) -> bytes:
    """Return a netlink message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return a netlink attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def check_sock_diag(data: bytes) -> None:
    """Any datagram parses; the wanted rows are among all rows, each with a cookie."""
    answer = sock_diag_messages.parse_answer(data)
    assert len(answer.rows) == len(answer.cookies)
    ports = 443, 50_000
    rows = sock_diag_messages.parse_answer(data, sock_diag_messages.pack_ports([ports])).rows
    assert rows == [row for row in answer.rows if (row.local_port, row.remote_port) == ports]
    assert {len(row.local_address) for row in answer.rows} <= {4, 16}


def check_ctnetlink(data: bytes) -> None:
    """Any datagram parses, and a connection that it has can be asked for."""
    found = ctnetlink_messages.parse_answer(data).connection
    if found is not None:
        for one in found:
            assert len(one.source) == len(one.destination)


def check_rtnetlink(data: bytes) -> None:
    """Links and addresses parse whatever the attributes are."""
    for _kind, payload in parse_messages(data):
        link, address = parse_link(payload), parse_address(payload)
        assert link is None or link.name
        assert address is None or len(address.address) in (4, 16)
    parse_nsid(data)


def check_socket_events(data: bytes) -> None:
    """Events in columns are those one by one, and what is no event is counted."""
    block = EventBlock(data)
    events = list(block)
    assert len(events) == len(block)
    assert len(block) + block.malformed == -(-len(data) // EVENT_BYTES)
    assert events == [block.decode(position) for position in range(len(block))]
    assert list(block.boot_ns) == [one.boot_ns for one in events]
    for one, process in zip(events, map(decode_process, block.processes), strict=True):
        assert (one.cgroup, one.pid, one.user_id) == (process.cgroup, process.pid, process.user_id)
        assert one.command == process.command
    openings = block.find_openings()
    for position, cookie, five_tuple in zip(
        openings.positions, openings.cookies, openings.five_tuples, strict=True
    ):
        one = events[position]
        assert cookie == one.cookie
        assert five_tuple == (
            one.namespace_cookie, one.protocol,
            one.local_address, one.local_port, one.remote_address, one.remote_port,
        )  # fmt: skip
    released = [one.cookie for one in events if one.kind is EventKind.RELEASED]
    assert [one[0] for one in block.find_releases().values()] == released
    if not block.malformed:
        assert find_released(data) == released
    assert measure_part(data, 3) <= len(data)


def check_traffic_rows(data: bytes) -> None:
    """Rows decode to owners and endpoints; endpoints are encoded to the same again."""
    size = TRAFFIC_ROW.itemsize
    rows = np.frombuffer(data[: len(data) - len(data) % size], TRAFFIC_ROW)
    decoded = decode_rows(rows)
    assert len(decoded) == len(rows)
    for row in decoded:
        again = encode_endpoints(*(getattr(row.endpoints, name) for name in _ENDS))
        assert len(again) == TRAFFIC_ROW["endpoints"].itemsize
        row.owner.command.encode()
    copy = rows.copy()
    everywhere = np.arange(len(rows))
    set_owners(copy, everywhere, everywhere, [row.owner for row in decoded])
    assert [row.owner.pid for row in decode_rows(copy)] == [row.owner.pid for row in decoded]
    if len(rows):
        tally_rows(rows)


def check_process_events(data: bytes) -> None:
    """Whole events decode."""
    assert len(decode_process_events(data)) == len(data) // PROCESS_EVENT.itemsize


def seed_sock_diag() -> Iterator[bytes]:
    ports = struct.pack(">HH", 443, 50_000)
    for family, kind in ((2, 20), (10, 18)):
        ends = ports + _A4.ljust(16, b"\0") + _B4.ljust(16, b"\0")
        body = bytes([family, 1, 0, 0]) + ends + struct.pack("=IIIIIIII", 0, 1, 2, 0, 0, 0, 33, 77)
        yield message(kind, body + attribute(8, b"\0")) + message(3, bytes(4))
    yield message(2, struct.pack("=i", -2))


def seed_ctnetlink() -> Iterator[bytes]:
    for protocol, numbers in ((6, (2, 3)), (1, (4, 5, 6))):
        ends = attribute(1, _A4) + attribute(2, _B4)
        fields = attribute(1, bytes([protocol]))
        fields += b"".join(attribute(one, b"\0\x50"[: 2 if one < 5 else 1]) for one in numbers)
        parts = attribute(0x8001, ends) + attribute(0x8002, fields)
        yield message(0x100, b"\2\0\0\0" + attribute(0x8001, parts) + attribute(0x8002, parts))
    yield message(2, struct.pack("=i", -1))


def seed_rtnetlink() -> Iterator[bytes]:
    link = struct.pack("=BxHiII", 0, 1, 7, 0x1043, 0)
    kind = attribute(18, attribute(1, b"veth\0"))
    yield message(16, link + attribute(3, b"eth0\0") + attribute(5, b"\3\0\0\0") + kind)
    address = struct.pack("=BBBBI", 2, 24, 0, 0, 7)
    yield message(20, address + attribute(1, _A4) + attribute(2, _A4) + attribute(4, _B4))
    yield message(88, b"\0\0\0\0" + attribute(1, b"\1\0\0\0"))


def seed_socket_events() -> Iterator[bytes]:
    events = []
    for number, kind in enumerate(EventKind):
        one = np.zeros(1, SOCKET_EVENT)
        for name, value in (("boot_ns", 5), ("cookie", number), ("namespace", 7), ("pid", 9)):
            one[name] = value
        one["kind"], one["family"], one["protocol"] = kind, 2 if number % 2 else 10, 6
        one["local_port"], one["remote_port"] = 40_000, 443
        one["local_address"], one["command"] = _A4.ljust(16, b"\0"), b"cur\xff".ljust(16, b"\0")
        events.append(one.tobytes())
    yield from events
    yield b"".join(events)


def seed_traffic_rows() -> Iterator[bytes]:
    for family, address in ((2, _A4), (10, bytes(15) + b"\1")):
        row = np.zeros(1, TRAFFIC_ROW)
        row["cookie"], row["pid"], row["counts"] = 5, 42, 100
        encoded = bytearray(encode_endpoints(address, 1, address, 2, 6))
        encoded[37] = family
        row["endpoints"] = np.frombuffer(bytes(encoded), np.uint64)
        yield row.tobytes() * 2


MESSAGE_TARGETS = {
    "sock-diag": Target(check_sock_diag, tuple(seed_sock_diag())),
    "ctnetlink": Target(check_ctnetlink, tuple(seed_ctnetlink())),
    "rtnetlink": Target(check_rtnetlink, tuple(seed_rtnetlink())),
    "socket-events": Target(check_socket_events, tuple(seed_socket_events())),
    "traffic-rows": Target(check_traffic_rows, tuple(seed_traffic_rows())),
    "process-events": Target(check_process_events, (bytes(PROCESS_EVENT.itemsize * 2 + 1),)),
}
