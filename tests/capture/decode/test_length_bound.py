"""No packet counts more bytes than its frame has behind the link header, whatever it claims."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import frames as build
from support.frame_strategies import LINK_TYPES, frames

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import LARGE_BATCH, Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import LinkType, Packet, locate_packet
from hogpipe.capture.decode.wire_packets import DecodedFrames
from hogpipe.model import Tally

JUMBO = 0xFFFFFFFF
LYING = [
    build.ipv4(17, build.udp(7, 9, bytes(100)), total=65_535),
    build.ipv4(17, build.udp(7, 9, bytes(100)), total=129),
    build.ipv4(17, build.udp(7, 9, bytes(96)), total=200, options=bytes(8)),
    build.ipv4(17, bytes(100), total=60_000, identification=1, offset=8),
    build.ipv6(17, build.udp(7, 9, bytes(100)), payload_length=109),
    build.ipv6(17, build.udp(7, 9, bytes(100)), payload_length=65_535),
    build.ipv6(0, build.jumbo(17, JUMBO, build.udp(7, 9, bytes(100))), payload_length=0),
    build.ipv6(0, build.jumbo(17, 117, build.udp(7, 9, bytes(100))), payload_length=0),
]
BOTH_VERSIONS = [one for one in LinkType if one not in {LinkType.IPV4, LinkType.IPV6}]


def decode(link_type: int, batch: FrameBatch) -> list[DecodedFrames]:
    decoder = Decoder(link_type, FragmentTable())
    return [decoder.decode(batch), decoder.flush()]


def captured_bytes(flows: list[DecodedFrames]) -> int:
    return sum(one.captured.bytes for one in flows)


@given(st.data(), LINK_TYPES)
@settings(max_examples=300)
def test_the_sum_of_bytes_is_at_most_the_sum_of_frame_lengths(
    data: st.DataObject, link_type: int
) -> None:
    drawn = data.draw(st.lists(frames(link_type), min_size=1, max_size=6))
    drawn *= data.draw(st.sampled_from([1, LARGE_BATCH]))
    cut_off = st.sampled_from([0, 0, 1, 40, 1_000, 80_000])
    lengths = [len(frame) + data.draw(cut_off) for frame in drawn]
    flows = decode(link_type, build.batch_of(drawn, original_lengths=lengths))
    assert captured_bytes(flows) <= sum(lengths)


@given(st.data(), LINK_TYPES, st.sampled_from([0, 1, 40, 80_000]))
@settings(max_examples=300)
def test_a_packet_ends_within_its_frame(data: st.DataObject, link_type: int, cut_off: int) -> None:
    frame = data.draw(frames(link_type))
    decoded = decode_frame(link_type, frame, len(frame) + cut_off)
    if isinstance(decoded, DecodedFrame):
        packet = locate_packet(link_type, frame)
        assert isinstance(packet, Packet)
        assert packet.at + decoded.length <= len(frame) + cut_off


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
@pytest.mark.parametrize("packet", LYING)
@pytest.mark.parametrize("cut_at", [200, 96])
@pytest.mark.parametrize("link_type", BOTH_VERSIONS)
def test_a_packet_that_claims_more_than_its_frame_is_undecoded(
    link_type: LinkType, cut_at: int, packet: bytes, count: int
) -> None:
    frame = build.wrap(link_type, packet)
    batch = build.batch_of([frame[:cut_at]] * count, original_lengths=[len(frame)] * count)
    flows = decode(link_type, batch)
    assert flows[0].undecoded == Tally(count, count * len(frame[:cut_at]))
    assert captured_bytes(flows) == flows[0].undecoded.bytes


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
@pytest.mark.parametrize("padding", [0, 1, 18])
def test_a_packet_that_ends_with_its_frame_or_before_counts_in_full(
    count: int, padding: int
) -> None:
    packet = build.ipv4(17, build.udp(7, 9, bytes(200)))
    frame = build.ethernet(packet)
    lengths = [len(frame) + padding] * count
    batch = build.batch_of([frame[:96]] * count, original_lengths=lengths)
    assert captured_bytes(decode(LinkType.ETHERNET, batch)) == count * len(packet)
