"""Filters applied to columns give what libpcap's interpreter gives for each frame."""

import pcapy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import frame_strategies
from support.frames import batch_of, ethernet, extension, ipv6, tcp, udp

from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.formats.filter_program import FilterProgram
from hogpipe.capture.pcap import compile_filter

EXPRESSIONS = [
    "tcp",
    "udp port 53 or icmp6",
    "host 10.0.0.1 and not port 80",
    "ip6 and tcp dst portrange 50-100",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "len <= 60 or len > 100",
    "ip[2:2] - ((ip[0] & 0xf) << 2) > 8",
    "ip[6:2] & 0x1fff != 0 or ip[8] % 7 = 1 or ip[8] / ip[1] = 3 or ip[8] * 3 = 192",
    "(ip[4:2] ^ 0x55) | 1 = 0x55 and ip[9] >> 2 = 1",
    "portrange 40000-50000 or less 40",
    "ip6 protochain 6",
]
ETHERNET_EXPRESSIONS = ["vlan and tcp", "ether[0] & 1 = 0 and ip", "pppoes and ip", "mpls"]
LINK_TYPES = [LinkType.ETHERNET, LinkType.LINUX_SLL, LinkType.LINUX_SLL2, LinkType.RAW_FILE]


@given(st.data())
def test_a_filter_matches_the_frames_that_libpcap_matches(data: st.DataObject) -> None:
    link_type = data.draw(st.sampled_from(LINK_TYPES))
    usual = ETHERNET_EXPRESSIONS if link_type == LinkType.ETHERNET else []
    expression = data.draw(st.sampled_from(EXPRESSIONS + usual))
    frames = data.draw(st.lists(frame_strategies.frames(link_type), max_size=30))
    batch = batch_of(frames, original_lengths=[len(frame) for frame in frames])
    program = FilterProgram(compile_filter(expression, link_type, "here"))
    number = 12 if link_type == LinkType.RAW_FILE else int(link_type)
    reference = pcapy.compile(number, 262_144, expression, 1, 0)
    expected = [bool(reference.filter(frame)) for frame in frames]
    assert program.matches(batch).tolist() == expected


def test_the_length_is_that_on_the_link_and_not_the_captured_one() -> None:
    program = FilterProgram(compile_filter("greater 1000", LinkType.ETHERNET, "here"))
    batch = batch_of([bytes(60)] * 3, original_lengths=[60, 999, 1000])
    assert program.matches(batch).tolist() == [False, False, True]


@pytest.mark.parametrize("headers", [0, 1, 2, 7])
def test_a_filter_may_loop_over_the_headers_of_a_packet(headers: int) -> None:
    packet, protocol = tcp(), 6
    for _ in range(headers):
        packet, protocol = extension(protocol, packet), 60
    frames = [ethernet(ipv6(protocol, packet)), ethernet(ipv6(60, extension(17, udp())))]
    program = FilterProgram(compile_filter("ip6 protochain 6", LinkType.ETHERNET, "here"))
    batch = batch_of(frames, original_lengths=[len(frame) for frame in frames])
    assert program.matches(batch).tolist() == [True, False]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x00, 0x01, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0xB1, 0x60, 0x61,
                             0x02, 0x03, 0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3C, 0x54, 0x64,
                             0x6C, 0x74, 0x7C, 0x84, 0x94, 0x9C, 0xA4, 0xAC, 0x05, 0x15, 0x1D, 0x25,
                             0x35, 0x45, 0x07, 0x87, 0x06, 0x16]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.sampled_from([0, 1, 2, 7, 31, 32, 33, 255, 0x7FFFFFFF, 0xFFFFFFFF]),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_no_instruction_raises(instructions: list[tuple[int, int, int, int]]) -> None:
    batch = batch_of([b"", b"a", bytes(range(64))], original_lengths=[0, 1, 64])
    assert len(FilterProgram(instructions).matches(batch)) == 3


@pytest.mark.parametrize("frames", [[], [b""], [b"", b""]])
def test_frames_without_bytes_match_no_filter_that_reads(frames: list[bytes]) -> None:
    program = FilterProgram(compile_filter("tcp", LinkType.ETHERNET, "here"))
    batch = batch_of(frames, original_lengths=[0] * len(frames))
    assert not program.matches(batch).any()
