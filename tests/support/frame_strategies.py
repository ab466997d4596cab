"""Hypothesis strategies of frames: mostly valid, some with wrong lengths, cuts or changed bytes."""

from hypothesis import strategies as st

from hogpipe.capture.decode.scalar_link import LinkType
from support import frames as build

VLAN_TAGS = st.lists(st.sampled_from([0x8100, 0x88A8, 0x9100, 0x9200]), max_size=5)
LINK_TYPES = st.sampled_from([*LinkType, 127])
_PORT = st.sampled_from([0, 53, 80, 40000])
_EXTENSIONS = [0, 43, 44, 51, 60, 135, 139, 140]
_PROTOCOLS = [1, 6, 17, 58, 59, 50, 132, 136, 47]


@st.composite
def transports(draw: st.DrawFn) -> tuple[int, bytes]:
    """A protocol number and what follows the last IP header."""
    protocol = draw(st.sampled_from(_PROTOCOLS))
    if protocol == 6:
        return 6, build.tcp(draw(_PORT), draw(_PORT), draw(st.sampled_from([0x02, 0x10, 0x12])))
    if protocol in (1, 58):
        kind = draw(st.sampled_from([0, 3, 8, 128, 129, 135]))
        return protocol, build.echo(kind, draw(_PORT))
    payload = draw(st.sampled_from([b"", b"x", bytes(30)]))
    return protocol, build.udp(draw(_PORT), draw(_PORT), payload)


@st.composite
def ipv4_packets(draw: st.DrawFn) -> bytes:
    """IPv4, perhaps with options, a fragment, or with a wrong length."""
    protocol, payload = draw(transports())
    fragment = draw(st.sampled_from([(0, False), (0, False), (0, True), (8, True), (16, False)]))
    return build.ipv4(
        protocol,
        payload,
        source=draw(st.sampled_from([build.A4, build.B4])),
        total=draw(st.sampled_from([None, None, None, 0, 19, 22, 1500])),
        options=draw(st.sampled_from([b"", b"", bytes(4), bytes(40)])),
        identification=draw(st.integers(0, 2)),
        offset=fragment[0],
        more=fragment[1],
    )


@st.composite
def ipv6_packets(draw: st.DrawFn) -> bytes:
    """IPv6 with up to ten extension headers, perhaps a jumbogram, perhaps with a wrong length."""
    protocol, payload = draw(transports())
    for kind in draw(st.lists(st.sampled_from(_EXTENSIONS), max_size=10)):
        if kind == 44:
            offset, more = draw(st.sampled_from([(0, False), (0, True), (8, True), (16, False)]))
            payload = build.fragment6(
                protocol, payload, identification=draw(st.integers(0, 2)), offset=offset, more=more
            )
        elif kind == 51:
            payload = build.authentication(protocol, payload, size=draw(st.sampled_from([12, 24])))
        elif kind == 0 and draw(st.booleans()):
            payload = build.jumbo(protocol, draw(st.sampled_from([0, 70_000, 2**32 - 1])), payload)
        else:
            payload = build.extension(protocol, payload, size=draw(st.sampled_from([8, 16])))
        protocol = kind
    return build.ipv6(
        protocol,
        payload,
        source=draw(st.sampled_from([build.A6, build.B6])),
        payload_length=draw(st.sampled_from([None, None, None, 0, 3, 1460])),
    )


@st.composite
def llc_frames(draw: st.DrawFn, packet: bytes) -> bytes:
    """What follows the length in an IEEE 802.3 frame: SNAP, or another protocol."""
    if draw(st.sampled_from([False, False, True])):
        return draw(
            st.sampled_from([b"\x42\x42\x03" + bytes(35), b"\xaa\xaa", b"\xaa\xaa\x13" * 4])
        )
    inner = draw(st.sampled_from([None, None, 0x8100, 0x8847, 0x0806, 4]))
    if inner == 0x8100:
        packet = build.ethertyped(packet, tags=[7])[2:]
    elif inner == 0x8847:
        packet = build.mpls(packet)
    elif inner == 4:
        packet = build.snap(packet)
    return build.snap(packet, inner, organisation=draw(st.sampled_from([0, 0, 0, 0xF8, 0x10000])))


