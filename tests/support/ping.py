"""A program that sends ICMP echoes and waits for the replies; run as a script.

    ping.py KIND COUNT BYTES ADDRESS...     KIND is `ping` (a ping socket) or `raw` (a raw socket)

It prints its pid once all replies have come, and keeps its sockets until its input ends.
"""

import json
import os
import socket
import struct
import sys

ECHOES = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}  # ICMP types: request, reply
PATIENCE = 10.0


def sum_up(data: bytes) -> int:
    """Return the Internet checksum of data of even length."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def exchange(kind: str, address: str, count: int, size: int, identifier: int) -> socket.socket:
    """Send echoes and wait for each reply; return the socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    made = socket.socket(family, socket.SOCK_RAW if kind == "raw" else socket.SOCK_DGRAM, protocol)
    made.settimeout(PATIENCE)
    request, reply = ECHOES[family]
    for number in range(count):
        header = struct.pack(">BBHHH", request, 0, 0, identifier, number)
        payload = bytes(size)
        checksum = sum_up(header + payload)  # the kernel computes that of ICMPv6 and ping sockets
        made.sendto(header[:2] + struct.pack(">H", checksum) + header[4:] + payload, (address, 0))
        while True:
            data = made.recv(65536)
            if kind == "raw" and family == socket.AF_INET:
                data = data[20:]
            if data[0] == reply and data[6:8] == header[6:8]:
                break
    return made


def main() -> None:
    kind, count, size, *addresses = sys.argv[1:]
    kept = [
        exchange(kind, address, int(count), int(size), 4000 + number)
        for number, address in enumerate(addresses)
    ]
    print(json.dumps({"pid": os.getpid(), "sockets": len(kept)}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
