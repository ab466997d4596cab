"""The other end of every scenario: echoes, and clients of the servers of scenario_acts.py.

    scenario_peer.py echo FAMILY-ADDRESS…          until its input ends
    scenario_peer.py clients ADDRESS PORT COUNT    so many connections, one after the other
    scenario_peer.py datagrams ADDRESS PORT COUNT  so many exchanges, each from a socket of its own
    scenario_peer.py group ADDRESS PORT COUNT      so many datagrams to a multicast group

Echoes are on the ports of ECHO, over TCP, UDP, UDP-Lite and MPTCP, as far as the kernel has them;
what comes to the ports of DISCARD has no answer. A client that connects to a port of DOWNLOAD gets
as many bytes as its first line says.
"""

import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator

MPTCP, UDPLITE = 262, 136
ECHO, DISCARD, DOWNLOAD = range(5000, 5080), range(5100, 5110), range(5120, 5124)
CLOSED, SERVICE = 5130, 6000
SIZE = 400
_CHUNK = 1 << 16
PAUSE = 0.02


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(*addresses: str) -> None:
    """Serve until the input ends."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for address in addresses:
        for kind, protocol in (
            (socket.SOCK_STREAM, 0),
            (socket.SOCK_STREAM, MPTCP),
            (socket.SOCK_DGRAM, 0),
            (socket.SOCK_DGRAM, UDPLITE),
        ):
            for port in (*ECHO, *DISCARD, *DOWNLOAD):
                for end in _open(address, port + 200 * (protocol == MPTCP), kind, protocol):
                    work = _accept if kind == socket.SOCK_STREAM else _answer
                    selector.register(end, selectors.EVENT_READ, work)
    print("ready", file=sys.stderr, flush=True)
    while True:
        for key, _events in selector.select():
            if key.data is None:
                return
            key.data(selector, key.fileobj)


def _open(address: str, port: int, kind: int, protocol: int) -> Iterator[socket.socket]:
    """Yield a socket, if the kernel has the protocol."""
    try:
        end = socket.socket(family_of(address), kind, protocol)
    except OSError:
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind((address, port))
    if kind == socket.SOCK_STREAM:
        end.listen(512)
    end.setblocking(False)
    yield end


def _accept(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        end, _ = listener.accept()
        port = end.getsockname()[1]
        end.setblocking(port in DOWNLOAD)
        work: Callable = _download if port in DOWNLOAD else _echo
        selector.register(end, selectors.EVENT_READ, work)


def _echo(selector: selectors.BaseSelector, end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        data = end.recv(_CHUNK)
        if data:
            if end.getsockname()[1] not in DISCARD:
                end.setblocking(True)
                end.sendall(data)
                end.setblocking(False)
            return
    selector.unregister(end)
    end.close()


def _download(selector: selectors.BaseSelector, end: socket.socket) -> None:
    wanted = int(end.recv(100))
    for _ in range(wanted // _CHUNK):
        end.sendall(bytes(_CHUNK))
    selector.unregister(end)
    end.close()


def _answer(_selector: selectors.BaseSelector, end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, sender = end.recvfrom(_CHUNK)
            if end.getsockname()[1] in ECHO:
                end.sendto(data, sender)


def receive_exactly(end: socket.socket, size: int) -> None:
    """Receive `size` bytes. Raises ConnectionError if there are fewer."""
    while size:
        data = end.recv(min(size, _CHUNK))
        if not data:
            raise ConnectionError("ended early")
        size -= len(data)


def clients(address: str, port: str, count: str) -> None:
    for _ in range(int(count)):
        with socket.create_connection((address, int(port))) as end:
            end.sendall(bytes(SIZE))
            receive_exactly(end, SIZE)
            time.sleep(PAUSE)


def datagrams(address: str, port: str, count: str) -> None:
    for _ in range(int(count)):
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as end:
            end.settimeout(2)
            end.sendto(bytes(SIZE), (address, int(port)))
            end.recv(SIZE)


def group(address: str, port: str, count: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        for _ in range(int(count)):
            end.sendto(bytes(SIZE), (address, int(port)))
            time.sleep(PAUSE)


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    {"echo": echo, "clients": clients, "datagrams": datagrams, "group": group}[role](*words)
