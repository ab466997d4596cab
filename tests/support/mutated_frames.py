"""Batches of mutated frames: valid ones of a link type, with random bytes, cuts and lengths."""

from collections.abc import Iterator, Sequence

import numpy as np

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.scalar_link import LinkType
from support import frames as build

_BATCH = 8192
_HEADERS = 120  # bytes of a frame that are changed
_TELLING = [0, 1, 0x0F, 0x11, 0x40, 0x45, 0x60, 0x7F, 0x80, 0xC2, 0xFF]  # bytes that often matter

_UDP = build.udp(7, 9, bytes(60))
PACKETS = [
    *(build.ipv4(6, build.tcp(7, 9, flags, bytes(40))) for flags in (0x02, 0x10)),
    build.ipv4(17, _UDP),
    build.ipv4(17, _UDP, options=bytes(8)),
    build.ipv4(17, _UDP, identification=1, more=True),
    build.ipv4(17, bytes(80), identification=1, offset=8),
    build.ipv4(6, build.tcp(7, 9, payload=bytes(60)), total=0),
    build.ipv4(1, build.echo(8, 77)),
    build.ipv6(17, _UDP),
    build.ipv6(6, build.tcp(7, 9, payload=bytes(40))),
    build.ipv6(6, build.tcp(7, 9, payload=bytes(40)), payload_length=0),
    build.ipv6(0, build.jumbo(6, 70_000, build.tcp(7, 9)), payload_length=0),
    build.ipv6(0, build.extension(60, build.extension(17, _UDP))),
    build.ipv6(44, build.fragment6(17, _UDP, identification=1, more=True)),
    build.ipv6(44, build.fragment6(17, _UDP, identification=1, offset=64)),
    build.ipv6(58, build.echo(128, 77)),
]


def wrap_variously(link_type: LinkType, packet: bytes) -> list[bytes]:
    """Return a packet behind several headers of a link type."""
    match link_type:
        case LinkType.ETHERNET:
            session = build.pppoe(packet)
            return [
                build.ethernet(packet),
                build.ethernet(packet, tags=[0x88A8, 0x8100]),
                build.ethernet(session, build.PPPOE, tags=[0x8100]),
                build.ethernet(build.mpls(packet, 2), 0x8847),
                build.ethernet(build.snap(packet), 300),
            ]
        case LinkType.LINUX_SLL:
            return [build.sll(packet), build.sll(packet, tags=[0x8100])]
        case LinkType.LINUX_SLL2:
            return [build.sll2(packet), build.sll2(packet, tags=[0x8100])]
        case LinkType.PPP:
            return [build.ppp(packet), build.ppp(packet, framing=b"")]
    return [build.wrap(link_type, packet)]


def mutated_batches(link_type: LinkType, count: int, seed: int) -> Iterator[FrameBatch]:
    """Yield `count` frames in batches, with original lengths; the same for the same seed."""
    chance = np.random.default_rng(seed)
    originals = [frame for packet in PACKETS for frame in wrap_variously(link_type, packet)]
    while count > 0:
        chosen = chance.integers(len(originals), size=min(_BATCH, count))
        count -= len(chosen)
        yield _mutate([originals[index] for index in chosen.tolist()], chance)


def _mutate(drawn: Sequence[bytes], chance: np.random.Generator) -> FrameBatch:
    sizes = np.array([len(frame) for frame in drawn])
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    data = np.frombuffer(b"".join(drawn), np.uint8).copy()
    for _ in range(3):  # each frame gets up to three random bytes
        at = starts + chance.integers(0, np.minimum(sizes, _HEADERS))
        octets = chance.integers(0, 256, len(drawn))
        telling = chance.choice(_TELLING, len(drawn))
        changed = np.where(chance.random(len(drawn)) < 0.5, octets, telling)
        some = chance.random(len(drawn)) < 0.5
        data[at[some]] = changed[some]
    captured = np.where(chance.random(len(drawn)) < 0.2, chance.integers(0, sizes + 1), sizes)
    cut_off = chance.choice([0, 0, 0, 1, 40, 1_400, 70_000], len(drawn))
    records = np.zeros((len(drawn), 4), np.uint32)
    records[:, 1] = np.arange(len(drawn))
    records[:, 2], records[:, 3] = starts, captured
    return FrameBatch(data.tobytes(), records, (sizes + cut_off).astype(np.uint32))
