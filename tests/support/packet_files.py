"""A plain reader of little-endian pcapng files, which shares no code with hogpipe."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTION, INTERFACE, STATISTICS, ENHANCED = 0x0A0D0D0A, 1, 5, 6
COMMENT, PROCESS = 1, 8
_FIXED = {SECTION: 16, INTERFACE: 8, STATISTICS: 12}

Options = dict[int, list[bytes]]


class Block(NamedTuple):
    kind: int
    fixed: bytes
    options: Options


class WrittenPacket(NamedTuple):
    """An enhanced packet block, with the name of its interface."""

    interface: str
    time_ns: int
    frame: bytes
    original_length: int
    options: Options

    @property
    def comments(self) -> list[str]:
        return [text.decode() for text in self.options.get(COMMENT, [])]

    @property
    def pid(self) -> int | None:
        found = self.options.get(PROCESS)
        return struct.unpack("<II", found[0])[0] if found else None


class PacketFileContent(NamedTuple):
    interfaces: list[str]
    packets: list[WrittenPacket]
    statistics: list[Options]
    sections: int


def split_blocks(data: bytes, *, may_be_cut: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the body of each whole block."""
    at = 0
    while at < len(data):
        if may_be_cut and (len(data) - at < 8 or at + read_size(data, at) > len(data)):
            return
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0
        assert size >= 12
        assert at + size <= len(data), "the last block is cut"
        assert struct.unpack_from("<I", data, at + size - 4) == (size,)
        yield kind, data[at + 8 : at + size - 4]
        at += size


def read_size(data: bytes, at: int) -> int:
    return int.from_bytes(data[at + 4 : at + 8], "little")


def read_options(data: bytes) -> Options:
    found: Options = {}
    at = 0
    while at < len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if not code:
            assert at + 4 == len(data)
            break
        found.setdefault(code, []).append(data[at + 4 : at + 4 + size])
        at += 4 + size + -size % 4
    return found


def read_packet_file(path: Path, *, may_be_cut: bool = False) -> PacketFileContent:
    return parse_packet_file(path.read_bytes(), may_be_cut=may_be_cut)


def parse_packet_file(data: bytes, *, may_be_cut: bool = False) -> PacketFileContent:
    content = PacketFileContent([], [], [], 0)
    names: list[str] = []
    for kind, body in split_blocks(data, may_be_cut=may_be_cut):
        if kind == SECTION:
            assert body[:4] == bytes.fromhex("4d3c2b1a")
            content, names = content._replace(sections=content.sections + 1), []
        elif kind == INTERFACE:
            options = read_options(body[_FIXED[kind] :])
            assert options[9] == [bytes([9])], "timestamps are in nanoseconds"
            names.append(options.get(2, [b""])[0].decode())
            content.interfaces.append(names[-1])
        elif kind == STATISTICS:
            content.statistics.append(read_options(body[_FIXED[kind] :]))
        else:
            assert kind == ENHANCED
            number, upper, lower, size, original = struct.unpack_from("<IIIII", body)
            end = 20 + size
            packet = WrittenPacket(
                names[number],
                upper << 32 | lower,
                body[20:end],
                original,
                read_options(body[end + -size % 4 :]),
            )
            content.packets.append(packet)
    return content
