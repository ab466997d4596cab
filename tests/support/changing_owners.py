"""Sockets whose owner is not the process that was seen first, each on a local port of its own.

Run as a program (`python -m support.changing_owners`), it prints `ready` once what is to be older
than hogpipe exists, and waits for a line. Then it prints a report as one line of JSON: for each
situation the local port, the process that the bytes belong to or those that share them, and what
each of these transmits at least.

A situation is a generator: it yields when it has prepared what is older than hogpipe, and then its
report. Processes that connected, bound or listened live on until stdin has another line, or ends.
"""

import array
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from support.io_uring import accept_by_io_uring

PROGRAM = "support.changing_owners"
HOST = "127.0.0.1"
SINK, UDP_SINK = 7100, 7101
CHUNKS, CHUNK = 5, 4000
DATAGRAMS = 10
MANY = 100
EXCHANGES, REPLY = 8, 1000
SERVED = EXCHANGES * REPLY

Report = dict[int, int]
"""Bytes by pid."""
Situation = Callable[[int], Iterator[Report]]
"""From a local port to nothing, then to the report."""


def fork(work: Callable[[], None]) -> int:
    """Do `work` in a child, which ends after it; return its pid."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def after_start(situation: Callable[[int], Report]) -> Situation:
    """Return a situation in which nothing is older than hogpipe."""

    def run(port: int) -> Iterator[Report]:
        yield {}
        yield situation(port)

    return run


# Datagrams


def send_datagrams(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind((HOST, port))
        end.connect((HOST, UDP_SINK))
        for _ in range(DATAGRAMS):
            end.send(b"x" * 1000)
            time.sleep(0.05)
        time.sleep(0.3)  # the last packet is captured before the process ends


def reuse_port(port: int) -> Report:
    """Transmit from one port by two processes, the second a second after the first has ended."""
    pids = []
    for _ in range(2):
        pids.append(fork(lambda: send_datagrams(port)))
        os.waitpid(pids[-1], 0)
        time.sleep(1)
    return dict.fromkeys(pids, DATAGRAMS * 1028)


# Connections that are passed on


def connect(port: int) -> socket.socket:
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind((HOST, port))
    end.connect((HOST, SINK))
    return end


def accept(port: int) -> socket.socket:
    """Return a connection accepted on a port; its peer is a process that reads it."""
    listener = socket.create_server((HOST, port))

    def read() -> None:
        with socket.create_connection((HOST, port)) as end:
            while end.recv(100_000):
                pass

    fork(read)
    return listener.accept()[0]


def send_chunks(end: socket.socket) -> None:
    """Send after a while, so that the holder has held the connection for longer than a second."""
    time.sleep(1.5)
    for _ in range(CHUNKS):
        end.sendall(b"x" * CHUNK)
        time.sleep(0.2)


def pass_by_fork(end: socket.socket) -> Report:
    pid = fork(lambda: send_chunks(end))
    end.close()
    os.waitpid(pid, 0)
    return {pid: CHUNKS * CHUNK}


def start_receiver(wait: Callable[[], None]) -> tuple[int, socket.socket]:
    """Start a process that sends by a connection that it receives; return a socket to pass it."""
    here, there = socket.socketpair()

    def receive() -> None:
        _data, messages, _flags, _address = there.recvmsg(1, 64)
        wait()
        send_chunks(socket.socket(fileno=array.array("i", messages[0][2])[0]))

    return fork(receive), here


def pass_as_message(end: socket.socket, to: socket.socket) -> None:
    rights = array.array("i", [end.fileno()]).tobytes()
    to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    end.close()


def hand_on_by_fork(make: Callable[[int], socket.socket]) -> Situation:
    return after_start(lambda port: pass_by_fork(make(port)))


def hand_on_as_message(make: Callable[[int], socket.socket]) -> Situation:
    """Pass a connection to a process that was there before."""

    def run(port: int) -> Report:
        pid, to = start_receiver(lambda: None)
        pass_as_message(make(port), to)
        os.waitpid(pid, 0)
        return {pid: CHUNKS * CHUNK}

    return after_start(run)


def fork_after_start(port: int) -> Iterator[Report]:
    """Hand on a connection that is older than hogpipe."""
    end = connect(port)
    yield {}
    yield pass_by_fork(end)


def message_before_start(port: int) -> Iterator[Report]:
    """Transmit by a connection that was handed on before."""
    reader, writer = os.pipe()

    def wait() -> None:
        os.close(writer)
        os.read(reader, 1)

    pid, to = start_receiver(wait)
    pass_as_message(connect(port), to)
    yield {}
    os.close(writer)
    os.waitpid(pid, 0)
    yield {pid: CHUNKS * CHUNK}


# Servers


def accept_blocking(listener: socket.socket) -> socket.socket:
    return listener.accept()[0]


def accept_by_select(listener: socket.socket) -> socket.socket:
    select.select([listener], [], [])
    return listener.accept()[0]


def accept_by_epoll(listener: socket.socket) -> socket.socket:
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        epoll.poll()
    return listener.accept()[0]


def accept_late(listener: socket.socket) -> socket.socket:
    """Leave the connection unaccepted for longer than a lookup takes."""
    select.select([listener], [], [])
    time.sleep(0.2)
    return listener.accept()[0]


Accept = Callable[[socket.socket], socket.socket]


def serve(listener: socket.socket, accept: Accept = accept_blocking, connections: int = 2) -> None:
    for _ in range(connections):
        with accept(listener) as connection:
            while connection.recv(1000):
                connection.sendall(b"r" * REPLY)


def exchange(port: int) -> None:
    with socket.create_connection((HOST, port)) as end:
        for _ in range(EXCHANGES):
            end.sendall(b"q" * 100)
            end.recv(REPLY)
            time.sleep(0.1)


def prefork(accept: Accept) -> Situation:
    """Serve two connections, one after the other, in a worker that inherited the listener."""

    def run(port: int) -> Report:
        listener = socket.create_server((HOST, port))
        pid = fork(lambda: serve(listener, accept))
        time.sleep(0.5)
        for _ in range(2):
            exchange(port)
        os.waitpid(pid, 0)
        return {pid: 2 * SERVED}

    return after_start(run)


def prefork_before_start(port: int) -> Iterator[Report]:
    """Serve a connection that was accepted before, and one that is accepted later."""
    listener = socket.create_server((HOST, port))
    pid = fork(lambda: serve(listener))
    with socket.create_connection((HOST, port)) as end:
        end.sendall(b"q")
        end.recv(REPLY)
        yield {}
        end.sendall(b"q")
        end.recv(REPLY)
        time.sleep(0.2)
    exchange(port)
    os.waitpid(pid, 0)
    yield {pid: SERVED + REPLY}


def serve_many(port: int) -> Report:
    """Serve connections of 0.5 to 1.5 s, which close at ever other times, in a worker."""
    listener = socket.create_server((HOST, port), backlog=MANY)

    def work() -> None:
        open_ones: list[socket.socket] = []
        while len(open_ones) < MANY:
            open_ones.append(listener.accept()[0])
            open_ones[-1].sendall(b"r" * 1000)
        ends = [time.monotonic() + 0.5 + number / MANY for number in range(MANY)]
        for one, end in zip(open_ones, ends, strict=True):
            time.sleep(max(0.0, end - time.monotonic()))
            one.sendall(b"r" * 1000)
            one.close()

    pid = fork(work)
    ends = [socket.create_connection((HOST, port)) for _ in range(MANY)]
    os.waitpid(pid, 0)
    for end in ends:
        end.close()
    return {pid: MANY * 2000}


def daemonize(port: int) -> Report:
    """Bind in a parent that closes the listener; accept late in the only child that has it."""
    listener = socket.create_server((HOST, port))
    pid = fork(lambda: serve(listener, accept_late))
    listener.close()
    for _ in range(2):
        exchange(port)
    os.waitpid(pid, 0)
    return {pid: 2 * SERVED}


def serve_in_threads(port: int) -> Report:
    """Accept in two threads, each of which serves its connection."""
    listener = socket.create_server((HOST, port))

    def work() -> None:
        threads = [
            threading.Thread(target=serve, args=(listener, accept_blocking, 1)) for _ in "ab"
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    pid = fork(work)
    for _ in range(2):
        exchange(port)
    os.waitpid(pid, 0)
    return {pid: 2 * SERVED}


def run_another(listener: socket.socket, role: str) -> int:
    """Execute this program in a child, with the listener; return its pid."""
    listener.set_inheritable(True)
    words = [sys.executable, "-m", PROGRAM, role, str(listener.fileno())]
    return fork(lambda: os.execv(sys.executable, words))


def activate(port: int) -> Report:
    """Bind for another program, which accepts (socket activation)."""
    listener = socket.create_server((HOST, port))
    pid = run_another(listener, "server")
    for _ in range(2):
        exchange(port)
    os.waitpid(pid, 0)
    return {pid: 2 * SERVED}


def reload(port: int) -> Report:
    """Serve; then execute another program, whose worker serves in our place."""
    listener = socket.create_server((HOST, port))
    client = fork(lambda: exchange(port))
    serve(listener, connections=1)
    os.waitpid(client, 0)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    os.environ["WORKER"] = str(writer)
    master = run_another(listener, "master")
    worker = int(os.read(reader, 20))
    listener.close()
    exchange(port)
    os.waitpid(master, 0)
    return {os.getpid(): SERVED, worker: SERVED}


def run_role(role: str, listener: socket.socket) -> None:
    """Be the program that `run_another` executes."""
    if role == "server":
        serve(listener)
        return
    pid = fork(lambda: serve(listener, connections=1))
    os.write(int(os.environ["WORKER"]), str(pid).encode())
    os.waitpid(pid, 0)


SITUATIONS: dict[str, tuple[int, Situation]] = {
    "port reuse": (7001, after_start(reuse_port)),
    "fork": (7002, hand_on_by_fork(connect)),
    "message": (7003, hand_on_as_message(connect)),
    "blocking accept": (7004, prefork(accept_blocking)),
    "select": (7005, prefork(accept_by_select)),
    "epoll": (7006, prefork(accept_by_epoll)),
    "late accept": (7007, prefork(accept_late)),
    "many": (7008, after_start(serve_many)),
    "io_uring": (7009, prefork(accept_by_io_uring)),
    "threads": (7010, after_start(serve_in_threads)),
    "daemon": (7011, after_start(daemonize)),
    "activation": (7012, after_start(activate)),
    "reload": (7013, after_start(reload)),
    "fork, accepted": (7014, hand_on_by_fork(accept)),
    "message, accepted": (7015, hand_on_as_message(accept)),
    "fork, older": (7016, fork_after_start),
    "message, older": (7017, message_before_start),
    "worker, older": (7018, prefork_before_start),
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
    start, end = os.pipe(), os.pipe()
    ready, to_ready = os.pipe()
    pipes = {}
    for name, (port, situation) in SITUATIONS.items():
        reader, writer = os.pipe()

        def report(
            port: int = port, situation: Situation = situation, writer: int = writer
        ) -> None:
            os.close(start[1])
            os.close(end[1])
            steps = situation(port)
            next(steps)
            os.write(to_ready, b"x")
            os.read(start[0], 1)
            os.write(writer, json.dumps([port, next(steps)]).encode())
            os.read(end[0], 1)

        fork(report)
        os.close(writer)
        pipes[name] = reader
    for _ in SITUATIONS:
        os.read(ready, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    os.close(start[1])
    reports = {name: json.loads(os.read(reader, 4096)) for name, reader in pipes.items()}
    time.sleep(0.5)  # the last packets are captured
    print(json.dumps(reports), flush=True)
    sys.stdin.readline()
    os.close(end[1])
    os.kill(sinks, 9)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_role(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
    else:
        main()
