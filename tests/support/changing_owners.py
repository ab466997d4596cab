"""Sockets whose owner is not the process that was seen first, each on a local port of its own.

Run as a program; it prints a report as JSON: for each situation the local port, the process that
the bytes belong to or the two that share them, and what each of these transmits at least.
"""

import array
import json
import os
import select
import socket
import time
from collections.abc import Callable

HOST = "127.0.0.1"
SINK, UDP_SINK = 7100, 7101
CHUNKS, CHUNK = 5, 4000
DATAGRAMS = 10
MANY = 100


def fork(work: Callable[[], None]) -> int:
    """Do `work` in a child, which ends after it; return its pid."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def send_datagrams(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind((HOST, port))
        end.connect((HOST, UDP_SINK))
        for _ in range(DATAGRAMS):
            end.send(b"x" * 1000)
            time.sleep(0.05)
        time.sleep(0.3)  # the last packet is captured before the process ends


def connect(port: int) -> socket.socket:
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind((HOST, port))
    end.connect((HOST, SINK))
    return end


def send_chunks(end: socket.socket) -> None:
    """Send after a while, so that the holder has held the connection for longer than a second."""
    time.sleep(1.5)
    for _ in range(CHUNKS):
        end.sendall(b"x" * CHUNK)
        time.sleep(0.2)


def reuse_port(port: int) -> dict[int, int]:
    """Transmit from one port by two processes, the second a second after the first has ended."""
    pids = []
    for _ in range(2):
        pids.append(fork(lambda: send_datagrams(port)))
        os.waitpid(pids[-1], 0)
        time.sleep(1)
    return dict.fromkeys(pids, DATAGRAMS * 1028)


def hand_on_by_fork(port: int) -> dict[int, int]:
    end = connect(port)
    pid = fork(lambda: send_chunks(end))
    end.close()
    os.waitpid(pid, 0)
    return {pid: CHUNKS * CHUNK}


def hand_on_as_message(port: int) -> dict[int, int]:
    """Send the descriptor of a connection to a process that was there before."""
    here, there = socket.socketpair()

    def receive() -> None:
        _data, messages, _flags, _address = there.recvmsg(1, 64)
        send_chunks(socket.socket(fileno=array.array("i", messages[0][2])[0]))

    pid = fork(receive)
    end = connect(port)
    rights = array.array("i", [end.fileno()]).tobytes()
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    end.close()
    os.waitpid(pid, 0)
    return {pid: CHUNKS * CHUNK}


def wait_by_select(listener: socket.socket) -> None:
    select.select([listener], [], [])


def wait_by_epoll(listener: socket.socket) -> None:
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        epoll.poll()


def wait_and_be_late(listener: socket.socket) -> None:
    """Leave the connection unaccepted for longer than a lookup takes."""
    select.select([listener], [], [])
    time.sleep(0.2)


def prefork(wait: Callable[[socket.socket], object]) -> Callable[[int], dict[int, int]]:
    """Serve two connections, one after the other, in a worker that inherited the listener."""

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            wait(listener)
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1000):
                    connection.sendall(b"r" * 1000)

    def exchange(port: int) -> dict[int, int]:
        listener = socket.create_server((HOST, port))
        pid = fork(lambda: serve(listener))
        time.sleep(0.5)
        for _ in range(2):
            with socket.create_connection((HOST, port)) as end:
                for _ in range(8):
                    end.sendall(b"q" * 100)
                    end.recv(1000)
                    time.sleep(0.1)
        os.waitpid(pid, 0)
        return {pid: 2 * 8 * 1000}

    return exchange


def serve_many(port: int) -> dict[int, int]:
    """Serve connections of 0.5 to 1.5 s, which close at ever other times, in a worker."""
    listener = socket.create_server((HOST, port))

    def serve() -> None:
        open_ones: list[socket.socket] = []
        while len(open_ones) < MANY:
            open_ones.append(listener.accept()[0])
            open_ones[-1].sendall(b"r" * 1000)
        ends = [time.monotonic() + 0.5 + number / MANY for number in range(MANY)]
        for one, end in zip(open_ones, ends, strict=True):
            time.sleep(max(0.0, end - time.monotonic()))
            one.sendall(b"r" * 1000)
            one.close()

    pid = fork(serve)
    ends = [socket.create_connection((HOST, port)) for _ in range(MANY)]
    os.waitpid(pid, 0)
    for end in ends:
        end.close()
    return {pid: MANY * 2000}


SITUATIONS: dict[str, tuple[int, Callable[[int], dict[int, int]]]] = {
    "port reuse": (7001, reuse_port),
    "fork": (7002, hand_on_by_fork),
    "message": (7003, hand_on_as_message),
    "blocking accept": (7004, prefork(lambda _listener: None)),
    "select": (7005, prefork(wait_by_select)),
    "epoll": (7006, prefork(wait_by_epoll)),
    "late accept": (7007, prefork(wait_and_be_late)),
    "many": (7008, serve_many),
}


def run_sinks() -> int:
    """Start a process that reads what is sent to the sinks."""
    listener = socket.create_server((HOST, SINK))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((HOST, UDP_SINK))

    def read() -> None:
        connections: list[socket.socket] = []
        while True:
            for one in select.select([listener, datagrams, *connections], [], [])[0]:
                if one is listener:
                    connections.append(listener.accept()[0])
                elif not one.recv(100_000):
                    connections.remove(one)
                    one.close()

    pid = fork(read)
    listener.close()
    datagrams.close()
    return pid


def main() -> None:
    """Run all situations at once; each leaves its report in a pipe."""
    sinks = run_sinks()
    pipes = {}
    for name, (port, situation) in SITUATIONS.items():
        reader, writer = os.pipe()

        def report(
            port: int = port,
            situation: Callable[[int], dict[int, int]] = situation,
            writer: int = writer,
        ) -> None:
            os.write(writer, json.dumps([port, situation(port)]).encode())
            time.sleep(0.5)  # who connected lives on

        fork(report)
        os.close(writer)
        pipes[name] = reader
    reports = {name: json.loads(os.read(reader, 4096)) for name, reader in pipes.items()}
    print(json.dumps(reports), flush=True)
    os.kill(sinks, 9)


if __name__ == "__main__":
    main()
