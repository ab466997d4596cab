"""Frames on real links, whose IP headers claim more than the frame has."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support import frames as build
from support.namespaces import Namespace
from support.running import PATIENCE

from hogpipe.capture import pcap
from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.pcap import Handle, open_live
from hogpipe.model import Tally

FILTER = "src host 10.0.0.1 or src host fd00::1"
PAYLOAD = build.udp(7, 9, bytes(200))
BIG_TCP_HEADERS = [
    build.ipv4(6, build.tcp(payload=bytes(200)), total=0),
    build.ipv6(6, build.tcp(payload=bytes(200)), payload_length=0),
]
LYING = [
    build.ipv4(17, PAYLOAD, total=65_535),
    build.ipv4(17, PAYLOAD, total=20 + len(PAYLOAD) + 1),
    build.ipv6(17, PAYLOAD, payload_length=len(PAYLOAD) + 1),
    build.ipv6(0, build.jumbo(17, 0xFFFFFFFF, PAYLOAD), payload_length=0),
    *BIG_TCP_HEADERS,
]
HONEST = [build.ipv4(17, PAYLOAD), build.ipv6(17, PAYLOAD), build.ipv4(17, PAYLOAD, total=40)]
HONEST_BYTES = [20 + len(PAYLOAD), 40 + len(PAYLOAD), 40]
ROUNDS = 20
ADDRESSES = b"\xff" * 6 + b"\x02\0\0\0\0\1"


@contextmanager
def proven_handle(
    interface: str, snaplen: int, expression: str = FILTER, *, wait: bool = True
) -> Iterator[Handle]:
    """A handle whose ring only has frames that passed its filter for lengths."""
    handle = open_live(
        interface, snaplen=snaplen, buffer_mib=1, promiscuous=False, expression=expression
    )
    try:
        patience = time.monotonic() + PATIENCE
        while wait and not handle.lengths_proven:
            assert time.monotonic() < patience
            handle.read_exact()
        yield handle
    finally:
        handle.close()


def read_packets(handle: Handle, count: int) -> CapturedPackets:
    """Return the packets of the next `count` frames, read the fast way."""
    decoder = Decoder(handle.link_type, FragmentTable(), handle.snaplen)
    captured = CapturedPackets()
    patience = time.monotonic() + PATIENCE
    while captured.counts.captured.packets < count:
        assert time.monotonic() < patience, captured.counts
        captured.add(decoder.decode(handle.read()), interface=0)
    return captured


def send(where: Namespace, interface: str, packets: list[bytes], tags: list[int]) -> None:
    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
            made.bind((interface, 0))
            for packet in packets:
                made.send(ADDRESSES + build.ethernet(packet, tags=tags)[12:])

    where.call(work)


@pytest.mark.parametrize("snaplen", [96, 128, 1500])
@pytest.mark.parametrize("tags", [[], [0x8100], [0x88A8, 0x8100]])
def test_lengths_read_the_fast_way_are_those_of_the_frames(
    container_veth: tuple[Namespace, Namespace], snaplen: int, tags: list[int]
) -> None:
    left, right = container_veth

    def work() -> CapturedPackets:
        with proven_handle("left", snaplen, "ether src 02:00:00:00:00:01") as handle:
            send(right, "right", (HONEST + LYING) * ROUNDS, tags)
            return read_packets(handle, len(HONEST + LYING) * ROUNDS)

    captured = left.call(work)
    assert captured.join().total() == Tally(3 * ROUNDS, sum(HONEST_BYTES) * ROUNDS)
    assert captured.counts.undecoded.packets == len(LYING) * ROUNDS


@pytest.mark.parametrize("snaplen", [96, 128])
def test_cooked_frames_are_compared_with_their_lengths(
    container_veth: tuple[Namespace, Namespace], snaplen: int
) -> None:
    left, right = container_veth

    def work() -> CapturedPackets:
        with proven_handle("any", snaplen) as handle:
            assert handle.link_type == LinkType.LINUX_SLL
            send(right, "right", (HONEST + LYING) * ROUNDS, [])
            return read_packets(handle, len(HONEST + LYING) * ROUNDS)

    captured = left.call(work)
    assert captured.join().total() == Tally(3 * ROUNDS, sum(HONEST_BYTES) * ROUNDS)
    assert captured.counts.undecoded.packets == len(LYING) * ROUNDS


def test_a_handle_that_cannot_have_the_filter_is_read_with_original_lengths(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _program: object) -> None:
        raise PermissionError

    monkeypatch.setattr(pcap, "attach_filter", refuse)

    def work() -> bool:
        with proven_handle("lo", 128, wait=False) as handle:
            time.sleep(3 * handle.timeout)
            handle.read_exact()
            return handle.lengths_proven

    assert netns.call(work) is False
