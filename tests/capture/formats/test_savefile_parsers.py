"""Capture files as their formats allow them, and as they do not: what a parser returns."""

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.captures import MODIFIED_MAGIC, NANOSECOND_MAGIC, Captured, Pcapng, lanes_of, pcap_file

from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.savefile_parser import MalformedFileError, SavefileParser

START = 1_700_000_000_000_000  # microseconds
LITTLE, BIG = Pcapng("<"), Pcapng(">")
BINARY_MILLISECONDS = LITTLE.option(9, b"\x8a")  # 2^-10 s
NANOSECONDS = LITTLE.option(9, b"\x09")


class Frame(NamedTuple):
    """A parsed frame."""

    link_type: int
    name: str
    time_us: int
    captured: bytes
    length: int
    nanoseconds: int = 0
    """Those of the time below 1000."""


def frame(
    captured: bytes, time_us: int = 0, link_type: int = 1, name: str = "", length: int = 0
) -> Frame:
    return Frame(link_type, name, time_us, captured, length or len(captured))


def parse(file: bytes, chunk: int = 1 << 20) -> tuple[list[Frame], SavefileParser, bytes]:
    """Return the frames, the parser and what is left over, the file being read in chunks."""
    parser = make_parser(file[:24])
    frames: list[Frame] = []
    rest = b""
    for start in range(0, len(file), chunk):
        data = rest + file[start : start + chunk]
        parsed = parser.parse(data)
        rows = parsed.frames.records[:, 2:].tolist()
        times = parsed.frames.list_times_ns()
        assert times == parsed.frames.times_ns().tolist()
        assert times == [parsed.frames.time_ns(row) for row in range(len(rows))]
        lengths = parsed.frames.original_lengths
        assert lengths is not None
        columns = zip(rows, times, lengths.tolist(), parsed.interface.tolist(), strict=True)
        for (offset, captured), time_ns, length, index in columns:
            interface = parser.interfaces[index]
            frames.append(
                Frame(
                    interface.link_type,
                    interface.name,
                    time_ns // 1000,
                    data[offset : offset + captured],
                    length,
                    time_ns % 1000,
                )
            )
        rest = data[parsed.used :]
    return frames, parser, rest


CAPTURED = [Captured(START, b"first", 1500), Captured(START + 7, b""), Captured(0, b"x" * 300)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "variant",
    [{}, {"magic": NANOSECOND_MAGIC}, {"magic": MODIFIED_MAGIC}, {"minor": 2}],
    ids=["usual", "nanoseconds", "modified", "lengths-exchanged"],
)
def test_each_variant_of_pcap_gives_the_same_frames(order: str, variant: dict[str, int]) -> None:
    frames, parser, rest = parse(pcap_file(CAPTURED, 113, order=order, **variant))
    assert frames == [
        frame(b"first", START, 113, length=1500),
        frame(b"", START + 7, 113),
        frame(b"x" * 300, 0, 113),
    ]
    assert (parser.failure, rest) == (None, b"")


def test_the_nanoseconds_of_a_pcap_file_are_kept() -> None:
    record = struct.pack("<IIII", 5, 999_999_999, 1, 1) + b"x"
    [found] = parse(pcap_file([], magic=NANOSECOND_MAGIC) + record)[0]
    assert found == frame(b"x", 5_999_999)._replace(nanoseconds=999)


