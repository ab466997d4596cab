"""Batches: the vectorised and the scalar decoders agree on any frames, and conserve bytes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import frames as build
from support.frame_strategies import LINK_TYPES, frames
from support.wired import rows_of, wire_keys

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import LARGE_BATCH, Decoder
from hogpipe.capture.decode.fragments import FirstFragment, FragmentTable, LaterFragment
from hogpipe.capture.decode.scalar_ip import decode_frame
from hogpipe.capture.decode.scalar_link import LinkType, Rejection
from hogpipe.capture.decode.wire_key import Direction, WireKey, pack_key
from hogpipe.capture.decode.wire_packets import DecodedFrames
from hogpipe.model import Tally

ETHERNET = LinkType.ETHERNET
ORDINARY = build.ipv4(17, build.udp(9, 9, bytes(30)))

Sums = dict[bytes, tuple[int, int, bool, int, int]]
Tallies = tuple[Tally, Tally, Tally, Tally]


def new_table() -> FragmentTable:
    """A small table with short times, so that tests reach its bounds."""
    return FragmentTable(max_entries=2, flow_ttl_ns=30_000_000, pending_ns=2_000_000)


def tallies_of(all_flows: Sequence[DecodedFrames]) -> Tallies:
    sums = (Tally(), Tally(), Tally(), Tally())
    for flows in all_flows:
        parts = (flows.captured, flows.not_ip, flows.undecoded, flows.length_floored)
        for total, part in zip(sums, parts, strict=True):
            total.add(part)
    return sums


def sums_of(all_flows: Sequence[DecodedFrames]) -> Sums:
    sums: Sums = {}
    for flows in all_flows:
        for key, size, packets, opened, first, last in rows_of(flows.packets):
            add_to(sums, key, (packets, size, opened), first, last)
    return sums


def add_to(sums: Sums, key: bytes, moved: tuple[int, int, bool], first: int, last: int) -> None:
    packets, size, opened = moved
    before = sums.get(key, (0, 0, False, first, last))
    sums[key] = (
        before[0] + packets,
        before[1] + size,
        before[2] | opened,
        min(before[3], first),
        max(before[4], last),
    )


def decode_all(link_type: int, *batches: FrameBatch) -> list[DecodedFrames]:
    decoder = Decoder(link_type, new_table())
    return [*(decoder.decode(batch) for batch in batches), decoder.flush()]


def decode_one_by_one(link_type: int, batch: FrameBatch) -> tuple[Sums, Tallies]:
    """The expected result of `decode_all`, by the scalar decoders and a fragment table."""
    table = new_table()
    sums: Sums = {}
    captured, not_ip, undecoded, floored = tallies = (Tally(), Tally(), Tally(), Tally())

    def add(key: bytes, moved: tuple[int, int, bool], first: int, last: int) -> None:
        captured.add(Tally(*moved[:2]))
        add_to(sums, key, moved, first, last)

    for row, (_, _, start, size) in enumerate(batch.records.tolist()):
        times = batch.times_ns()[: row + 1]
        now = int(times.max())
        original = None if batch.original_lengths is None else int(batch.original_lengths[row])
        decoded = decode_frame(link_type, batch.data[start : start + size], original)
        countable = table.expire(now)
        if isinstance(decoded, Rejection):
            captured.add(Tally(1, size))
            (not_ip if decoded is Rejection.NOT_IP else undecoded).add(Tally(1, size))
        else:
            if decoded.length_floored:
                floored.add(Tally(1, decoded.length))
            match decoded.fragment:
                case LaterFragment(ident):
                    at = int(times[-1])
                    countable += table.ingest_later(ident, decoded.key, decoded.length, now, at)
                case FirstFragment(ident):
                    countable += table.ingest_first(ident, decoded.key, now)
            if not isinstance(decoded.fragment, LaterFragment):
                at = int(times[-1])
                add(decoded.key, (1, decoded.length, decoded.opened), at, at)
        for one in countable:
            add(one.key, (one.packets, one.bytes, False), one.first_ns, one.last_ns)
    for one in table.flush():
        add(one.key, (one.packets, one.bytes, False), one.first_ns, one.last_ns)
    return sums, tallies


@st.composite
def batches(draw: st.DrawFn, link_type: int) -> FrameBatch:
    """A few frames of any kind, alone or among enough ordinary ones for the vectorised decoders."""
    few = draw(st.lists(frames(link_type), min_size=1, max_size=6))
    many = [build.wrap(LinkType(link_type), ORDINARY)] * LARGE_BATCH if link_type != 127 else []
    drawn = draw(st.sampled_from([few, many + few, few + many, few * LARGE_BATCH]))
    steps = draw(st.lists(st.integers(0, 3_000), min_size=1, max_size=3))
    times = [1_000_000 + steps[row % len(steps)] for row in range(len(drawn))]
    lengths = None
    if draw(st.booleans()):
        extra = draw(st.sampled_from([0, 80_000]))
        lengths = [len(frame) + extra for frame in drawn]
    tail = draw(st.sampled_from([b"", b"\x08\x00\x45" * 30]))
    rest = [(steps[0] + row) % 1000 for row in range(len(drawn))] if draw(st.booleans()) else None
    return build.batch_of(drawn, times, lengths, tail, rest)


PACKETS = [
    *(build.ipv4(6, build.tcp(7, 9, flags)) for flags in (0x02, 0x10)),
    *(build.ipv6(6, build.tcp(7, 9, flags)) for flags in (0x02, 0x10)),
    *(build.ipv4(1, build.echo(kind, 77)) for kind in (0, 3, 8)),
    *(build.ipv6(58, build.echo(kind, 77)) for kind in (128, 129, 135)),
    build.ipv4(17, build.udp(7, 9)),
    build.ipv6(17, build.udp(7, 9)),
    build.ipv4(132, build.udp(7, 9), options=bytes(8)),
    build.ipv4(17, build.udp(7, 9), identification=1, more=True),
    build.ipv4(17, bytes(8), identification=1, offset=8),
    build.ipv4(17, build.udp(7, 9), total=20),
    build.ipv4(6, build.tcp(7, 9), total=0),
    build.ipv6(6, build.tcp(7, 9), payload_length=0),
    build.ipv6(59, b""),
    build.ipv6(0, build.jumbo(6, 70_000, build.tcp(7, 9)), payload_length=0),
    build.ipv6(44, build.fragment6(6, build.tcp(7, 9), identification=1, more=True)),
    build.ipv6(51, build.authentication(60, build.extension(17, build.udp(7, 9)))),
]


def wrap_variously(link_type: LinkType, packet: bytes) -> list[bytes]:
    match link_type:
        case LinkType.ETHERNET:
            session = build.pppoe(packet)
            return [
                build.ethernet(packet),
                build.ethernet(packet, tags=[0x88A8, 0x8100]),
                build.ethernet(packet, tags=[0x8100] * 5),
                build.ethernet(session, build.PPPOE, tags=[0x8100]),
                build.ethernet(packet, 0x0806),
                build.ethernet(build.mpls(packet), 0x8847, tags=[0x8100]),
                build.ethernet(build.mpls(packet, 9), 0x8847),
                build.ethernet(build.snap(packet), 60, tags=[0x8100]),
                build.ethernet(build.snap(build.mpls(packet, 2), 0x8848), 60),
                build.ethernet(b"\x42\x42\x03", 38),
            ]
        case LinkType.LINUX_SLL:
            return [build.sll(packet, packet_type=kind, hardware=1) for kind in (0, 4)] + [
                build.sll(packet, packet_type=4, hardware=772),
                build.sll(build.snap(packet), 4),
            ]
        case LinkType.LINUX_SLL2:
            return [build.sll2(packet, packet_type=kind, hardware=1) for kind in (0, 4)] + [
                build.sll2(packet, packet_type=4, hardware=772)
            ]
        case LinkType.PPP:
            labelled = build.ppp(build.mpls(packet), b"\x02\x81")
            return [build.ppp(packet), build.ppp(packet, framing=b""), labelled]
    return [build.wrap(link_type, packet)]


@pytest.mark.parametrize("link_type", LinkType)
def test_vectorised_and_scalar_decoders_agree_on_every_cut_and_many_changes(
    link_type: LinkType,
) -> None:
    for packet in PACKETS:
        for whole in wrap_variously(link_type, packet):
            cut = [whole[:size] for size in range(len(whole))]
            changed = [
                whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
                for at in range(len(whole))
                for flip in (0x01, 0x40, 0xFF)
            ]
            batch = build.batch_of([*cut, *changed, whole])
            flows = decode_all(link_type, batch)
            assert (sums_of(flows), tallies_of(flows)) == decode_one_by_one(link_type, batch)


@given(st.data(), LINK_TYPES)
@settings(max_examples=200)
def test_vectorised_and_scalar_decoders_agree_on_any_frames(
    data: st.DataObject, link_type: int
) -> None:
    batch = data.draw(batches(link_type))
    flows = decode_all(link_type, batch)
    assert (sums_of(flows), tallies_of(flows)) == decode_one_by_one(link_type, batch)


@given(LINK_TYPES, st.lists(st.binary(max_size=100), min_size=LARGE_BATCH, max_size=48))
@settings(max_examples=40)
def test_vectorised_and_scalar_decoders_agree_on_random_bytes(
    link_type: int, drawn: list[bytes]
) -> None:
    batch = build.batch_of(drawn)
    flows = decode_all(link_type, batch)
    assert (sums_of(flows), tallies_of(flows)) == decode_one_by_one(link_type, batch)


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
@pytest.mark.parametrize(
    "packet",
    [
        build.ipv4(17, build.udp(7, 9), total=65_535),
        build.ipv4(6, build.tcp(7, 9), total=0),
        build.ipv6(17, build.udp(7, 9), payload_length=60_000),
        build.ipv6(0, build.jumbo(17, 0xFFFFFFFF, build.udp(7, 9)), payload_length=0),
    ],
)
def test_a_length_beyond_the_end_of_a_whole_frame_is_invalid(count: int, packet: bytes) -> None:
    frame = build.ethernet(packet)
    batch = build.batch_of([frame] * count)
    whole = Decoder(LinkType.ETHERNET, new_table(), snaplen=len(frame) + 1).decode(batch)
    assert whole.undecoded == Tally(count, count * len(frame))
    assert whole.captured == whole.undecoded
    assert not whole.needs_original_lengths
    cut = Decoder(LinkType.ETHERNET, new_table(), snaplen=len(frame)).decode(batch)
    assert cut.undecoded.packets == 0
    assert cut.captured.bytes > count * 60_000


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
def test_padding_behind_a_whole_packet_does_not_make_it_malformed(count: int) -> None:
    packet = build.ipv4(17, build.udp(7, 9))
    batch = build.batch_of([build.ethernet(packet) + bytes(18)] * count)
    flows = Decoder(LinkType.ETHERNET, new_table(), snaplen=128).decode(batch)
    assert flows.packets.bytes.tolist() == [len(packet)] * count


@given(st.data(), LINK_TYPES, st.integers(0, 200))
@settings(max_examples=100)
def test_vectorised_and_scalar_decoders_agree_on_frames_within_the_snaplen(
    data: st.DataObject, link_type: int, snaplen: int
) -> None:
    batch = data.draw(batches(link_type))
    at_once, one_by_one = (Decoder(link_type, new_table(), snaplen) for _ in range(2))
    whole = [at_once.decode(batch), at_once.flush()]
    parts = [one_by_one.decode(batch.slice(at, at + 1)) for at in range(len(batch))]
    parts.append(one_by_one.flush())
    assert sums_of(whole) == sums_of(parts)
    assert tallies_of(whole) == tallies_of(parts)


@given(st.data(), LINK_TYPES)
@settings(max_examples=60)
def test_bytes_are_conserved(data: st.DataObject, link_type: int) -> None:
    batch = data.draw(batches(link_type))
    cut = data.draw(st.integers(0, len(batch)))
    decoder = Decoder(link_type, new_table())
    parts = [decoder.decode(batch.slice(0, cut)), decoder.decode(batch.slice(cut, len(batch)))]
    for flows in (*parts, last := decoder.flush()):
        rejected = flows.not_ip.bytes + flows.undecoded.bytes
        assert flows.packets.total().bytes + rejected == flows.captured.bytes
        rejected = flows.not_ip.packets + flows.undecoded.packets
        assert flows.packets.total().packets + rejected == flows.captured.packets
    assert sum(flows.captured.packets for flows in (*parts, last)) == len(batch)


@given(st.data(), LINK_TYPES)
@settings(max_examples=60)
def test_a_batch_may_be_split_anywhere(data: st.DataObject, link_type: int) -> None:
    batch = data.draw(batches(link_type))
    cut = data.draw(st.integers(0, len(batch)))
    whole = decode_all(link_type, batch)
    parts = decode_all(link_type, batch.slice(0, cut), batch.slice(cut, len(batch)))
    assert sums_of(parts) == sums_of(whole)
    assert tallies_of(parts) == tallies_of(whole)


@pytest.mark.parametrize("link_type", [LinkType.ETHERNET, LinkType.RAW])
def test_bytes_around_a_cut_frame_do_not_matter(link_type: LinkType) -> None:
    # Eight bytes before the frame there is what looks like the start of an IPv4 packet.
    before = bytes(52) + b"\x45\x00\xff\xff" + bytes(4)
    for whole in (build.wrap(link_type, packet) for packet in PACKETS):
        for size in range(len(whole) + 1):
            rows = np.array([[0, 0, len(before), size]] * LARGE_BATCH, np.uint32)
            for after in (b"", b"\xff" * 60):
                batch = FrameBatch(before + whole[:size] + after, rows)
                flows = decode_all(link_type, batch)
                assert (sums_of(flows), tallies_of(flows)) == decode_one_by_one(link_type, batch)


def cut_into_fragments(ident: int, sizes: Sequence[int]) -> list[bytes]:
    """The fragments of one UDP packet, whose port is its identification."""
    fragments, offset = [], 0
    for place, size in enumerate(sizes):
        payload = build.udp(ident, ident, bytes(size - 8)) if place == 0 else bytes(size)
        more = place < len(sizes) - 1
        fragments.append(
            build.ethernet(build.ipv4(17, payload, identification=ident, offset=offset, more=more))
        )
        offset += size
    return fragments


@given(st.data(), st.booleans())
@settings(max_examples=60)
def test_fragments_in_any_order_count_in_the_flow_of_their_first(
    data: st.DataObject, large: bool
) -> None:
    packets = {ident: cut_into_fragments(ident, [24, 16, 8]) for ident in (1, 2)}
    order = data.draw(st.permutations([one for fragments in packets.values() for one in fragments]))
    filler = [build.ethernet(ORDINARY)] * (LARGE_BATCH if large else 0)
    flows = decode_all(ETHERNET, build.batch_of([*filler, *order]))
    for ident in packets:
        key = pack_key(WireKey(4, 17, Direction.UNKNOWN, build.A4, ident, build.B4, ident))
        assert sums_of(flows)[key][:3] == (3, 24 + 16 + 8 + 3 * 20, False)


def test_a_fragment_whose_first_never_comes_counts_when_it_expires() -> None:
    decoder = Decoder(ETHERNET, FragmentTable())
    later = build.ethernet(build.ipv4(17, bytes(100), identification=3, offset=8))
    flows = decoder.decode(build.batch_of([later]))
    assert (len(flows.packets), flows.captured) == (0, Tally())
    ordinary = build.ethernet(ORDINARY)
    flows = decoder.decode(build.batch_of([ordinary], times_us=[2_000_000]))
    assert flows.packets.packets.tolist() == [1, 1]
    assert flows.packets.bytes.tolist() == [len(ORDINARY), 120]
    assert flows.captured == Tally(2, len(ORDINARY) + 120)
    assert wire_keys(flows.packets)[1].source_port == 0
    assert len(decoder.flush().packets) == 0


def test_the_clock_of_fragments_is_the_newest_time_wherever_batches_end() -> None:
    first, later = cut_into_fragments(1, [16, 8])
    drawn = [later, build.ethernet(ORDINARY), first]
    batch = build.batch_of(drawn, times_us=[0, 5_000, 1_000])
    whole = decode_all(ETHERNET, batch)
    portless = pack_key(WireKey(4, 17, Direction.UNKNOWN, build.A4, 0, build.B4, 0))
    assert sums_of(whole)[portless][:3] == (1, 28, False)
    assert sums_of(decode_all(ETHERNET, batch.slice(0, 2), batch.slice(2, 3))) == sums_of(whole)


def test_a_pending_fragment_counts_with_its_own_time() -> None:
    first, middle, last = cut_into_fragments(1, [16, 16, 8])
    decoder = Decoder(ETHERNET, FragmentTable())
    for fragments, times_us, captured in (
        ([middle], [10], []),
        ([first], [20], [(20_000, 20_000), (10_000, 10_000)]),
        ([last], [30], [(30_000, 30_000)]),
    ):
        packets = decoder.decode(build.batch_of(fragments, times_us=times_us)).packets
        assert [(first, last) for *_, first, last in rows_of(packets)] == captured


def test_an_empty_batch_holds_nothing() -> None:
    flows = Decoder(ETHERNET, FragmentTable()).decode(build.batch_of([]))
    assert (len(flows.packets), flows.captured) == (0, Tally())
    assert not flows.needs_original_lengths


@pytest.mark.parametrize("count", [4, 40])
def test_ordinary_packets_have_a_row_each_in_the_order_of_capture(count: int) -> None:
    ports = [(7 * row) % count for row in range(count)] * 2
    drawn = [build.ethernet(build.ipv4(17, build.udp(port, 53, bytes(20)))) for port in ports]
    packets = Decoder(ETHERNET, FragmentTable()).decode(build.batch_of(drawn)).packets
    assert [key.source_port for key in wire_keys(packets)] == ports
    assert packets.packets.tolist() == [1] * 2 * count
    assert packets.bytes.tolist() == [48] * 2 * count
    assert not packets.opened.any()


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
def test_packets_come_in_the_order_of_capture_whatever_their_ip_version(count: int) -> None:
    pair = [build.ethernet(build.ipv6(17, build.udp(1, 2))), build.ethernet(ORDINARY)]
    flows = Decoder(ETHERNET, FragmentTable()).decode(build.batch_of(pair * count))
    assert [key.version for key in wire_keys(flows.packets)] == [6, 4] * count


@pytest.mark.parametrize("count", [1, LARGE_BATCH])
def test_original_lengths_are_needed_once_a_length_was_floored(count: int) -> None:
    big = build.ethernet(build.ipv4(6, build.tcp(), total=0))
    drawn = [build.ethernet(ORDINARY)] * count + [big]
    flows = Decoder(ETHERNET, FragmentTable()).decode(build.batch_of(drawn))
    assert flows.needs_original_lengths
    assert flows.length_floored == Tally(1, 65_536)
    lengths = [len(frame) + 90_000 for frame in drawn]
    flows = Decoder(ETHERNET, FragmentTable()).decode(
        build.batch_of(drawn, original_lengths=lengths)
    )
    assert not flows.needs_original_lengths
    assert flows.packets.bytes.tolist() == [len(ORDINARY)] * count + [len(big) - 14 + 90_000]


def test_a_slice_shares_the_memory_and_keeps_times_and_lengths() -> None:
    times, rest = [1, 2_000_003, 4_294_967_295_999_999], [0, 4, 999]
    batch = build.batch_of([b"a", b"bb", b"ccc"], times, [5, 6, 7], nanoseconds=rest)
    part = batch.slice(1, 3)
    assert len(part) == 2
    assert part.data is batch.data
    assert part.times_ns().tolist() == [2_000_003_004, 4_294_967_295_999_999_999]
    assert part.original_lengths is not None
    assert part.original_lengths.tolist() == [6, 7]


def test_chosen_frames_keep_their_times_and_lengths_and_share_the_memory() -> None:
    batch = build.batch_of([b"a", b"bb", b"ccc"], [1, 2, 3], [5, 6, 7], nanoseconds=[4, 5, 6])
    part = batch.take(np.array([True, False, True]))
    assert part.data is batch.data
    assert part.times_ns().tolist() == [1_004, 3_006]
    assert part.original_lengths is not None
    assert part.original_lengths.tolist() == [5, 7]


def test_offsets_near_the_end_of_32_bits_do_not_wrap() -> None:
    records = np.array([[0, 0, 2**32 - 1, 0]] * LARGE_BATCH, np.uint32)
    flows = Decoder(ETHERNET, FragmentTable()).decode(FrameBatch(bytes(100), records))
    assert flows.undecoded == Tally(LARGE_BATCH, 0)
