"""Load generators: one process each, run as `loads.py ROLE ARGUMENTS`, the arguments as JSON.

Each process prints one line of JSON when it is ready. A client starts when it reads a line, and
prints its log in a second line: it holds every local port used, from which the truth is computed.
Afterwards a process keeps running, without sockets, until its input ends.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from array import array
from collections import deque
from typing import Any

BACKLOG = 4096
PATIENCE = 1.0  # seconds until a datagram counts as lost
PR_SET_PDEATHSIG = 1


def print_json(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def make_socket(address: str, kind: socket.SocketKind) -> socket.socket:
    """Return a socket of the address family of `address`."""
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def sleep_until(due: float) -> None:
    delay = due - time.monotonic()
    if delay > 0:
        time.sleep(delay)


class Client:
    """A paced load: `rate` operations a second, late ones at once, none after `seconds`.

    All operations have one remote address and port. Local ports and lifetimes go to the log.
    """

    def __init__(self, rate: float, seconds: float) -> None:
        self._rate = rate
        self._number = round(rate * seconds)
        self._done = 0
        self.ports = array("H")
        self.lifetimes = array("d")
        self.failed = 0
        print_json(pid=os.getpid())
        sys.stdin.readline()
        self._begun = time.monotonic()
        self._end = self._begun + seconds

    def next_due(self) -> float | None:
        """Return the time of the next operation, or None at the end of the load."""
        if self._done >= self._number or time.monotonic() > self._end:
            return None
        self._done += 1
        return self._begun + (self._done - 1) / self._rate

    def finish(self) -> None:
        seconds = time.monotonic() - self._begun
        print_json(
            ports=self.ports.tolist(),
            lifetimes=self.lifetimes.tolist(),
            failed=self.failed,
            seconds=seconds,
            cpu_seconds=time.process_time(),
        )
        sys.stdin.read()


def connect(
    *,
    remote: str,
    port: int,
    rate: float,
    seconds: float,
    lifetime: float,
    request: int,
    reply: int,
    closes_first: bool,
) -> None:
    """Open TCP connections, each for one exchange, and close each `lifetime` after it was opened.

    The kernel chooses the local ports. All connections end with FIN; with `closes_first` this side
    sends the first one, and so keeps the connection in TIME_WAIT.
    """
    client = Client(rate, seconds)
    living: deque[tuple[float, socket.socket]] = deque()

    def close_until(latest: float) -> None:
        while living and (end := living[0][0] + lifetime) <= latest:
            sleep_until(end)
            since, oldest = living.popleft()
            oldest.close()
            client.lifetimes.append(time.monotonic() - since)

    while (due := client.next_due()) is not None:
        close_until(max(due, time.monotonic()))
        sleep_until(due)
        made = make_socket(remote, socket.SOCK_STREAM)
        living.append((time.monotonic(), made))
        try:
            made.connect((remote, port))
            client.ports.append(made.getsockname()[1])
            converse(made, request, reply, until_closed=not closes_first)
        except OSError:
            client.failed += 1
    while living:
        close_until(living[0][0] + lifetime)
    client.finish()


def converse(made: socket.socket, request: int, reply: int, *, until_closed: bool) -> None:
    made.send(b"q" * request)
    received = 0
    while received < reply or until_closed:
        data = made.recv(65536)
        if not data:
            break
        received += len(data)


def exchange(
    *,
    local: str,
    first_port: int,
    remote: str,
    port: int,
    rate: float,
    seconds: float,
    request: int,
    connected: bool,
) -> None:
    """Send datagrams, each from a new socket that is closed after the reply.

    Local ports count up from `first_port`, so no two processes use the same one.
    """
    client = Client(rate, seconds)
    payload = b"q" * request
    while (due := client.next_due()) is not None:
        sleep_until(due)
        with make_socket(remote, socket.SOCK_DGRAM) as made:
            made.settimeout(PATIENCE)
            since = time.monotonic()
            made.bind((local, first_port + len(client.ports)))
            client.ports.append(first_port + len(client.ports))
            if connected:
                made.connect((remote, port))
                made.send(payload)
            else:
                made.sendto(payload, (remote, port))
            try:
                made.recv(65536)
            except TimeoutError:
                client.failed += 1
        client.lifetimes.append(time.monotonic() - since)
    client.finish()


def stream(
    *, local: str, first_port: int, remote: str, port: int, rate: float, seconds: float, size: int
) -> None:
    """Send datagrams from one connected socket, without waiting for replies."""
    with make_socket(remote, socket.SOCK_DGRAM) as made:
        made.bind((local, first_port))
        made.connect((remote, port))
        client = Client(rate, seconds)
        client.ports.append(first_port)
        since = time.monotonic()
        payload = b"u" * size
        while (due := client.next_due()) is not None:
            sleep_until(due)
            made.send(payload)
        client.lifetimes.append(time.monotonic() - since)
    client.finish()


def serve(
    *, address: str, ports: list[int], udp: bool, workers: int, reply: int, closes_first: bool
) -> None:
    """Answer each request with `reply` bytes (0: no datagram at all), from pre-forked workers.

    The workers share the sockets that the master process bound; the master serves no request.
    """
    shared = [bind(address, port, udp=udp) for port in ports]
    children = [fork_worker(shared, b"r" * reply, closes_first) for _ in range(workers)]
    print_json(pids=[os.getpid(), *children])
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def bind(address: str, port: int, *, udp: bool) -> socket.socket:
    made = make_socket(address, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    if not udp:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if not udp:
        made.listen(BACKLOG)
    made.setblocking(False)
    return made


def fork_worker(shared: list[socket.socket], answer: bytes, closes_first: bool) -> int:
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    work(shared, answer, closes_first)
    os._exit(0)


def work(shared: list[socket.socket], answer: bytes, closes_first: bool) -> None:
    poll = select.epoll()
    bound = {made.fileno(): made for made in shared}
    accepted: dict[int, socket.socket] = {}
    for number in bound:
        poll.register(number, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    while True:
        for number, _events in poll.poll():
            if number in accepted:
                if not answer_once(accepted[number], answer) or closes_first:
                    accepted.pop(number).close()
            elif bound[number].type == socket.SOCK_DGRAM:
                answer_datagram(bound[number], answer)
            else:
                try:
                    made, _peer = bound[number].accept()
                except BlockingIOError:  # another worker was faster
                    continue
                accepted[made.fileno()] = made
                poll.register(made.fileno(), select.EPOLLIN)


def answer_once(made: socket.socket, answer: bytes) -> bool:
    """Answer a request; return false if the peer has closed the connection."""
    try:
        if not made.recv(65536):
            return False
        made.send(answer)
    except ConnectionError:  # the client was killed; its log is complete
        return False
    return True


def answer_datagram(made: socket.socket, answer: bytes) -> None:
    try:
        _data, peer = made.recvfrom(65536)
    except BlockingIOError:  # another worker was faster
        return
    if answer:
        made.sendto(answer, peer)


def hold(*, sockets: int, files: int) -> None:
    """Keep idle descriptors open: pairs of TCP sockets over loopback, and other files.

    Each further line of input is a number: that many connections replace those that the line
    before opened, and their local and remote ports are printed.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (sockets + files + 1000,) * 2)
    listener = bind("127.0.0.1", 0, udp=False)
    kept = [pair_up(listener) for _ in range(sockets // 2)]
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(files)]
    print_json(pid=os.getpid(), kept=len(kept) * 2 + len(others))
    latest: list[tuple[socket.socket, socket.socket]] = []
    for line in sys.stdin:
        for both in latest:
            both[0].close()
            both[1].close()
        latest = [pair_up(listener) for _ in range(int(line))]
        print_json(
            connections=[[made.getsockname()[1], made.getpeername()[1]] for made, _ in latest]
        )


def crowd(*, processes: int) -> None:
    """Keep idle processes: children that end with this one."""
    for _ in range(processes):
        if not os.fork():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            while True:
                signal.pause()
    print_json(pid=os.getpid())
    sys.stdin.read()


def pair_up(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    made = socket.create_connection(listener.getsockname())
    accepted, _peer = listener.accept()
    return made, accepted


ROLES = {role.__name__: role for role in (connect, exchange, stream, serve, hold, crowd)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
