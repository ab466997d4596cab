"""A program that exchanges known traffic and prints its ports; run as a script.

    peer.py serve ADDRESS...      echo TCP and UDP on each address
    peer.py talk BYTES SERVERS    exchange data with each server that `serve` printed

It prints one line of JSON, {"pid": …, "ports": [[protocol, port], …], "servers": […]}, once its
traffic has begun (serve) or is over (talk), and keeps its sockets until its input ends.
"""

import json
import os
import selectors
import socket
import sys

PROTOCOLS = {"tcp": 6, "udp": 17}
DATAGRAMS = (1, 100, 1400, 5000)  # the last one is sent in fragments on an ordinary link


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def report(ports: set[tuple[int, int]], servers: list[list[object]]) -> None:
    line = {"pid": os.getpid(), "ports": sorted(ports), "servers": servers}
    print(json.dumps(line), flush=True)


def serve(addresses: list[str]) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    ports = set()
    servers: list[list[object]] = []
    for address in addresses:
        listener = socket.create_server((address, 0), family=family_of(address))
        receiver = socket.socket(family_of(address), socket.SOCK_DGRAM)
        receiver.bind((address, 0))
        for transport, made in (("tcp", listener), ("udp", receiver)):
            port = made.getsockname()[1]
            selector.register(made, selectors.EVENT_READ, transport)
            ports.add((PROTOCOLS[transport], port))
            servers.append([transport, address, port])
    report(ports, servers)
    while True:
        for key, _events in selector.select():
            if key.fileobj is sys.stdin:
                return
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if key.data == "tcp":
                accepted, _peer = ready.accept()
                selector.register(accepted, selectors.EVENT_READ, "connection")
            elif key.data == "udp":
                data, peer = ready.recvfrom(65536)
                ready.sendto(data, peer)
            elif data := ready.recv(65536):
                ready.sendall(data)
            else:
                selector.unregister(ready)
                ready.close()


def talk(size: int, servers: list[list[object]]) -> None:
    kept = []
    ports = set()
    for transport, address, port in servers:
        assert isinstance(address, str)
        kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        made = socket.socket(family_of(address), kind)
        made.connect((address, port))
        kept.append(made)
        ports.add((PROTOCOLS[str(transport)], made.getsockname()[1]))
        if transport == "tcp":
            echo(made, size)
        else:
            for length in DATAGRAMS:
                made.send(b"u" * length)
                assert len(made.recv(65536)) == length
    report(ports, [])
    sys.stdin.read()


def echo(connection: socket.socket, size: int) -> None:
    remaining = size
    while remaining:
        sent = connection.send(b"t" * min(remaining, 10_000))
        remaining -= sent
        while sent:
            sent -= len(connection.recv(sent))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    else:
        talk(int(sys.argv[2]), json.loads(sys.argv[3]))
