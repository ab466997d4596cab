"""The property of bytes over ten million mutated frames of every link type."""

import os
import socket
from pathlib import Path

import pytest
from support.decoder_agreement import DecoderPair
from support.mutated_frames import mutated_batches

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.length_filter import add_length_check
from hogpipe.linux.socket_filter import attach_filter

FRAMES = 10_000_000
PER_LINK_TYPE = -(-FRAMES // len(LinkType))
WARM_BATCHES, MEMORY_GROWTH = 20, 8 << 20
THROUGH_THE_KERNEL = 300_000
SNAPLEN = 96


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("link_type", LinkType)
def test_bytes_are_at_most_those_of_the_frames_and_both_decoders_agree(
    link_type: LinkType,
) -> None:
    decoders, before = DecoderPair(link_type), 0
    for number, batch in enumerate(mutated_batches(link_type, PER_LINK_TYPE, seed=link_type)):
        decoders.check(batch)
        if number == WARM_BATCHES:
            before = resident_bytes()
    growth = resident_bytes() - before
    print(f"{link_type.name}: {PER_LINK_TYPE:,} frames, memory grew by {growth / 1024:,.0f} KiB")
    assert growth < MEMORY_GROWTH


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
