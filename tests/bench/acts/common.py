"""What the scenarios share: ports of the peer, exchanges, and children."""

import os
import socket
import time
from collections.abc import Callable

from scenario_peer import ECHO, PAUSE, SIZE, family_of, receive_exactly

PEER4, PEER6 = "10.97.0.2", "fd00:97::2"
NEAR4, BOX4, LOOPBACK, GROUP = "10.97.0.1", "10.98.0.2", "127.97.0.1", "239.97.0.1"
TCP, UDP, ICMP, RAW = 6, 17, 1, 253
UNAVAILABLE = 69
ANY_PORT = -1  # stands for all packets of a protocol
PORT = ECHO[0]
ROUNDS = 60  # exchanges, PAUSE apart
SHORT = 300

Owner = tuple[int, int, list[int]]
Owners = list[Owner]


def own(protocol: int, *ports: int) -> Owners:
    """Return that this process alone uses these ports of the peer."""
    return [(os.getpid(), protocol, list(ports))]


def exchange(end: socket.socket, rounds: int = ROUNDS, size: int = SIZE) -> None:
    """Send and receive again, with pauses."""
    for _ in range(rounds):
        end.sendall(bytes(size))
        receive_exactly(end, size)
        time.sleep(PAUSE)


def connect(port: int = PORT, address: str = PEER4, **options: object) -> socket.socket:
    return socket.create_connection((address, port), **options)  # type: ignore[arg-type]


def fork(work: Callable[[], None]) -> int:
    """Let a child do the work; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(*pids: int) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status:
            raise ChildProcessError(f"{pid} ended with {status}")


def exchange_once(end: socket.socket) -> None:
    end.sendall(bytes(SIZE))
    receive_exactly(end, SIZE)


def datagram(protocol: int = 0, address: str = PEER4) -> socket.socket:
    end = socket.socket(family_of(address), socket.SOCK_DGRAM, protocol)
    end.settimeout(2)
    return end
