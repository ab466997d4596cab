"""What tshark, a dissector that shares no code with hogpipe, says of the frames of a file.

tshark lists the layers of a frame and the values of each field in their order. What counts here is
the outermost IP packet: its addresses, its length, the protocol behind all extension headers, and
the ports of the layer that follows at once. Reassembly is off: each frame stands for itself.
"""

import ipaddress
import subprocess
from pathlib import Path
from typing import NamedTuple

_LAYERS_BEFORE_IP = frozenset(
    {"eth", "ethertype", "vlan", "ieee8021ad", "llc", "ppp", "pppoes", "mpls", "sll", "null", "raw"}
)
_NEXT_HEADER = {  # of the layers between IPv6 and the transport
    "ipv6": "ipv6.nxt",
    "ipv6.hopopts": "ipv6.hopopts.nxt",
    "ipv6.routing": "ipv6.routing.nxt",
    "ipv6.dstopts": "ipv6.dstopts.nxt",
    "ipv6.fraghdr": "ipv6.fraghdr.nxt",
    "ah": "ah.next_header",
    "mipv6": "mip6.proto",
    "hip": "hip.proto",
    "shim6": "shim6.nxt",
}
_PORTS = {
    "tcp": ("tcp.srcport", "tcp.dstport"),
    "udp": ("udp.srcport", "udp.dstport"),
    "udplite": ("udp.srcport", "udp.dstport"),
    "sctp": ("sctp.srcport", "sctp.dstport"),
    "dccp": ("dccp.srcport", "dccp.dstport"),
}
_ECHOES = {
    "icmp": ("icmp.type", {"8", "0"}, "icmp.ident"),
    "icmpv6": ("icmpv6.type", {"128", "129"}, "icmpv6.echo.identifier"),
}
_FIELDS = [
    "frame.protocols", "ip.version", "ip.src", "ip.dst", "ip.len", "ip.proto",
    "ipv6.src", "ipv6.dst", "ipv6.plen", "ipv6.opt.jumbo", *_NEXT_HEADER.values(),
    *{name for pair in _PORTS.values() for name in pair},
    *(name for kind, _, identifier in _ECHOES.values() for name in (kind, identifier)),
]  # fmt: skip
_OFF = (
    "ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams", "sctp.reassembly",
    "ip.check_checksum", "ip.use_geoip", "tcp.analyze_sequence_numbers",
)  # fmt: skip


class Dissection(NamedTuple):
    """The outermost IP packet of a frame, by tshark."""

    layers: tuple[str, ...]
    """All layers of the frame, from the outermost one on."""
    packet: "DissectedPacket | None"

    @property
    def path(self) -> tuple[str, ...]:
        """The layers before IP; all of them if there is no IP."""
        for at, layer in enumerate(self.layers):
            if layer in ("ip", "ipv6"):
                return self.layers[:at]
        return self.layers

    @property
    def is_reachable(self) -> bool:
        """Whether IP follows link headers only, and no tunnel or pseudowire."""
        return self.packet is not None and _LAYERS_BEFORE_IP.issuperset(self.path)


class DissectedPacket(NamedTuple):
    """Protocol, source, destination and their ports, and the length of the packet."""

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    length: int


def dissect(path: Path) -> list[Dissection]:
    """Return what tshark says of each frame of a file."""
    words = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=/t"]
    for name in _OFF:
        words += ["-o", f"{name}:FALSE"]
    for name in _FIELDS:
        words += ["-e", name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr  # 2: the file is cut
    return [_read_line(line) for line in done.stdout.splitlines()]


def count_frames(paths: list[Path]) -> dict[Path, int]:
    """Return how many frames Wireshark reads in each file that it can read."""
    words = ["capinfos", "-T", "-M", "-r", "-c", *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {Path(row[0]): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read_line(line: str) -> Dissection:
    values = dict(zip(_FIELDS, (cell.split(",") for cell in line.split("\t")), strict=True))
    layers = tuple(values["frame.protocols"][0].split(":"))
    version = next((layer for layer in layers if layer in ("ip", "ipv6")), None)
    if version is None:
        return Dissection(layers, None)
    at = layers.index(version)
    if version == "ip":
        if not values["ip.dst"][0] or not values["ip.len"][0]:
            return Dissection(layers, None)  # cut within its header
        protocol, length = int(values["ip.proto"][0]), int(values["ip.len"][0])
    else:
        if not values["ipv6.dst"][0]:
            return Dissection(layers, None)
        at, protocol = _follow(layers, at, values)
        length = 40 + int(values["ipv6.opt.jumbo"][0] or values["ipv6.plen"][0])
    source, destination = (
        ipaddress.ip_address(values[f"{version}.{end}"][0]).packed for end in ("src", "dst")
    )
    above = layers[at + 1] if at + 1 < len(layers) else ""
    ports = _find_ports(above, values)
    return Dissection(
        layers, DissectedPacket(protocol, source, ports[0], destination, ports[1], length)
    )


def _follow(layers: tuple[str, ...], at: int, values: dict[str, list[str]]) -> tuple[int, int]:
    """Return where the last extension header of the packet at `at` is, and the protocol in it."""
    seen = dict.fromkeys(_NEXT_HEADER, 0)
    protocol = int(values["ipv6.nxt"][0])
    while at + 1 < len(layers) and layers[at + 1] in _NEXT_HEADER and layers[at + 1] != "ipv6":
        at += 1
        found = values[_NEXT_HEADER[layers[at]]]
        number = seen[layers[at]]
        if number >= len(found) or not found[number]:
            break
        protocol, seen[layers[at]] = int(found[number]), number + 1
    return at, protocol


def _find_ports(layer: str, values: dict[str, list[str]]) -> tuple[int, int]:
    if layer in _PORTS:
        source, destination = (values[name][0] for name in _PORTS[layer])
        return int(source or 0), int(destination or 0)
    if layer in _ECHOES:
        kind, kinds, identifier = _ECHOES[layer]
        if values[kind][0] in kinds and values[identifier][0]:
            return (int(values[identifier][0], 0),) * 2
    return 0, 0
