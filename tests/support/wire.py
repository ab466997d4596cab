"""Wire truth: what tcpdump captured on an Ethernet link, and what records say, as sums to compare.

Packets are parsed here by independent code, not by the decoders under test.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.running import traffic_of

UDP = 17
FRAGMENT_HEADER = 44


class Packet(NamedTuple):
    """An IP packet; `size` is its total length, ports are those of its first fragment."""

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    size: int
    payload_at: int
    """Offset of a fragment's payload in the packet; 0 if the packet is whole."""
    first: bool
    """Whether it is the first fragment, or whole."""


class Moved(NamedTuple):
    """What a process moved."""

    transmit_bytes: int
    transmit_packets: int
    receive_bytes: int
    receive_packets: int


def read_packets(path: Path) -> Iterator[Packet]:
    """Yield the TCP and UDP packets of a little-endian pcap file of Ethernet frames."""
    data = path.read_bytes()
    at = 24
    firsts: dict[bytes, bytes] = {}
    while at < len(data):
        (captured,) = struct.unpack_from("<I", data, at + 8)
        frame = data[at + 16 : at + 16 + captured]
        at += 16 + captured
        if frame[12:14] == b"\x08\x00":
            packet = read_v4(frame[14:], firsts)
        elif frame[12:14] == b"\x86\xdd":
            packet = read_v6(frame[14:], firsts)
        else:
            continue
        if packet.protocol in {6, UDP}:
            yield packet


def read_v4(ip: bytes, firsts: dict[bytes, bytes]) -> Packet:
    (size,) = struct.unpack_from(">H", ip, 2)
    header = (ip[0] & 15) * 4
    ports = ip[header:][:4]
    name = ip[12:20] + ip[4:6] + ip[9:10]
    (place,) = struct.unpack_from(">H", ip, 6)
    if place & 0x1FFF:
        ports = firsts[name]
    else:
        firsts[name] = ports
    payload_at = header if place & 0x3FFF else 0
    return Packet(ip[9], ip[12:16], *_pick(ports, ip[16:20]), size, payload_at, not place & 0x1FFF)


def read_v6(ip: bytes, firsts: dict[bytes, bytes]) -> Packet:
    size = 40 + struct.unpack_from(">H", ip, 4)[0]
    protocol, ports = ip[6], ip[40:44]
    payload_at, first = 0, True
    if protocol == FRAGMENT_HEADER:
        protocol, name = ip[40], ip[8:40] + ip[44:48]
        payload_at, first = 48, not struct.unpack_from(">H", ip, 42)[0] >> 3
        if first:
            ports = firsts[name] = ip[48:52]
        else:
            ports = firsts[name]
    return Packet(protocol, ip[8:24], *_pick(ports, ip[24:40]), size, payload_at, first)


def remove_fragment_headers(packets: list[Packet]) -> list[Packet]:
    """Return packets with the sizes that the sockets at both ends see, without fragment headers."""
    whole = []
    for packet in packets:
        header = 40 if len(packet.source) == 16 else 20
        if packet.payload_at:
            payload = packet.size - packet.payload_at
            packet = packet._replace(size=payload + (header if packet.first else 0))  # noqa: PLW2901
        whole.append(packet)
    return whole


def _pick(ports: bytes, destination: bytes) -> tuple[int, bytes, int]:
    source_port, destination_port = struct.unpack(">HH", ports)
    return source_port, destination, destination_port


def count(packets: list[Packet], ports: list[list[int]], *, fragments: bool = True) -> Moved:
    """Return what the process that used `ports`, (protocol, port) each, moved.

    Without `fragments` those of a packet count as one packet.
    """
    used = {(protocol, port) for protocol, port in ports}
    moved: Counter[str] = Counter()
    for packet in packets:
        if (packet.protocol, packet.source_port) in used:
            moved["transmit_bytes"] += packet.size
            moved["transmit_packets"] += fragments or packet.first
        if (packet.protocol, packet.destination_port) in used:
            moved["receive_bytes"] += packet.size
            moved["receive_packets"] += fragments or packet.first
    return _make_moved(moved)


def sum_moved(records: Sequence[dict[str, Any]], pid: int | None) -> Moved:
    """Return what a process, or what no process, moved by the records."""
    moved = sum_by_interface(records, pid).values()
    return Moved(*[sum(one[at] for one in moved) for at in range(len(Moved._fields))])


def sum_by_interface(records: Sequence[dict[str, Any]], pid: int | None) -> dict[str, Moved]:
    """Return what a process, or what no process, moved, by interface ("" where unnamed)."""
    totals: dict[str, Counter[str]] = {}
    for record in traffic_of(records):
        if record.get("process", {}).get("pid") == pid:
            interface = record["network"].get("interface", {}).get("name", "")
            total = totals.setdefault(interface, Counter())
            for way in ("transmit", "receive"):
                for unit in ("bytes", "packets"):
                    total[f"{way}_{unit}"] += record["network"]["io"][way][unit]
    return {interface: _make_moved(total) for interface, total in totals.items()}


def _make_moved(total: "Counter[str]") -> Moved:
    return Moved(**{name: total[name] for name in Moved._fields})