PCAPNG: dict[str, tuple[bytes, list[Frame]]] = {
    "interfaces of several link types and snaplens": (
        LITTLE.section()
        + LITTLE.interface(1, "eth0", snaplen=65_535)
        + LITTLE.interface(113, "any", snaplen=262_144)
        + LITTLE.enhanced(1, b"cooked", START, 99)
        + LITTLE.enhanced(0, b"ether", START + 1),
        [frame(b"cooked", START, 113, "any", 99), frame(b"ether", START + 1, 1, "eth0")],
    ),
    "an interface that is described between frames": (
        LITTLE.section()
        + LITTLE.interface(1, "a")
        + LITTLE.enhanced(0, b"one")
        + LITTLE.interface(101, "b")
        + LITTLE.enhanced(1, b"two"),
        [frame(b"one", name="a"), frame(b"two", link_type=101, name="b")],
    ),
    "sections of both byte orders, each with interfaces of its own": (
        LITTLE.section()
        + LITTLE.interface(1, "a")
        + LITTLE.enhanced(0, b"one", START)
        + BIG.section()
        + BIG.interface(101, "b")
        + BIG.enhanced(0, b"two", START)
        + LITTLE.section()
        + LITTLE.interface(1, "a")
        + LITTLE.enhanced(0, b"three", START),
        [
            frame(b"one", START, 1, "a"),
            frame(b"two", START, 101, "b"),
            frame(b"three", START, 1, "a"),
        ],
    ),
    "clocks of several resolutions and offsets": (
        LITTLE.section()
        + LITTLE.interface(options=NANOSECONDS)
        + LITTLE.interface(options=BINARY_MILLISECONDS)
        + LITTLE.interface(options=LITTLE.offset(-5) + LITTLE.option(0, b""))
        + LITTLE.interface(options=LITTLE.option(9, b"\x94"))
        + LITTLE.enhanced(0, b"a", START * 1000 + 999)
        + LITTLE.enhanced(1, b"b", 1024 * 3 + 513)
        + LITTLE.enhanced(2, b"c", 7_000_001)
        + LITTLE.enhanced(3, b"d", (1 << 20) + 1),
        [
            frame(b"a", START)._replace(nanoseconds=999),
            frame(b"b", 3_500_976)._replace(nanoseconds=562),
            frame(b"c", 2_000_001),
            frame(b"d", 1_000_000)._replace(nanoseconds=953),
        ],
    ),
    "obsolete and simple packet blocks": (
        BIG.section()
        + BIG.interface(1, snaplen=4)
        + BIG.interface(101)
        + BIG.obsolete(1, b"obsolete", START, 60)
        + BIG.simple(b"simp", 60)
        + BIG.simple(b"s")
        + BIG.enhanced(0, b"last"),
        [
            frame(b"obsolete", START, 101, length=60),
            frame(b"simp", length=60),
            frame(b"s"),
            frame(b"last"),
        ],
    ),
    "blocks without frames": (
        LITTLE.section()
        + b"".join(LITTLE.block(kind, bytes(16)) for kind in (4, 9, 10, 0x0BAD, 0x40000BAD))
        + LITTLE.interface()
        + LITTLE.block(5, bytes(20))
        + LITTLE.enhanced(0, b"frame"),
        [frame(b"frame")],
    ),
    "a frame of an interface that is not described": (
        LITTLE.section()
        + LITTLE.interface()
        + LITTLE.enhanced(82, b"unknown", 1)
        + LITTLE.enhanced(0, b"known", 2),
        [frame(b"unknown", 1, -1), frame(b"known", 2)],
    ),
    "a frame before the description of its interface, whose clock it does not have": (
        LITTLE.section()
        + LITTLE.enhanced(0, b"early", 7)
        + LITTLE.interface(options=NANOSECONDS + LITTLE.offset(-5))
        + LITTLE.enhanced(0, b"known", 7_000_002_000),
        [frame(b"early", 7, -1), frame(b"known", 2_000_002)],
    ),
    "damaged options": (
        LITTLE.section()
        + LITTLE.interface(1, "a", options=LITTLE.option(9, b"")[:2] + b"\xff\xff")
        + LITTLE.enhanced(0, b"frame"),
        [frame(b"frame", name="a")],
    ),
    "times beyond what a clock can show": (
        LITTLE.section()
        + LITTLE.interface(options=LITTLE.option(9, b"\x00"))
        + LITTLE.interface(options=LITTLE.option(9, b"\x7f"))
        + LITTLE.interface(options=LITTLE.option(9, b"\xff"))
        + LITTLE.interface(options=LITTLE.offset(-(1 << 63)))
        + b"".join(LITTLE.enhanced(index, b"f", (1 << 64) - 1) for index in range(4)),
        [
            frame(b"f", 0xFFFFFFFF * 1_000_000),
            frame(b"f", 0),
            frame(b"f", 0),
            frame(b"f", 551_615),
        ],
    ),
}


@pytest.mark.parametrize("situation", PCAPNG)
@pytest.mark.parametrize("chunk", [1 << 20, 1, 24, 333])
def test_a_pcapng_file_gives_its_frames_in_order(situation: str, chunk: int) -> None:
    file, expected = PCAPNG[situation]
    frames, parser, rest = parse(file, chunk)
    assert frames == expected
    assert (parser.failure, parser.skipped_blocks, rest) == (None, {}, b"")


def test_blocks_of_unknown_types_are_skipped_and_counted() -> None:
    file = (
        LITTLE.section()
        + LITTLE.block(0x204, b"event")
        + LITTLE.interface()
        + LITTLE.enhanced(0, b"frame")
        + LITTLE.block(0x204, b"event") * 2
        + LITTLE.block(7, b"")
    )
    frames, parser, _rest = parse(file)
    assert frames == [frame(b"frame")]
    assert parser.skipped_blocks == {0x204: 3, 7: 1}


