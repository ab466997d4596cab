"""The loads of soak.py, each a program that goes on whatever happens to its network.

soak_load.py serve ADDRESS               answer TCP connections, and receive datagrams
soak_load.py steady ADDRESS RATE         datagrams from 20 sockets, RATE a second
soak_load.py connections ADDRESS RATE    short TCP connections, one after the other
soak_load.py processes ADDRESS RATE      processes that each make one connection, and end
soak_load.py burst ADDRESS FLOWS         one datagram from each of so many sockets; then end
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

PORT = 9009
PAYLOAD = bytes(200)


def serve(address: str) -> None:
    """Answer until the process is killed."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, PORT))
    listener = socket.create_server((address, PORT), backlog=512)
    Thread(target=discard, args=(datagrams,), daemon=True).start()
    print("ready", flush=True)
    while True:
        with suppress(OSError):
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(2)
                connection.recv(len(PAYLOAD))
                connection.sendall(PAYLOAD * 10)


def discard(datagrams: socket.socket) -> None:
    while True:
        datagrams.recv(len(PAYLOAD))


def connect(address: str) -> None:
    """Make one exchange."""
    with suppress(OSError), socket.create_connection((address, PORT), timeout=2) as connection:
        connection.sendall(PAYLOAD)
        while connection.recv(4096):
            pass


def repeat(rate: float, work: Callable[[], None]) -> None:
    """Call `work` so often a second, and never to catch up."""
    while True:
        begun = time.monotonic()
        work()
        time.sleep(max(0.0, begun + 1 / rate - time.monotonic()))


def steady(address: str, rate: float) -> None:
    senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]

    def send() -> None:
        for sender in senders:
            with suppress(OSError):
                sender.sendto(PAYLOAD, (address, PORT))

    repeat(rate / len(senders), send)


def spawn(address: str) -> None:
    child = os.fork()
    if child == 0:
        connect(address)
        os._exit(0)
    os.waitpid(child, 0)


def burst(address: str, flows: int) -> None:
    for _ in range(flows):
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(PAYLOAD, (address, PORT))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", where]:
            serve(where)
        case ["steady", where, rate]:
            steady(where, float(rate))
        case ["connections", where, rate]:
            repeat(float(rate), lambda: connect(where))
        case ["processes", where, rate]:
            repeat(float(rate), lambda: spawn(where))
        case ["burst", where, flows]:
            burst(where, int(flows))
