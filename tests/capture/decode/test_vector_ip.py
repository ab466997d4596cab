"""Columns of packets: whichever kind prevails, each row is what the scalar decoder gives."""

import numpy as np
import pytest
from support import frames as build

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.decode.vector_ip import FrameEnds, PacketColumns, decode_packets
from hogpipe.capture.decode.vector_link import locate_packets

IPV4 = [
    build.ethernet(build.ipv4(17, build.udp(7, 9, bytes(30)))),
    build.ethernet(build.ipv4(6, build.tcp(7, 9, 0x02))),
    build.ethernet(build.ipv4(1, build.echo(8, 77))),
]
IPV6 = [
    build.ethernet(build.ipv6(17, build.udp(7, 9, bytes(30)))),
    build.ethernet(build.ipv6(6, build.tcp(7, 9, 0x02))),
    build.ethernet(build.ipv6(58, build.echo(128, 77))),
]
NOT_IP = [bytes(12) + b"\x08\x06" + bytes(range(46))]
CUT = [frame[:30] for frame in IPV4]


def decode(batch: FrameBatch) -> PacketColumns:
    start, size = (batch.records[:, column].astype(np.int64) for column in (2, 3))
    packets = locate_packets(LinkType.ETHERNET, batch.data, start, start + size)
    return decode_packets(batch.data, packets, FrameEnds(start + size, start + size))


@pytest.mark.parametrize(
    "kinds",
    [
        IPV4,
        IPV6,
        IPV4 * 5 + IPV6,
        IPV6 * 5 + IPV4,
        IPV6 + NOT_IP + IPV4,
        NOT_IP * 20 + IPV4,
        NOT_IP * 20 + IPV6 + IPV4 * 2,
        NOT_IP * 20 + CUT,
        CUT * 2 + IPV6,
    ],
    ids=lambda kinds: f"{len(kinds)}-frames",
)
def test_each_ordinary_packet_is_decoded_as_by_the_scalar_decoder(kinds: list[bytes]) -> None:
    frames = [kinds[row % len(kinds)] for row in range(100)]
    columns = decode(build.batch_of(frames))
    expected = []
    for row, frame in enumerate(frames):
        packet = decode_frame(LinkType.ETHERNET, frame, len(frame))
        if isinstance(packet, DecodedFrame) and frame not in CUT:
            expected.append((row, packet.key, packet.length, packet.opened))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    assert list(rows) == expected


def test_frames_without_any_packet_give_no_rows() -> None:
    assert [len(column) for column in decode(build.batch_of(NOT_IP * 40))] == [0, 0, 0, 0]
