"""What is encoded is what readers find: hogpipe's own one, and a plain one."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from support.packet_files import COMMENT, PROCESS, parse_packet_file

from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.pcapng_encoder import (
    INBOUND,
    InterfaceCounts,
    encode_annotation,
    encode_interface,
    encode_packet,
    encode_section,
    encode_statistics,
)

SECOND = 1_000_000_000
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


class Frame(NamedTuple):
    interface: int
    time_ns: int
    data: bytes
    beyond: int
    comments: list[str]
    pid: int


frames = st.builds(
    Frame,
    interface=st.integers(0, 2),
    time_ns=st.integers(0, 2**32 * 1_000_000_000 - 1),
    data=st.binary(max_size=40),
    beyond=st.integers(0, 1000),
    comments=st.lists(names, max_size=2),
    pid=st.integers(0, 2**32 - 1),
)
interfaces = st.lists(st.tuples(st.integers(0, 300), names), min_size=3, max_size=3)


def cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def encode(described: list[tuple[int, str]], written: list[Frame]) -> bytes:
    blocks = [encode_section("hogpipe test", "Linux")]
    blocks += [encode_interface(kind, 262_144, name, "tcp") for kind, name in described]
    for one in written:
        annotation = encode_annotation(one.comments, one.pid, INBOUND)
        size = len(one.data) + one.beyond
        blocks.append(encode_packet(one.interface, one.time_ns, one.data, size, annotation))
    return b"".join(blocks)


@given(interfaces, st.lists(frames, max_size=8))
def test_hogpipes_reader_finds_what_was_encoded(
    described: list[tuple[int, str]], written: list[Frame]
) -> None:
    data = encode(described, written)
    parser = make_parser(data)
    parsed = parser.parse(data)
    assert parsed.used == len(data)
    assert parser.failure is None
    captured_by = [parser.interfaces[number] for number in parsed.interface.tolist()]
    names_of = [(kind, cut(name, 256)) for kind, name in described]
    assert [(one.link_type, one.name) for one in captured_by] == [
        names_of[one.interface] for one in written
    ]
    assert parsed.frames.original_lengths is not None
    lengths = parsed.frames.original_lengths.tolist()
    found = [
        (time_ns, parsed.frames.data[at : at + size], length)
        for time_ns, (at, size), length in zip(
            parsed.frames.list_times_ns(),
            parsed.frames.records[:, 2:].tolist(),
            lengths,
            strict=True,
        )
    ]
    assert found == [(one.time_ns, one.data, len(one.data) + one.beyond) for one in written]


@given(interfaces, st.lists(frames, max_size=8))
def test_a_plain_reader_finds_owners_and_comments(
    described: list[tuple[int, str]], written: list[Frame]
) -> None:
    content = parse_packet_file(encode(described, written))
    assert content.interfaces == [cut(name, 256) for _, name in described]
    assert [(one.frame, one.time_ns) for one in content.packets] == [
        (one.data, one.time_ns) for one in written
    ]
    assert [one.comments for one in content.packets] == [one.comments for one in written]
    assert [one.pid for one in content.packets] == [one.pid or None for one in written]


def test_the_statistics_of_an_interface_have_times_counters_and_a_comment() -> None:
    counts = InterfaceCounts(3 * SECOND, 2**33, 10, 4, 1, 2**40, "4 matched")
    section = encode_section("hogpipe", "Linux") + encode_interface(1, 0, "eth0", "")
    [options] = parse_packet_file(section + encode_statistics(0, counts)).statistics
    numbers = {code: int.from_bytes(options[code][0], "little") for code in range(4, 9)}
    assert numbers == {4: 10, 5: 1, 6: 10, 7: 2**40, 8: 4}
    assert options[COMMENT] == [b"4 matched"]
    assert options[2] == [(0).to_bytes(4, "little") + (3 * SECOND).to_bytes(4, "little")]
    assert options[3] == [(2).to_bytes(4, "little") + (0).to_bytes(4, "little")]


def test_a_long_comment_is_cut_at_a_whole_character() -> None:
    data = encode_section("hogpipe", "Linux") + encode_interface(1, 0, "eth0", "")
    data += encode_packet(0, 0, b"x", 1, encode_annotation(["é" * 5000], 0, 0))
    [packet] = parse_packet_file(data).packets
    assert packet.comments == ["é" * 2048]
    assert PROCESS not in packet.options