DESCRIBED = LITTLE.section() + LITTLE.interface() + LITTLE.enhanced(0, b"good")
DAMAGED = {
    "a block of length 0": LITTLE.block(6, b"")[:4] + bytes(8),
    "a block whose length is no multiple of 4": b"\6\0\0\0" + b"\x21\0\0\0" + bytes(40),
    "a block too short for its type": LITTLE.block(6, bytes(16)),
    "two lengths that differ": LITTLE.enhanced(0, b"next")[:-4] + b"\x20\0\0\0",
    "a block beyond the bound": b"\xad\x0b\0\0" + b"\0\0\0\2" + bytes(40),
    "a frame longer than its block": LITTLE.block(6, bytes(12) + b"\xff" * 8),
    "a section without a byte order": LITTLE.section()[:8] + bytes(40),
    "a section of an unknown version": LITTLE.section().replace(b"\1\0\0\0", b"\2\0\0\0"),
    "a section header of an invalid length": LITTLE.section()[:4] + bytes(4) + LITTLE.section()[8:],
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("chunk", [1 << 20, 7])
def test_frames_before_a_damaged_block_are_returned_and_none_after_it(
    damage: str, chunk: int
) -> None:
    frames, parser, _rest = parse(DESCRIBED + DAMAGED[damage] + DESCRIBED, chunk)
    assert frames == [frame(b"good")]
    assert parser.failure is not None
    assert parser.failure.startswith(f"damaged at byte {len(DESCRIBED)}: ")


def test_frames_before_a_record_of_an_impossible_size_are_returned() -> None:
    file = bytearray(pcap_file([Captured(0, b"abcd")] * 3))
    file[24 + 20 + 8 : 24 + 20 + 12] = b"\xff\xff\xff\0"
    frames, parser, _rest = parse(bytes(file))
    assert frames == [frame(b"abcd")]
    assert parser.failure is not None
    assert parser.failure.startswith("damaged after 1 frames: ")


def test_more_interfaces_than_the_bound_end_the_reading() -> None:
    one_more = b"".join(LITTLE.interface(1, f"i{index}") for index in range(4097))
    _frames, parser, _rest = parse(LITTLE.section() + one_more)
    assert parser.failure == "it has more than 4,096 interfaces"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "neither pcap nor pcapng"),
        (b"these are no packets", "neither pcap nor pcapng"),
        (b"\x1f\x8b\x08\0", "compressed with gzip; decompress it first"),
        (b"\x28\xb5\x2f\xfd\0", "compressed with zstd; decompress it first"),
        (pcap_file([])[:23], "truncated within its file header"),
    ],
)
def test_the_first_bytes_of_a_file_say_why_it_is_no_capture_file(head: bytes, reason: str) -> None:
    with pytest.raises(MalformedFileError, match=reason):
        make_parser(head)


FRAMES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [LITTLE.enhanced(0, b"in"), LITTLE.enhanced(0, b"in") * 2, BIG.enhanced(0, b"")]
    ),
)
"""Some look like blocks."""
LEAST = st.sampled_from([1, 3, 32])
"""Records in a lane."""


@st.composite
def pcapng_files(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """A file of several sections, and the frames in it."""
    file, expected = b"", []
    for _ in range(draw(st.integers(1, 3))):
        build = draw(st.sampled_from([LITTLE, BIG]))
        file += build.section()
        interfaces: list[tuple[int, str]] = []
        for _ in range(draw(st.integers(0, 12))):
            kind = draw(st.sampled_from(["interface", "enhanced", "enhanced", "obsolete", "other"]))
            if kind == "interface":
                interfaces.append((draw(st.sampled_from([1, 113])), draw(st.sampled_from("ab"))))
                file += build.interface(*interfaces[-1])
            elif kind == "other":
                file += build.block(0x0BAD, draw(st.binary(max_size=40)))
            else:
                number = draw(st.integers(0, 3))
                data, time_us = draw(FRAMES), draw(st.integers(0, 1 << 50))
                file += getattr(build, kind)(number, data, time_us, 1000)
                described = number < len(interfaces)
                link_type, name = interfaces[number] if described else (-1, "")
                expected.append(frame(data, time_us, link_type, name, 1000))
    return file, expected


@given(pcapng_files(), st.integers(1, 200), LEAST)
def test_every_frame_of_a_pcapng_file_is_returned_whatever_the_chunks(
    built: tuple[bytes, list[Frame]], chunk: int, least: int
) -> None:
    file, expected = built
    with lanes_of(least, 2):
        frames, parser, rest = parse(file, chunk)
    assert frames == expected
    assert (parser.failure, rest) == (None, b"")


@given(pcapng_files(), st.binary(min_size=1, max_size=4), st.data(), st.integers(1, 200), LEAST)
def test_no_bytes_raise_and_every_frame_lies_within_the_file(
    built: tuple[bytes, list[Frame]], change: bytes, data: st.DataObject, chunk: int, least: int
) -> None:
    at = data.draw(st.integers(4, len(built[0])))
    file = built[0][:at] + change + built[0][at + len(change) :]
    frames, _parser, _rest = parse(file, chunk)
    assert sum(len(one.captured) for one in frames) <= len(file)
    with lanes_of(least, 2):
        assert parse(file, chunk)[0] == parse(file)[0] == frames


@given(st.sampled_from(["<", ">"]), st.binary(max_size=200), st.integers(1, 200))
def test_no_records_of_a_pcap_file_raise(order: str, records: bytes, chunk: int) -> None:
    file = pcap_file([], order=order) + records
    assert parse(file, chunk)[0] == parse(file)[0]