@st.composite
def between_link_and_ip(
    draw: st.DrawFn, packet: bytes, ethertype: int | None, protocol: bytes | None
) -> bytes:
    """What follows `ethertype`: `packet`, or other headers and then the packet."""
    if ethertype == 0x8864:
        start = draw(st.sampled_from([0x11, 0x11, 0x11, 0x21]))
        return build.pppoe(packet, protocol, start=start, code=draw(st.sampled_from([0, 0, 9])))
    if ethertype in (0x8847, 0x8848):
        return build.mpls(packet, draw(st.sampled_from([1, 1, 2, 8, 9, 0])))
    if ethertype is not None and ethertype < 0x600:
        return draw(llc_frames(packet))
    return packet


@st.composite
def well_formed(draw: st.DrawFn, link_type: int) -> bytes:
    """A frame of `link_type` with an IP packet, or with another protocol."""
    packet = draw(st.one_of(ipv4_packets(), ipv6_packets()))
    ethertype = draw(
        st.sampled_from(
            [None, None, None, 0x8864, 0x8847, 0x8848, 0x0806, 0x0800, 0x86DD, 60, 4, 0x5FF]
        )
    )
    protocol = draw(
        st.sampled_from(
            [None, None, None, b"\x21", b"\x57", b"\xc0\x21", b"\x00\x21", b"\x00\x20", b"\x02\x81"]
        )
    )
    inner = draw(between_link_and_ip(packet, ethertype, protocol))
    if protocol == b"\x02\x81":
        packet = build.mpls(packet)
    packet_type, hardware = draw(st.sampled_from([(0, 1), (4, 1), (1, 1), (0, 772), (4, 772)]))
    tags = draw(VLAN_TAGS)
    framing = draw(st.sampled_from([b"\xff\x03", b"\x00\x03", b"", b"\xff"]))
    number = draw(st.sampled_from([2, 10, 24, 28, 30, 7]))
    order = draw(st.sampled_from("<>"))
    code = draw(st.sampled_from([0, 0, 9]))
    match link_type:
        case LinkType.ETHERNET:
            frame = build.ethernet(inner, ethertype, tags)
        case LinkType.LINUX_SLL:
            frame = build.sll(
                inner, ethertype, packet_type=packet_type, hardware=hardware, tags=tags
            )
        case LinkType.LINUX_SLL2:
            frame = build.sll2(
                inner, ethertype, packet_type=packet_type, hardware=hardware, tags=tags
            )
        case LinkType.PPP | LinkType.PPP_SERIAL | LinkType.PPP_PPPD:
            frame = build.ppp(packet, protocol, framing)
        case LinkType.PPP_ETHER:
            frame = build.pppoe(packet, protocol, code=code)
        case LinkType.NULL | LinkType.LOOP:
            frame = build.family(packet, number, order)
        case _:
            frame = packet
    return frame


@st.composite
def frames(draw: st.DrawFn, link_type: int) -> bytes:
    """A frame of `link_type`: well-formed, or cut, or with changed bytes, or random bytes."""
    frame = draw(well_formed(link_type))
    harm = draw(st.sampled_from(["none", "none", "cut", "changed", "both", "random"]))
    if harm == "random":
        return draw(st.binary(max_size=80))
    if harm in ("changed", "both") and frame:
        at = draw(st.integers(0, min(len(frame), 80) - 1))
        frame = frame[:at] + draw(st.binary(min_size=1, max_size=2)) + frame[at + 1 :]
    if harm in ("cut", "both"):
        frame = frame[: draw(st.integers(0, len(frame)))]
    return frame
