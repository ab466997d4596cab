"""The property of bytes over ten million mutated frames of every link type."""

import socket
from collections import Counter

import pytest
from support.mutated_frames import mutated_batches
from support.wired import rows_of

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import LARGE_BATCH, Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.decode.wire_packets import DecodedFrames, sum_by_key
from hogpipe.capture.length_filter import add_length_check
from hogpipe.linux.socket_filter import attach_filter

FRAMES = 10_000_000
PER_LINK_TYPE = -(-FRAMES // len(LinkType))
THROUGH_THE_KERNEL = 300_000
SNAPLEN = 96


def add_up(sums: Counter[bytes], flows: DecodedFrames) -> None:
    for key, size, packets, *_ in rows_of(sum_by_key(flows.packets)):
        sums[b"packets" + key] += packets
        sums[key] += size
    for name, tally in ((b"not IP", flows.not_ip), (b"undecoded", flows.undecoded)):
        sums[b"packets" + name] += tally.packets
        sums[name] += tally.bytes


@pytest.mark.parametrize("link_type", LinkType)
def test_bytes_are_at_most_those_of_the_frames_and_both_decoders_agree(
    link_type: LinkType,
) -> None:
    at_once, one_by_one = (Decoder(link_type, FragmentTable()) for _ in range(2))
    for batch in mutated_batches(link_type, PER_LINK_TYPE, seed=link_type):
        assert batch.original_lengths is not None
        sums, expected = Counter[bytes](), Counter[bytes]()
        for flows in (at_once.decode(batch), at_once.flush()):
            add_up(sums, flows)
        for start in range(0, len(batch), LARGE_BATCH - 1):
            add_up(expected, one_by_one.decode(batch.slice(start, start + LARGE_BATCH - 1)))
        add_up(expected, one_by_one.flush())
        assert sums == expected
        total = sum(size for key, size in sums.items() if not key.startswith(b"packets"))
        assert total <= int(batch.original_lengths.sum())
        assert sum(sums.values()) - total == len(batch)


@pytest.mark.parametrize("link_type", [LinkType.ETHERNET, LinkType.RAW])
def test_bytes_of_frames_that_the_kernel_cut_are_at_most_those_of_the_frames(
    link_type: LinkType,
) -> None:
    program = add_length_check(link_type, SNAPLEN, [])
    assert program is not None
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    decoder = Decoder(link_type, FragmentTable(), SNAPLEN)
    with sender, receiver:
        attach_filter(receiver.fileno(), program)
        for batch in mutated_batches(link_type, THROUGH_THE_KERNEL, seed=7):
            captured, records, offset = [], batch.records.copy(), 0
            for row, (start, size) in enumerate(batch.records[:, 2:].tolist()):
                sender.send(batch.data[start : start + size] or b"\0")
                captured.append(receiver.recv(SNAPLEN))
                records[row, 2:] = offset, len(captured[-1])
                offset += len(captured[-1])
            flows, rest = decoder.decode(FrameBatch(b"".join(captured), records)), decoder.flush()
            frames = int(batch.records[:, 3].sum()) + len(batch)
            assert flows.captured.bytes + rest.captured.bytes <= frames
            assert flows.captured.packets + rest.captured.packets == len(batch)
