"""A collector in a process, controlled by signals; a script.

    listener.py PORT FILE [RECEIVE_BUFFER]

It prints a line once it listens. The bytes of each connection go to a file of its own, FILE.0,
FILE.1, …, so that the lines of two do not mix. SIGUSR1: it closes its side of each connection and
goes on reading. SIGUSR2: it resets each connection.
"""

import contextlib
import selectors
import signal
import socket
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import IO

connections: dict[socket.socket, IO[bytes]] = {}
signals: list[int] = []


def on_signal(number: int, _frame: FrameType | None) -> None:
    signals.append(number)


def handle(number: int, selector: selectors.BaseSelector) -> None:
    for connection in list(connections):
        with contextlib.suppress(OSError):  # the connection may have ended
            if number == signal.SIGUSR1:
                connection.shutdown(socket.SHUT_WR)
            else:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                drop(connection, selector)


def drop(connection: socket.socket, selector: selectors.BaseSelector) -> None:
    selector.unregister(connection)
    connections.pop(connection).close()
    connection.close()


def read(connection: socket.socket, selector: selectors.BaseSelector) -> None:
    try:
        data = connection.recv(1 << 16)
    except OSError:
        data = b""
    if data:
        connections[connection].write(data)
    else:
        drop(connection, selector)


def name_file(path: Path) -> Path:
    number = 0
    while (made := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return made


def main(port: int, path: Path, receive_buffer: int) -> None:
    wake_up, wake_up_writer = socket.socketpair()
    wake_up_writer.setblocking(False)
    signal.set_wakeup_fd(wake_up_writer.fileno())
    signal.signal(signal.SIGUSR1, on_signal)
    signal.signal(signal.SIGUSR2, on_signal)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if receive_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(wake_up, selectors.EVENT_READ)
    print("listens", file=sys.stderr, flush=True)
    while True:
        for key, _events in selector.select():
            if key.fileobj is listener:
                connection, _peer = listener.accept()
                connections[connection] = name_file(path).open("wb", buffering=0)
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj is wake_up:
                wake_up.recv(100)
            elif key.fileobj in connections:
                assert isinstance(key.fileobj, socket.socket)
                read(key.fileobj, selector)
        while signals:
            handle(signals.pop(0), selector)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)
