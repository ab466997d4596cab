"""One frame at a time: link types, IP versions, lengths, ports, and rejections."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import frames as build
from support.frame_strategies import LINK_TYPES, frames

from hogpipe.capture.decode.fragments import FirstFragment, LaterFragment
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import LinkType, Rejection
from hogpipe.capture.decode.wire_key import Direction, WireKey, pack_key, unpack_key

UDP4 = build.ipv4(17, build.udp(1000, 53, b"hello"))
UDP6 = build.ipv6(17, build.udp(1000, 53, b"hello"))
VERSIONS = {4: UDP4, 6: UDP6}
ETHERNET = LinkType.ETHERNET


def decode(frame: bytes, link_type: int = ETHERNET, original: int | None = None) -> DecodedFrame:
    decoded = decode_frame(link_type, frame, original)
    assert isinstance(decoded, DecodedFrame), decoded
    return decoded


def decode_key(frame: bytes, link_type: int = ETHERNET) -> WireKey:
    return unpack_key(decode(frame, link_type).key)


def decode_ports(packet: bytes) -> tuple[int, int, int]:
    key = decode_key(build.ethernet(packet))
    return key.protocol, key.source_port, key.destination_port


def reject(frame: bytes, link_type: int = ETHERNET) -> Rejection:
    decoded = decode_frame(link_type, frame, None)
    assert isinstance(decoded, Rejection), decoded
    return decoded


def test_a_wire_key_is_forty_bytes_and_comes_back_as_it_was() -> None:
    key = WireKey(4, 17, Direction.OUTGOING, build.A4, 1000, build.B4, 53, interface=0x0123)
    packed = pack_key(key)
    assert packed == (
        b"\x24\x11\x01\x23\x03\xe8\x00\x35" + build.A4 + bytes(12) + build.B4 + bytes(12)
    )
    assert unpack_key(packed) == key


@pytest.mark.parametrize("link_type", LinkType)
@pytest.mark.parametrize("version", [4, 6])
def test_every_link_type_leads_to_the_same_packet(link_type: LinkType, version: int) -> None:
    packet = VERSIONS[version]
    if link_type in (LinkType.IPV4, LinkType.IPV6):
        fixed = 4 if link_type is LinkType.IPV4 else 6
        if version != fixed:
            assert reject(packet, link_type) is Rejection.UNDECODED
            return
    decoded = decode(build.wrap(link_type, packet), link_type)
    addresses = (build.A4, build.B4) if version == 4 else (build.A6, build.B6)
    key = unpack_key(decoded.key)
    assert (key.version, key.protocol, key.source_port, key.destination_port) == (
        version, 17, 1000, 53,
    )  # fmt: skip
    assert (key.source, key.destination) == addresses
    assert decoded.length == len(packet)
    assert not decoded.opened
    assert decoded.fragment is None


def test_an_unknown_link_type_is_undecoded() -> None:
    assert reject(build.ethernet(UDP4), 127) is Rejection.UNDECODED


@pytest.mark.parametrize("count", range(1, 5))
def test_a_stack_of_vlan_tags_is_skipped(count: int) -> None:
    tags = [0x88A8, 0x8100, 0x9100, 0x9200][:count]
    assert decode_key(build.ethernet(UDP4, tags=tags)).destination_port == 53


def test_more_vlan_tags_than_the_bound_are_undecoded() -> None:
    assert reject(build.ethernet(UDP4, tags=[0x8100] * 5)) is Rejection.UNDECODED


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ethertype", [0x8847, 0x8848])
@pytest.mark.parametrize("labels", [1, 2, 8])
def test_a_stack_of_mpls_labels_is_skipped(version: int, ethertype: int, labels: int) -> None:
    labelled = build.mpls(VERSIONS[version], labels)
    frame = build.ethernet(labelled, ethertype, tags=[0x8100])
    assert decode_key(frame).version == version
    assert decode_key(frame).destination_port == 53


def test_mpls_that_carries_no_ip_is_not_ip_and_a_stack_without_an_end_is_undecoded() -> None:
    assert reject(build.ethernet(build.mpls(bytes(60)), 0x8847)) is Rejection.NOT_IP
    assert reject(build.ethernet(build.mpls(UDP4, 9), 0x8847)) is Rejection.UNDECODED
    assert reject(build.ethernet(build.mpls(b""), 0x8847)) is Rejection.UNDECODED


@pytest.mark.parametrize("length", [8, 60, 0x5FF])
def test_ip_behind_llc_and_snap_is_decoded_whatever_the_length_field_says(length: int) -> None:
    assert decode_key(build.ethernet(build.snap(UDP4), length)).destination_port == 53
    assert decode_key(build.ethernet(build.snap(UDP6), length, tags=[0x8100])).version == 6
    assert decode_key(build.sll(build.snap(UDP4), 4), LinkType.LINUX_SLL).destination_port == 53
    tagged = build.ethertyped(UDP4, tags=[0x8100])[2:]
    assert decode_key(build.ethernet(build.snap(tagged, 0x8100), length)).destination_port == 53


@pytest.mark.parametrize(
    "packet",
    [
        b"\x42\x42\x03" + bytes(35),  # spanning tree
        b"\xaf\x00\x00",  # XID, no longer than LLC itself
        build.snap(UDP4, 0x0806),
        build.snap(UDP4, organisation=0x00000C),  # Cisco's protocols
    ],
)
def test_other_llc_is_not_ip(packet: bytes) -> None:
    assert reject(build.ethernet(packet, len(packet))) is Rejection.NOT_IP


@pytest.mark.parametrize("wrap", [build.sll, build.sll2])
def test_a_cooked_frame_may_hold_vlan_tags_and_pppoe(wrap: Callable[..., bytes]) -> None:
    link_type = LinkType.LINUX_SLL if wrap is build.sll else LinkType.LINUX_SLL2
    frame = wrap(build.pppoe(UDP6), build.PPPOE, tags=[0x8100])
    assert decode_key(frame, link_type).destination_port == 53


@pytest.mark.parametrize("wrap", [build.sll, build.sll2])
@pytest.mark.parametrize(
    ("packet_type", "hardware", "direction"),
    [
        (0, 1, Direction.INCOMING),
        (1, 1, Direction.INCOMING),
        (2, 1, Direction.INCOMING),
        (3, 1, Direction.INCOMING),
        (4, 1, Direction.OUTGOING),
        (0, 772, Direction.LOOPBACK),
        (4, 772, Direction.LOOPBACK),
    ],
)
def test_a_cooked_header_has_the_direction(
    wrap: Callable[..., bytes], packet_type: int, hardware: int, direction: Direction
) -> None:
    link_type = LinkType.LINUX_SLL if wrap is build.sll else LinkType.LINUX_SLL2
    frame = wrap(UDP4, packet_type=packet_type, hardware=hardware)
    assert decode_key(frame, link_type).direction is direction


def test_only_cooked_frames_have_a_direction() -> None:
    assert decode_key(build.ethernet(UDP4)).direction is Direction.UNKNOWN


@pytest.mark.parametrize("version", [4, 6])
def test_pppoe_is_skipped_behind_vlan_tags(version: int) -> None:
    frame = build.ethernet(build.pppoe(VERSIONS[version]), build.PPPOE, tags=[0x8100, 0x8100])
    assert decode_key(frame).version == version


def test_pppoe_of_another_version_is_undecoded_and_its_discovery_is_not_ip() -> None:
    assert reject(build.ethernet(build.pppoe(UDP4, start=0x21), build.PPPOE)) is Rejection.UNDECODED
    assert reject(build.ethernet(build.pppoe(UDP4, code=9), build.PPPOE)) is Rejection.NOT_IP
    assert reject(build.ethernet(build.pppoe(UDP4, code=9), 0x8863)) is Rejection.NOT_IP


@pytest.mark.parametrize("link_type", [LinkType.PPP, LinkType.PPP_SERIAL])
@pytest.mark.parametrize("framing", [b"\xff\x03", b""])
@pytest.mark.parametrize("compressed", [True, False])
def test_ppp_is_decoded_with_or_without_framing_and_compression(
    link_type: LinkType, framing: bytes, compressed: bool
) -> None:
    for version, protocol in build.PPP_PROTOCOL.items():
        number = protocol[1:] if compressed else protocol
        frame = build.ppp(VERSIONS[version], number, framing)
        assert decode_key(frame, link_type).version == version


def test_the_direction_byte_of_pppd_is_skipped() -> None:
    frame = build.ppp(UDP4, framing=b"\x01\x03")
    assert decode_key(frame, LinkType.PPP_PPPD).destination_port == 53


def test_other_ppp_protocols_are_not_ip() -> None:
    assert reject(build.ppp(UDP4, b"\xc0\x21"), LinkType.PPP) is Rejection.NOT_IP
    assert reject(build.ppp(UDP4, b"\x3d"), LinkType.PPP) is Rejection.NOT_IP


def test_mpls_in_ppp_is_decoded() -> None:
    frame = build.ppp(build.mpls(UDP4), b"\x02\x81")
    assert decode_key(frame, LinkType.PPP).destination_port == 53


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_a_null_header_names_the_family_in_either_byte_order(order: str, family: int) -> None:
    assert decode_key(build.family(UDP6, family, order), LinkType.NULL).version == 6
    assert decode_key(build.family(UDP4, 2, order), LinkType.NULL).version == 4


def test_a_loop_header_names_the_family_in_network_order_only() -> None:
    assert reject(build.family(UDP4, 2, "<"), LinkType.LOOP) is Rejection.NOT_IP
    assert reject(build.family(UDP4, 7), LinkType.LOOP) is Rejection.NOT_IP


@pytest.mark.parametrize("ethertype", [0x0806, 0x88CC, 0x8863, 0x05FF, 60])
def test_other_ethertypes_and_llc_lengths_are_not_ip(ethertype: int) -> None:
    assert reject(build.ethernet(bytes(46), ethertype)) is Rejection.NOT_IP


@pytest.mark.parametrize("link_type", LinkType)
@pytest.mark.parametrize("version", [4, 6])
def test_a_frame_cut_before_the_addresses_end_is_undecoded(
    link_type: LinkType, version: int
) -> None:
    frame = build.wrap(link_type, VERSIONS[version])
    header = len(frame) - len(VERSIONS[version]) + (20 if version == 4 else 40)
    for size in range(header):
        assert reject(frame[:size], link_type) is Rejection.UNDECODED


@pytest.mark.parametrize(
    "packet",
    [
        build.ipv4(17, build.udp(), ihl=4),
        build.ipv4(17, build.udp(), total=19),
        build.ipv4(17, build.udp(), options=bytes(8), total=27),
        build.ipv4(17, build.udp(), total=0),
        build.ipv4(17, build.udp(), version=6),
    ],
)
def test_an_ipv4_header_that_contradicts_itself_is_undecoded(packet: bytes) -> None:
    assert reject(build.ethernet(packet, 0x0800)) is Rejection.UNDECODED


def test_an_ipv6_header_of_another_version_is_undecoded() -> None:
    packet = build.ipv6(17, build.udp(), version=4)
    assert reject(build.ethernet(packet, 0x86DD)) is Rejection.UNDECODED


def test_raw_bytes_of_neither_version_are_undecoded() -> None:
    assert reject(b"\x50" + UDP4[1:], LinkType.RAW) is Rejection.UNDECODED


def test_the_length_is_the_packets_not_the_frames() -> None:
    padded = build.ethernet(UDP4 + bytes(30))
    assert decode(padded).length == len(UDP4)
    assert decode(build.ethernet(UDP6 + bytes(30))).length == len(UDP6)
    assert decode(build.ethernet(build.ipv4(6, build.tcp(), total=1500))).length == 1500


@pytest.mark.parametrize("protocol", [6, 17, 132, 136])
def test_ports_are_read_behind_ipv4_options_and_ipv6(protocol: int) -> None:
    transport = build.tcp(7, 9) if protocol == 6 else build.udp(7, 9)
    assert decode_ports(build.ipv4(protocol, transport, options=bytes(40))) == (protocol, 7, 9)
    assert decode_ports(build.ipv6(protocol, transport)) == (protocol, 7, 9)


@pytest.mark.parametrize("protocol", [2, 41, 47, 50, 59])
def test_other_protocols_have_no_ports(protocol: int) -> None:
    assert decode_ports(build.ipv4(protocol, bytes([9] * 30))) == (protocol, 0, 0)
    assert decode_ports(build.ipv6(protocol, bytes([9] * 30))) == (protocol, 0, 0)


def test_an_echo_has_its_identifier_as_both_ports() -> None:
    for kind in (0, 8):
        assert decode_ports(build.ipv4(1, build.echo(kind, 77))) == (1, 77, 77)
    for kind in (128, 129):
        assert decode_ports(build.ipv6(58, build.echo(kind, 77))) == (58, 77, 77)


def test_other_icmp_has_no_ports() -> None:
    assert decode_ports(build.ipv4(1, build.echo(3, 77))) == (1, 0, 0)
    assert decode_ports(build.ipv6(58, build.echo(135, 77))) == (58, 0, 0)
    assert decode_ports(build.ipv4(58, build.echo(128, 77))) == (58, 0, 0)


def test_ports_that_were_cut_off_are_zero_and_the_packet_counts() -> None:
    for packet in (build.ipv4(6, build.tcp(7, 9)), build.ipv6(6, build.tcp(7, 9))):
        transport = 14 + len(packet) - 20
        decoded = decode(build.ethernet(packet)[: transport + 3])
        assert unpack_key(decoded.key).source_port == 0
        assert decoded.length == len(packet)
        assert unpack_key(decode(build.ethernet(packet)[: transport + 4]).key).source_port == 7


def test_padding_behind_the_packet_is_no_port() -> None:
    packet = build.ipv4(17, build.udp(7, 9), total=20)
    assert decode_ports(packet) == (17, 0, 0)
    assert decode_ports(build.ipv6(17, build.udp(7, 9), payload_length=3)) == (17, 0, 0)


def test_a_syn_opens_and_its_answer_does_not() -> None:
    for flags, opened in ((0x02, True), (0x12, False), (0x10, False), (0x11, False)):
        assert decode(build.ethernet(build.ipv4(6, build.tcp(flags=flags)))).opened is opened
        assert decode(build.ethernet(build.ipv6(6, build.tcp(flags=flags)))).opened is opened
    assert not decode(build.ethernet(build.ipv4(6, build.tcp(flags=2)))[: 14 + 20 + 13]).opened


@pytest.mark.parametrize("kind", [0, 43, 60, 135, 139, 140])
def test_an_extension_header_is_skipped(kind: int) -> None:
    packet = build.ipv6(kind, build.extension(17, build.udp(7, 9), size=24))
    assert decode_ports(packet) == (17, 7, 9)


def test_an_authentication_header_is_skipped() -> None:
    assert decode_ports(build.ipv6(51, build.authentication(6, build.tcp(7, 9)))) == (6, 7, 9)


def chain_of(count: int) -> bytes:
    payload, protocol = build.udp(7, 9), 17
    for _ in range(count):
        payload, protocol = build.extension(protocol, payload), 60
    return build.ipv6(protocol, payload)


def test_extension_headers_are_followed_up_to_the_bound_and_the_packet_counts_beyond() -> None:
    assert decode_ports(chain_of(8)) == (17, 7, 9)
    assert decode_ports(chain_of(9)) == (60, 0, 0)
    assert decode(build.ethernet(chain_of(9))).length == len(chain_of(9))


def test_a_chain_that_is_cut_names_the_last_header_it_reached() -> None:
    packet = build.ipv6(0, build.extension(60, build.extension(17, build.udp(7, 9))))
    assert decode_key(build.ethernet(packet)[: 14 + 40 + 4]).protocol == 0
    assert decode_key(build.ethernet(packet)[: 14 + 40 + 8 + 7]).protocol == 60
    assert decode_key(build.ethernet(packet)[: 14 + 40 + 16]).protocol == 17


def test_ipv4_fragments_share_an_ident_and_only_the_first_has_ports() -> None:
    first = decode(build.ethernet(build.ipv4(17, build.udp(7, 9), identification=5, more=True)))
    later = decode(build.ethernet(build.ipv4(17, bytes(8), identification=5, offset=8)))
    other = decode(build.ethernet(build.ipv4(17, bytes(8), identification=6, offset=8)))
    assert isinstance(first.fragment, FirstFragment)
    assert isinstance(later.fragment, LaterFragment)
    assert isinstance(other.fragment, LaterFragment)
    assert first.fragment.ident == later.fragment.ident != other.fragment.ident
    assert unpack_key(first.key).source_port == 7
    assert unpack_key(later.key).source_port == 0


def test_ipv6_fragments_share_an_ident_whatever_a_later_one_says_comes_next() -> None:
    inner = build.extension(6, build.tcp(7, 9, 0x02))
    first = decode(
        build.ethernet(
            build.ipv6(44, build.fragment6(60, inner, identification=1 << 20, more=True))
        )
    )
    later = decode(
        build.ethernet(
            build.ipv6(44, build.fragment6(17, bytes(8), identification=1 << 20, offset=8))
        )
    )
    assert isinstance(first.fragment, FirstFragment)
    assert isinstance(later.fragment, LaterFragment)
    assert first.fragment.ident == later.fragment.ident
    assert unpack_key(first.key).protocol == 6
    assert first.opened
    key = unpack_key(later.key)
    assert (key.protocol, key.source_port) == (17, 0)


def test_a_later_fragment_never_opens() -> None:
    packet = build.ipv4(6, build.tcp(flags=0x02), offset=8)
    assert not decode(build.ethernet(packet)).opened


def test_an_atomic_fragment_is_no_fragment() -> None:
    whole = build.ipv6(44, build.fragment6(17, build.udp(7, 9), identification=1))
    assert decode(build.ethernet(whole)).fragment is None
    assert decode_ports(whole) == (17, 7, 9)


def test_a_jumbogram_has_an_exact_length() -> None:
    packet = build.ipv6(0, build.jumbo(6, 70_000, build.tcp(7, 9)), payload_length=0)
    decoded = decode(build.ethernet(packet))
    assert (decoded.length, decoded.length_floored) == (40 + 70_000, False)
    assert decode_ports(packet) == (6, 7, 9)


def test_a_jumbo_option_is_found_behind_padding() -> None:
    options = b"\x00" + b"\x01\x01\x00" + b"\xc2\x04" + (70_000).to_bytes(4, "big") + bytes(4)
    packet = build.ipv6(0, bytes([6, 1]) + options + build.tcp(7, 9), payload_length=0)
    assert decode(build.ethernet(packet)).length == 40 + 70_000


BIG_TCP = [
    build.ipv4(6, build.tcp(7, 9, 0x02), total=0),
    build.ipv6(6, build.tcp(7, 9, 0x02), payload_length=0),
]


@pytest.mark.parametrize("packet", BIG_TCP)
def test_a_big_tcp_packet_has_the_rest_of_the_frame_or_a_floor(packet: bytes) -> None:
    known = decode(build.ethernet(packet), original=14 + 100_000)
    assert (known.length, known.length_floored) == (100_000, False)
    unknown = decode(build.ethernet(packet))
    assert (unknown.length, unknown.length_floored) == (65_536, True)
    captured = decode(build.ethernet(packet + bytes(80_000)))
    assert captured.length == len(packet) + 80_000
    assert unpack_key(unknown.key).source_port == 7
    assert unknown.opened


def test_an_original_length_below_the_captured_one_counts_as_captured() -> None:
    assert decode(build.ethernet(BIG_TCP[0]), original=3).length == len(BIG_TCP[0])


def test_an_ipv6_payload_of_zero_without_tcp_is_a_header_alone() -> None:
    for packet in (
        build.ipv6(59, b""),
        build.ipv6(17, build.udp(), payload_length=0),
        build.ipv6(0, build.extension(6, build.tcp()), payload_length=0),
    ):
        decoded = decode(build.ethernet(packet))
        assert (decoded.length, decoded.length_floored) == (40, False)
        assert unpack_key(decoded.key).source_port == 0


@given(st.data(), LINK_TYPES)
@settings(max_examples=100)
def test_any_bytes_of_any_link_type_decode_or_are_rejected(
    data: st.DataObject, link_type: int
) -> None:
    frame = data.draw(st.one_of(frames(link_type), st.binary(max_size=120)))
    original = data.draw(st.none() | st.integers(0, 2**32 - 1))
    decoded = decode_frame(link_type, frame, original)
    if isinstance(decoded, DecodedFrame):
        assert pack_key(unpack_key(decoded.key)) == decoded.key
        assert decoded.length >= 20
    else:
        assert decoded in Rejection
