"""The socket filter for lengths, run by the kernel on the sockets of a pair."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pcapy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import frames as build
from support.frame_strategies import frames

from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import LinkType, Packet, locate_packet
from hogpipe.capture.decode.wire_packets import DecodedFrames
from hogpipe.capture.formats.filter_program import Instruction
from hogpipe.capture.length_filter import add_length_check
from hogpipe.linux.socket_filter import attach_filter, read_filter

ETHERNET, RAW = LinkType.ETHERNET, LinkType.RAW
SNAPLEN = 128
ACCEPT_ALL = [(6, 0, 0, SNAPLEN)]


class FilteredSocket:
    """Two connected sockets, of which one has a filter."""

    def __init__(self, link_type: int, snaplen: int, existing: Sequence[Instruction]) -> None:
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        program = add_length_check(link_type, snaplen, existing)
        assert program is not None
        attach_filter(self._receiver.fileno(), program)
        self.attached = read_filter(self._receiver.fileno())
        self.program = program

    def pass_on(self, frame: bytes) -> bytes | None:
        """Return what the filter leaves of a frame; None if it drops the frame."""
        with suppress(PermissionError):
            self._sender.send(frame)
        with suppress(BlockingIOError):
            return self._receiver.recv(1 << 17, socket.MSG_DONTWAIT)
        return None

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


@contextmanager
def filtered(
    link_type: int, snaplen: int = SNAPLEN, existing: Sequence[Instruction] = ACCEPT_ALL
) -> Iterator[FilteredSocket]:
    made = FilteredSocket(link_type, snaplen, existing)
    try:
        yield made
    finally:
        made.close()


def decode(link_type: int, captured: bytes, snaplen: int = SNAPLEN) -> DecodedFrames:
    return Decoder(link_type, FragmentTable(), snaplen).decode(build.batch_of([captured]))


UDP = build.udp(7, 9, bytes(300))
FITTING = [
    build.ipv4(17, UDP),
    build.ipv4(17, UDP, options=bytes(8)),
    build.ipv4(17, UDP, identification=1, offset=8),
    build.ipv4(17, UDP, total=40),
    build.ipv6(17, UDP),
    build.ipv6(0, build.extension(17, UDP)),
    build.ipv6(0, build.jumbo(17, 8 + len(UDP), UDP), payload_length=0),
]
BIG_TCP = [
    build.ipv4(6, build.tcp(payload=bytes(70_000)), total=0),
    build.ipv6(6, build.tcp(payload=bytes(70_000)), payload_length=0),
]
LYING = [
    build.ipv4(17, UDP, total=20 + len(UDP) + 1),
    build.ipv4(17, UDP, total=65_535),
    build.ipv6(17, UDP, payload_length=len(UDP) + 1),
    build.ipv6(0, build.jumbo(17, 8 + len(UDP) + 1, UDP), payload_length=0),
    build.ipv6(0, build.jumbo(17, 0xFFFFFFFF, UDP), payload_length=0),
    build.ipv6(0, build.jumbo(17, 0xFFFFFFD7, UDP), payload_length=0),
    build.ipv4(6, build.tcp(payload=bytes(300)), total=0),
    build.ipv6(6, build.tcp(payload=bytes(300)), payload_length=0),
]


def wrap_variously(packet: bytes) -> list[tuple[LinkType, bytes]]:
    """The packet behind each header that the filter skips."""
    short = build.PPP_PROTOCOL[packet[0] >> 4][1:]
    deep = [0x8100] * 4
    return [
        (RAW, packet),
        *((ETHERNET, build.ethernet(packet, tags=[0x8100] * tags)) for tags in range(5)),
        *((ETHERNET, build.ethernet(packet, tags=[tag])) for tag in (0x88A8, 0x9100, 0x9200)),
        *(
            (ETHERNET, build.ethernet(build.pppoe(packet), build.PPPOE, tags))
            for tags in ([], deep)
        ),
        (ETHERNET, build.ethernet(build.pppoe(packet, short), build.PPPOE)),
        (ETHERNET, build.ethernet(build.pppoe(build.mpls(packet), b"\x02\x81"), build.PPPOE, deep)),
        *((ETHERNET, build.ethernet(build.mpls(packet, n), 0x8847)) for n in (1, 2, 8)),
        (ETHERNET, build.ethernet(build.mpls(packet, 8), 0x8848, deep)),
        *((ETHERNET, build.ethernet(build.snap(packet), 8, deep[:tags])) for tags in (0, 3)),
    ]


@pytest.mark.parametrize("snaplen", [96, 128, 1000])
@pytest.mark.parametrize("packet", FITTING)
def test_a_frame_that_its_packet_fits_into_is_captured_up_to_the_snaplen(
    packet: bytes, snaplen: int
) -> None:
    for link_type, frame in wrap_variously(packet):
        with filtered(link_type, snaplen, [(6, 0, 0, snaplen)]) as one:
            assert one.pass_on(frame) == frame[:snaplen]
            assert one.pass_on(frame + bytes(9)) == (frame + bytes(9))[:snaplen]


@pytest.mark.parametrize("packet", BIG_TCP)
def test_a_big_tcp_packet_counts_with_the_least_length_that_it_can_have(packet: bytes) -> None:
    for link_type, frame in ((RAW, packet), (ETHERNET, build.ethernet(packet))):
        with filtered(link_type) as one:
            captured = one.pass_on(frame)
        assert captured == frame[:SNAPLEN]
        flows = decode(link_type, captured)
        assert (flows.packets.bytes.tolist(), flows.needs_original_lengths) == ([65_536], True)


@pytest.mark.parametrize("snaplen", [128, 300])
@pytest.mark.parametrize("packet", LYING)
def test_a_frame_whose_packet_claims_more_is_undecoded(packet: bytes, snaplen: int) -> None:
    for link_type, frame in wrap_variously(packet):
        with filtered(link_type, snaplen, [(6, 0, 0, snaplen)]) as one:
            captured = one.pass_on(frame)
        assert captured is not None
        flows = decode(link_type, captured, snaplen)
        assert (flows.captured, flows.undecoded.packets) == (flows.undecoded, 1)


@given(st.data(), st.sampled_from([ETHERNET, RAW]), st.sampled_from([96, 128]))
@settings(max_examples=500)
def test_lengths_read_the_fast_way_are_those_read_with_the_original_length(
    data: st.DataObject, link_type: int, snaplen: int
) -> None:
    frame = data.draw(frames(link_type)) + bytes(data.draw(st.integers(0, 200)))
    if not frame:
        return
    with filtered(link_type, snaplen, [(6, 0, 0, snaplen)]) as one:
        captured = one.pass_on(frame)
    assert captured is not None
    decoder = Decoder(link_type, FragmentTable(), snaplen)
    flows, rest = decoder.decode(build.batch_of([captured])), decoder.flush()
    assert flows.captured.bytes + rest.captured.bytes <= len(frame)
    exact = decode_frame(link_type, frame[:snaplen], len(frame))
    if lengths := flows.packets.bytes.tolist() + rest.packets.bytes.tolist():
        assert isinstance(exact, DecodedFrame)
        assert lengths == [exact.length]
    elif isinstance(exact, DecodedFrame):
        assert not has_length_field(link_type, frame)


def has_length_field(link_type: int, frame: bytes) -> bool:
    """Whether the length is where it usually is, and not in an option or nowhere."""
    packet = locate_packet(link_type, frame)
    assert isinstance(packet, Packet)
    at = packet.at + (2 if packet.version == 4 else 4)
    return any(frame[at : at + 2])


@pytest.mark.parametrize("expression", ["", "udp", "ip6 or port 9", "vlan and udp", "greater 200"])
def test_the_users_filter_decides_what_is_captured(expression: str) -> None:
    reference = pcapy.compile(ETHERNET, SNAPLEN, expression, 1, 0)
    with filtered(ETHERNET, SNAPLEN, reference.get_bpf()) as one:
        for packet in FITTING + LYING:
            for frame in (build.ethernet(packet), build.ethernet(packet, tags=[0x8100])):
                assert (one.pass_on(frame) is not None) == bool(reference.filter(frame))


def test_the_program_on_a_socket_is_read_back() -> None:
    with filtered(ETHERNET) as one:
        assert one.attached == one.program


def test_a_socket_without_a_program_has_none_to_read() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bare:
        assert read_filter(bare.fileno()) == []


def test_a_program_that_the_kernel_rejects_is_an_error() -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bare,
        pytest.raises(OSError, match="Invalid argument"),
    ):
        attach_filter(bare.fileno(), [(0xFFFF, 0, 0, 0)])


@pytest.mark.parametrize("link_type", [LinkType.PPP, LinkType.LINUX_SLL2, 127])
def test_there_is_no_program_for_other_link_types(link_type: int) -> None:
    assert add_length_check(link_type, SNAPLEN, ACCEPT_ALL) is None


def test_a_program_that_becomes_too_long_is_none() -> None:
    long = [(0, 0, 0, 0)] * 4_095 + ACCEPT_ALL
    assert add_length_check(ETHERNET, SNAPLEN, long) is None
