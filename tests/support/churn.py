"""Processes that come and go, each with a few new sockets.

churn.py receive ADDRESS                 print a port, and receive and accept there
churn.py send ADDRESS PORT PROCESSES     run so many processes, one after the other

Each process sends from DATAGRAM_SOCKETS new sockets and connects CONNECTIONS times.
"""

import os
import selectors
import socket
import sys

DATAGRAM_SOCKETS = 16
CONNECTIONS = 4
FLOWS = DATAGRAM_SOCKETS + CONNECTIONS


def receive(address: str) -> None:
    """Receive datagrams, and close what is accepted."""
    with (
        socket.create_server((address, 0), backlog=1024) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        selectors.DefaultSelector() as selector,
    ):
        server.bind(listener.getsockname())
        print(server.getsockname()[1], flush=True)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _events in selector.select():
                if key.fileobj is server:
                    server.recv(64)
                else:
                    listener.accept()[0].close()


def use_sockets(target: tuple[str, int]) -> None:
    """Send from sockets of each kind, and close them."""
    for _ in range(DATAGRAM_SOCKETS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x" * 32, target)
    for _ in range(CONNECTIONS):
        with socket.create_connection(target) as connection:
            connection.sendall(b"x" * 32)


def send(target: tuple[str, int], processes: int) -> None:
    """Run one process after the other."""
    for _ in range(processes):
        child = os.fork()
        if not child:
            use_sockets(target)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", address]:
            receive(address)
        case ["send", address, port, processes]:
            send((address, int(port)), int(processes))
