"""Scenarios of servers, of both ends on one host, and of a container."""

import contextlib
import ctypes
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from scenario_peer import SERVICE, SIZE, receive_exactly
from support.io_uring import accept_by_io_uring

from acts.common import (
    GROUP,
    LOOPBACK,
    NEAR4,
    PORT,
    ROUNDS,
    TCP,
    UDP,
    UNAVAILABLE,
    Owners,
    connect,
    datagram,
    exchange,
    fork,
    own,
    wait,
)

Accept = Callable[[socket.socket], socket.socket]


@contextlib.contextmanager
def serving(port: int, address: str = "", **options: object) -> Iterator[socket.socket]:
    with socket.create_server((address, port), backlog=256, **options) as listener:  # type: ignore[arg-type]
        yield listener


def accept_one(listener: socket.socket) -> socket.socket:
    return listener.accept()[0]


def serve(listener: socket.socket, accept: Accept = accept_one) -> Owners:
    """Answer each connection, until the listener is shut; return the ports of the clients."""
    ports = []
    with contextlib.suppress(OSError):
        while True:
            with accept(listener) as end:
                ports.append(end.getpeername()[1])
                receive_exactly(end, SIZE)
                end.sendall(bytes(SIZE))
                end.recv(1)
    return own(TCP, *ports)


def serve_in_thread(accept: Accept = accept_one) -> Owners:
    """Serve in this process until the input ends."""
    with serving(SERVICE) as listener, ThreadPoolExecutor(1) as executor:
        owners = executor.submit(serve, listener, accept)
        wait_for_clients()
        listener.shutdown(socket.SHUT_RDWR)
        return owners.result()


def serve_by_children(listeners: Callable[[], socket.socket]) -> Owners:
    """Let four children serve, each on what `listeners` returns to it, until the input ends."""
    reports, report = os.pipe()

    def work(control: int) -> None:
        with listeners() as listener, ThreadPoolExecutor(1) as executor:
            owners = executor.submit(serve, listener)
            os.read(control, 1)
            with contextlib.suppress(OSError):  # another child has shut it
                listener.shutdown(socket.SHUT_RDWR)
            os.write(report, json.dumps(owners.result()).encode() + b"\n")

    control, stop = os.pipe()
    pids = [fork(lambda: work(control)) for _ in range(4)]
    time.sleep(0.5)  # until all listen
    wait_for_clients()
    os.write(stop, b"1234")
    wait(*pids)
    os.close(report)
    with os.fdopen(reports) as lines:
        found = [owner for line in lines for owner in json.loads(line)]
    return [(pid, protocol, ports) for pid, protocol, ports in found if ports]


def wait_for_clients() -> None:
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.read()


def server() -> Owners:
    """A server with one process."""
    return serve_in_thread()


def prefork_server() -> Owners:
    """Four processes that accept from one listener, which their parent holds, too."""
    with serving(SERVICE) as listener:
        return serve_by_children(lambda: listener)


def reuseport_server() -> Owners:
    """Four processes with a listener each on one port (SO_REUSEPORT)."""
    return serve_by_children(
        lambda: socket.create_server(("", SERVICE), backlog=256, reuse_port=True)
    )


def fork_server() -> Owners:
    """A parent that accepts, and a child for each connection, which serves it."""
    owners: Owners = []
    with serving(SERVICE) as listener:
        parent_reads, child_writes = os.pipe()

        def serve_each() -> None:
            with contextlib.suppress(OSError):
                while True:
                    end, peer = listener.accept()
                    with end:
                        pid = fork(lambda end=end: answer(end))  # type: ignore[misc]
                    wait(pid)
                    os.write(child_writes, json.dumps([pid, TCP, [peer[1]]]).encode() + b"\n")

        def answer(end: socket.socket) -> None:
            receive_exactly(end, SIZE)
            end.sendall(bytes(SIZE))
            end.recv(1)

        parent = fork(serve_each)
        wait_for_clients()
        listener.shutdown(socket.SHUT_RDWR)
        wait(parent)
        os.close(child_writes)
        with os.fdopen(parent_reads) as lines:
            owners = [tuple(json.loads(line)) for line in lines]
    return owners


def io_uring_server() -> Owners:
    """A server that accepts by io_uring."""
    if ctypes.CDLL(None, use_errno=True).syscall(425, 0, None) and ctypes.get_errno() in {
        errno.ENOSYS,
        errno.EPERM,
    }:
        sys.exit(UNAVAILABLE)
    return serve_in_thread(accept_by_io_uring)


def udp_server() -> Owners:
    """A UDP server on an unconnected socket."""
    ports: list[int] = []
    with datagram() as end:
        end.bind(("", SERVICE))
        end.settimeout(None)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, sender = end.recvfrom(SIZE)
                    ports.append(sender[1])
                    end.sendto(data, sender)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        wait_for_clients()
    return own(UDP, *sorted(set(ports)))


def multicast_receiver() -> Owners:
    """A member of a multicast group."""
    ports: set[int] = set()
    with datagram() as end:
        end.bind((GROUP, SERVICE))
        member = socket.inet_aton(GROUP) + socket.inet_aton(NEAR4)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        print("ready", file=sys.stderr, flush=True)
        end.settimeout(10)
        for _ in range(ROUNDS):
            ports.add(end.recvfrom(SIZE)[1][1])
        sys.stdin.read()
    return own(UDP, *ports)


def loopback() -> Owners:
    """Both ends on this host, over loopback: each gets all bytes."""
    with serving(SERVICE, LOOPBACK) as listener:
        pid = fork(lambda: serve_rounds(listener))
        with connect(SERVICE, LOOPBACK) as end:
            exchange(end)
        wait(pid)
    return [*own(TCP, SERVICE), (pid, TCP, [SERVICE])]


def serve_rounds(listener: socket.socket) -> None:
    end, _ = listener.accept()
    with end, contextlib.suppress(ConnectionError):
        while True:
            receive_exactly(end, SIZE)
            end.sendall(bytes(SIZE))


def container() -> Owners:
    """A process in a container, seen at the host's end of its veth."""
    with connect() as end:
        exchange(end)
    return own(TCP, PORT)
