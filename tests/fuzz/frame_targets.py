"""Targets: frames of each link type, capture files, fragments.

A frame target reads its input as a list of frames: two bytes of head (the length, and in the second
byte what was cut off and how much later the frame is), then the frame. So one mutation changes one
frame, and several frames of a packet may meet.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from fuzz.target import Target
from support import frames as build
from support.captures import MODIFIED_MAGIC, NANOSECOND_MAGIC, Captured, Pcapng, pcap_file
from support.decoder_agreement import DecoderPair
from support.mutated_frames import PACKETS, wrap_variously

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import LARGE_BATCH
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.link_type_names import is_decodable
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.decode.vector_ip import MAX_ROW_BYTES
from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.savefile_parser import MalformedFileError, ParsedFrames

_SECOND_US = 1_000_000
_CUT_OFF = (0, 1, 40, 1_400, 70_000, 2**31)
_LATER_US = (0, 1, _SECOND_US, 3 * _SECOND_US, 40 * _SECOND_US, -5 * _SECOND_US)
_MOST_FRAMES = 64


def frames_in(data: bytes) -> tuple[list[bytes], list[int], list[int]]:
    """Return the frames in the input of a frame target, their original lengths and their times."""
    frames, lengths, times = [], [], []
    at, time_us = 0, 100 * _SECOND_US
    while at + 2 <= len(data) and len(frames) < _MOST_FRAMES:
        size, more = data[at], data[at + 1]
        at += 2
        frames.append(data[at : at + size])
        lengths.append(len(frames[-1]) + _CUT_OFF[more % len(_CUT_OFF)])
        time_us = max(0, time_us + _LATER_US[more // 16 % len(_LATER_US)])
        times.append(time_us)
        at += size
    return frames, lengths, times


def frame_input(frames: Iterable[bytes], more: int = 0) -> bytes:
    """Return the input of a frame target that has these frames."""
    return b"".join(bytes([min(len(one), 255), more]) + one[:255] for one in frames)


def check_frames(link_type: LinkType, data: bytes) -> None:
    """Both decoders agree, with original lengths and with each bound in place of them."""
    frames, lengths, times = frames_in(data)
    if not frames:
        return
    repeats = -(-LARGE_BATCH // len(frames))  # so many that columns are used
    batch = build.batch_of(
        frames * repeats,
        [one + number for number, one in enumerate(times * repeats)],
        lengths * repeats,
        bytes(MAX_ROW_BYTES),
    )
    DecoderPair(link_type).check(batch)
    longest = max(map(len, frames))
    for snaplen in (longest, longest + 1):
        DecoderPair(link_type, snaplen).check(FrameBatch(batch.data, batch.records))


def seed_frames(link_type: LinkType) -> Iterator[bytes]:
    """Yield inputs: each packet behind each header, and all of them in one input."""
    wrapped = [frame for packet in PACKETS for frame in wrap_variously(link_type, packet)]
    yield from (frame_input([frame], more=2) for frame in wrapped)
    yield frame_input(wrapped[:_MOST_FRAMES], more=16)


def parse_file(data: bytes, chunk: int) -> tuple[list[tuple[object, ...]], str | None]:
    """Return the frames of a file that is parsed in chunks, and why the rest cannot be read."""
    parser = make_parser(data[:chunk] if chunk >= 24 else data)
    frames: list[tuple[object, ...]] = []
    rest = b""
    for start in range(0, len(data), chunk):
        rest += data[start : start + chunk]
        parsed = parser.parse(rest)
        frames += _list_frames(parsed, parser.interfaces)
        assert 0 <= parsed.used <= len(rest)
        rest = rest[parsed.used :]
        if parser.failure is not None:
            break
    return frames, parser.failure


def _list_frames(parsed: ParsedFrames, interfaces: Sequence[object]) -> list[tuple[object, ...]]:
    data, records = parsed.frames.data, parsed.frames.records.tolist()
    assert parsed.frames.original_lengths is not None
    lengths = parsed.frames.original_lengths.tolist()
    found: list[tuple[object, ...]] = []
    for (seconds, microseconds, start, size), length, index in zip(
        records, lengths, parsed.interface.tolist(), strict=True
    ):
        assert start + size <= len(data)
        assert microseconds < 2**32
        frame = data[start : start + size]
        found.append((seconds, microseconds, frame, length, interfaces[index]))
    return found


def check_file(data: bytes) -> None:
    """A file gives the same frames in one piece and in chunks, and its frames decode alike."""
    try:
        whole, failure = parse_file(data, max(24, len(data)))
    except MalformedFileError:
        return
    for chunk in (24, 61):
        assert parse_file(data, chunk) == (whole, failure)
    by_type: dict[int, list[tuple[object, ...]]] = {}
    for frame in whole:
        by_type.setdefault(frame[4].link_type, []).append(frame)  # type: ignore[attr-defined]
    for link_type, frames in by_type.items():
        if is_decodable(link_type):
            _check_frames_of_file(link_type, frames)


def _check_frames_of_file(link_type: int, frames: list[tuple[object, ...]]) -> None:
    repeats = -(-LARGE_BATCH // len(frames))
    contents = [one[2] for one in frames] * repeats
    batch = build.batch_of(contents, tail=bytes(MAX_ROW_BYTES))  # type: ignore[arg-type]
    records = batch.records
    records[:, :2] = np.array([one[:2] for one in frames] * repeats, np.uint32)
    lengths = np.array([one[3] for one in frames] * repeats, np.uint32)
    # A file may claim fewer bytes on the link than it has; the frame has at least those.
    DecoderPair(link_type).check(
        FrameBatch(batch.data, records, np.maximum(lengths, records[:, 3]))
    )


_DATAGRAM = build.ethernet(build.ipv4(17, build.udp(payload=bytes(20))))


def seed_pcap() -> Iterator[bytes]:
    """Yield files of each variant."""
    frames = [Captured(second * _SECOND_US, _DATAGRAM) for second in (1, 2, 2**31)]
    for order in "<>":
        for magic in (0xA1B2C3D4, NANOSECOND_MAGIC, MODIFIED_MAGIC):
            yield pcap_file(frames, order=order, magic=magic)
        yield pcap_file(frames, order=order, minor=2)
    yield pcap_file([Captured(1, packet) for packet in PACKETS], LinkType.RAW_FILE)


def seed_pcapng() -> Iterator[bytes]:
    """Yield files with blocks of each kind."""
    for order in "<>":
        blocks = Pcapng(order)
        clock = blocks.option(9, b"\x09") + blocks.offset(-5)
        yield b"".join(
            [
                blocks.section(),
                blocks.interface(name="eth0", options=clock),
                blocks.enhanced(0, _DATAGRAM, 7),
                blocks.interface(LinkType.RAW_FILE, snaplen=40),
                blocks.obsolete(1, PACKETS[0], 9),
                blocks.simple(_DATAGRAM),
                blocks.block(5, bytes(12)),
                blocks.block(0x1234, b"unknown"),
                blocks.section(),
                blocks.enhanced(3, _DATAGRAM),
            ]
        )


_OPERATION = struct.Struct(">BBHB")  # first, later or expire; packet; length; how much later


def check_fragments(data: bytes) -> None:
    """Each later fragment is counted once, and the table stays within its bound."""
    most = 8
    table, now = FragmentTable(most, flow_ttl_ns=30, pending_ns=10), 0
    expected = counted = packets = 0
    for kind, ident, length, later in _OPERATION.iter_unpack(
        data[: len(data) - len(data) % _OPERATION.size]
    ):
        now += later - 3  # mostly forwards
        if kind % 3 == 0:
            found = table.ingest_first(bytes([ident]), b"first%d" % ident, now)
        elif kind % 3 == 1:
            found = table.ingest_later(bytes([ident]), b"later%d" % ident, length, now, now)
            expected, packets = expected + length, packets + 1
        else:
            found = table.expire(now)
        counted += sum(one.bytes for one in found)
        packets -= sum(one.packets for one in found)
        assert all(one.first_ns <= one.last_ns for one in found)
        assert len(table._flows) <= most
        assert len(table._pending) <= most
    rest = table.flush()
    assert counted + sum(one.bytes for one in rest) == expected
    assert packets == sum(one.packets for one in rest)


def seed_fragments() -> Iterator[bytes]:
    yield b"".join(_OPERATION.pack(kind, 1, 100, 4) for kind in (1, 1, 0, 1, 2))
    yield b"".join(_OPERATION.pack(1, ident, 9, 3) for ident in range(12))


def _frame_target(link_type: LinkType) -> Target:
    run: Callable[[bytes], None] = partial(check_frames, link_type)
    return Target(run, tuple(seed_frames(link_type)))


FRAME_TARGETS = {
    **{f"frames-{one.name.lower()}": _frame_target(one) for one in LinkType},
    "pcap": Target(check_file, tuple(seed_pcap())),
    "pcapng": Target(check_file, tuple(seed_pcapng())),
    "fragments": Target(check_fragments, tuple(seed_fragments())),
}
