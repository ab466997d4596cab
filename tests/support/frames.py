"""Frames of every link type, built from parts. Checksums are not valid: no decoder reads them."""

import struct
from collections.abc import Callable, Sequence

import numpy as np

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.scalar_link import LinkType

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02"
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
PPP_PROTOCOL = {4: b"\x00\x21", 6: b"\x00\x57"}
PPPOE = 0x8864


def tcp(
    source: int = 1000, destination: int = 80, flags: int = 0x10, payload: bytes = b""
) -> bytes:
    return struct.pack(">HHIIBBHHH", source, destination, 1, 2, 0x50, flags, 512, 0, 0) + payload


def udp(source: int = 1000, destination: int = 53, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def echo(kind: int, identifier: int) -> bytes:
    return struct.pack(">BBHHH", kind, 0, 0, identifier, 1)


def ipv4(
    protocol: int,
    payload: bytes,
    *,
    source: bytes = A4,
    destination: bytes = B4,
    total: int | None = None,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    identification: int = 0,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """Offset in bytes, a multiple of 8; options are a multiple of 4 bytes."""
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if total is None else total
    header = struct.pack(
        ">BBHHHBBH4s4s", version << 4 | words, 0, length, identification,
        more << 13 | offset // 8, 64, protocol, 0, source, destination,
    )  # fmt: skip
    return header + options + payload


def ipv6(
    next_header: int,
    payload: bytes,
    *,
    source: bytes = A6,
    destination: bytes = B6,
    payload_length: int | None = None,
    version: int = 6,
) -> bytes:
    length = len(payload) if payload_length is None else payload_length
    header = struct.pack(">IHBB", version << 28, length, next_header, 64)
    return header + source + destination + payload


def extension(next_header: int, payload: bytes, *, size: int = 8) -> bytes:
    """Hop-by-hop, routing, destination options and the like, of `size` bytes (a multiple of 8)."""
    return bytes([next_header, size // 8 - 1]) + bytes(size - 2) + payload


def jumbo(next_header: int, length: int, payload: bytes) -> bytes:
    """A hop-by-hop header with a jumbo payload option."""
    return struct.pack(">BBBBI", next_header, 0, 0xC2, 4, length) + payload


def authentication(next_header: int, payload: bytes, *, size: int = 24) -> bytes:
    """An AH of `size` bytes (a multiple of 4)."""
    return bytes([next_header, size // 4 - 2]) + bytes(size - 2) + payload


def fragment6(
    next_header: int, payload: bytes, *, identification: int, offset: int = 0, more: bool = False
) -> bytes:
    """An IPv6 fragment header; offset in bytes, a multiple of 8."""
    return struct.pack(">BBHI", next_header, 0, offset | more, identification) + payload


def ethernet(packet: bytes, ethertype: int | None = None, tags: Sequence[int] = ()) -> bytes:
    """A frame with a tag of each of the ethertypes `tags`; `ethertype` as the packet's version."""
    return bytes(12) + ethertyped(packet, ethertype, tags)


def ethertyped(packet: bytes, ethertype: int | None = None, tags: Sequence[int] = ()) -> bytes:
    """The ethertype and what follows it."""
    inner = ETHERTYPE[packet[0] >> 4] if ethertype is None else ethertype
    tagged = b"".join(struct.pack(">HH", tag, 7) for tag in tags)
    return tagged + struct.pack(">H", inner) + packet


def sll(
    packet: bytes, ethertype: int | None = None, *, packet_type: int = 0, hardware: int = 1,
    tags: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """A Linux cooked frame, version 1."""
    header = struct.pack(">HHH8x", packet_type, hardware, 6)
    return header + ethertyped(packet, ethertype, tags)


def sll2(
    packet: bytes, ethertype: int | None = None, *, packet_type: int = 0, hardware: int = 1,
    tags: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """A Linux cooked frame, version 2: the ethertype comes first, the rest after the header."""
    inner = ethertyped(packet, ethertype, tags)
    header = struct.pack(">HIHBB8x", 0, 3, hardware, packet_type, 6)
    return inner[:2] + header + inner[2:]


def snap(packet: bytes, ethertype: int | None = None, *, organisation: int = 0) -> bytes:
    """An LLC and a SNAP header, and the packet."""
    return b"\xaa\xaa\x03" + organisation.to_bytes(3) + ethertyped(packet, ethertype)


def mpls(packet: bytes, labels: int = 1) -> bytes:
    """A stack of labels; the packet follows the last one."""
    entries = [(16 + index) << 12 | 64 for index in range(labels)]
    if labels:
        entries[-1] |= 0x100
    return struct.pack(f">{labels}I", *entries) + packet


def pppoe(
    packet: bytes, protocol: bytes | None = None, *, start: int = 0x11, code: int = 0
) -> bytes:
    """A PPPoE session packet; `protocol` as the packet's version."""
    inner = (PPP_PROTOCOL[packet[0] >> 4] if protocol is None else protocol) + packet
    return struct.pack(">BBHH", start, code, 1, len(inner)) + inner


def ppp(packet: bytes, protocol: bytes | None = None, framing: bytes = b"\xff\x03") -> bytes:
    """A PPP frame; `protocol` as the packet's version."""
    return framing + (PPP_PROTOCOL[packet[0] >> 4] if protocol is None else protocol) + packet


def family(packet: bytes, number: int, order: str = ">") -> bytes:
    """A NULL or LOOP frame."""
    return struct.pack(order + "I", number) + packet


_WRAPPERS: dict[LinkType, Callable[[bytes], bytes]] = {
    LinkType.ETHERNET: ethernet,
    LinkType.LINUX_SLL: sll,
    LinkType.LINUX_SLL2: sll2,
    LinkType.PPP: ppp,
    LinkType.PPP_SERIAL: ppp,
    LinkType.PPP_PPPD: lambda packet: ppp(packet, framing=b"\x00\x03"),
    LinkType.PPP_ETHER: pppoe,
    LinkType.NULL: lambda packet: family(packet, 2 if packet[0] >> 4 == 4 else 24),
    LinkType.LOOP: lambda packet: family(packet, 2 if packet[0] >> 4 == 4 else 24),
}


def wrap(link_type: LinkType, packet: bytes) -> bytes:
    """Return `packet` (IPv4 or IPv6) in the simplest frame of `link_type`; raw IP has no header."""
    return _WRAPPERS.get(link_type, bytes)(packet)


def batch_of(
    frames: Sequence[bytes],
    times_us: Sequence[int] | None = None,
    original_lengths: Sequence[int] | None = None,
    tail: bytes = b"",
    nanoseconds: Sequence[int] | None = None,
) -> FrameBatch:
    """Return a batch as pcapy-ng lays it out; `times_us` are microseconds since the epoch.

    `tail` follows the last frame in the same memory, `nanoseconds` are added to the times.
    """
    times = times_us or [0] * len(frames)
    rows, offset = [], 0
    for time, frame in zip(times, frames, strict=True):
        rows.append((*divmod(time, 1_000_000), offset, len(frame)))
        offset += len(frame)
    lengths = None if original_lengths is None else np.array(original_lengths, np.uint32)
    records = np.array(rows, np.uint32).reshape(-1, 4)
    rest = None if nanoseconds is None else np.array(nanoseconds, np.uint16)
    return FrameBatch(b"".join(frames) + tail, records, lengths, rest)
