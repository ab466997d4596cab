"""A collector as a process of its own, to be killed, stopped and told off by signals; a script.

    listener.py PORT FILE [RECEIVE_BUFFER]

It appends what each connection says to FILE, and prints a line once it listens. A connection's
bytes go to a file of its own, FILE.0, FILE.1, …, so that lines of two do not mix. SIGUSR1 makes it
close its side of each connection but go on reading; SIGUSR2 makes it reset each.
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
asked: list[int] = []


def note(number: int, _frame: FrameType | None) -> None:
    asked.append(number)


def obey(number: int, selector: selectors.BaseSelector) -> None:
    for connection in list(connections):
        with contextlib.suppress(OSError):  # it may be gone already
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
    wake_up, wake_up_too = socket.socketpair()
    wake_up_too.setblocking(False)
    signal.set_wakeup_fd(wake_up_too.fileno())
    signal.signal(signal.SIGUSR1, note)
    signal.signal(signal.SIGUSR2, note)
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
        while asked:
            obey(asked.pop(0), selector)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)
