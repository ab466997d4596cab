"""A flood of UDP datagrams, each of another flow, written to an interface as raw frames.

    flood.py receive ADDRESS                        print a port, and receive there
    flood.py send INTERFACE MAC ADDRESS PORT FLOWS  send one datagram of each flow

Sources are distinct addresses of 20.0.0.0/8 with random ports.
"""

import random
import socket
import struct
import sys
import time

PAYLOAD = 32
IP_BYTES = 20 + 8 + PAYLOAD
_IP_AND_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")


def make_frame(mac: str, source: bytes, target: bytes, source_port: int, port: int) -> bytes:
    """Return an Ethernet frame with a datagram; the checksum of UDP is left out (0)."""
    words = (0x45, 0, IP_BYTES, 0, 0, 64, 17)
    total = sum(struct.unpack("!10H", _IP_AND_UDP.pack(*words, 0, source, target, 0, 0, 0, 0)[:20]))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
    header = _IP_AND_UDP.pack(*words, checksum, source, target, source_port, port, 8 + PAYLOAD, 0)
    ethernet = bytes.fromhex(mac.replace(":", "")) + b"\2\0\0\0\0\x09" + b"\x08\0"
    return ethernet + header + bytes(PAYLOAD)


def send(interface: str, mac: str, address: str, port: int, flows: int) -> None:
    """Send a datagram of each flow."""
    target, chance = socket.inet_aton(address), random.Random(1)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0x0800))
        for number in range(flows):
            source = struct.pack("!I", 20 << 24 | 1 + number)
            frame = make_frame(mac, source, target, chance.randrange(1024, 65536), port)
            while True:
                try:
                    link.send(frame)
                except OSError:  # the queue of the interface is full
                    time.sleep(0.001)
                else:
                    break


def receive(address: str) -> None:
    """Receive datagrams, and do not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        print(server.getsockname()[1], flush=True)
        while True:
            server.recv(PAYLOAD)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", address]:
            receive(address)
        case ["send", interface, mac, address, port, flows]:
            send(interface, mac, address, int(port), int(flows))
