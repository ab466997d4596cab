"""The owner of real sockets that several processes share."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.resolving import attribute

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.model import FlowKey, Quality

TCP = socket.IPPROTO_TCP
ME = os.getpid()

# Each program prints a number in its first line, and exits at the end of its input.
PREFORK = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
for _ in range(3):
    if not os.fork():
        sys.stdin.read()
        os._exit(0)
print(server.getsockname()[1], flush=True)
sys.stdin.read()
for _ in range(3):
    os.wait()
"""
ACCEPT_IN_A_CHILD = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
if not os.fork():
    connection, _ = server.accept()
    connection.sendall(str(os.getpid()).encode())
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
SHARED_PORT = """
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
SHARED_PORT_OF_WORKERS = """
import os, socket, sys
def listen(port):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", port))
    return server
with listen(0) as first:
    port = first.getsockname()[1]
    for _ in range(3):
        reading, writing = os.pipe()
        if not os.fork():
            first.close()
            server = listen(port)
            server.listen()
            os.write(writing, b"x")
            sys.stdin.read()
            os._exit(0)
        os.read(reading, 1)
print(port, flush=True)
for _ in range(3):
    os.wait()
"""
RECEIVE = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as channel:
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
print(len(fds), flush=True)
sys.stdin.read()
"""


@contextmanager
def program(
    text: str, *words: str, reparented: bool = False, fd: int | None = None
) -> Iterator[tuple[int, int]]:
    """Run a program, if `reparented` under another parent; yield its pid and its number."""
    command = [sys.executable, "-c", text, *words]
    if reparented:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    pass_fds = () if fd is None else (fd,)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pass_fds, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


def owner(port: int, peer: int = 9) -> tuple[Quality, int | None]:
    here = socket.inet_aton("127.0.0.1")
    key = FlowKey(TCP, here, port, here, peer, "lo")
    attribution = attribute(ProcfsResolver(Path("/proc")), [key])[key]
    process = attribution.process
    return attribution.quality, None if process is None else process.pid


def test_a_listener_that_three_workers_inherited_belongs_to_their_parent() -> None:
    with program(PREFORK) as (parent, port):
        assert owner(port) == (Quality.LISTENER, parent)


def test_a_connection_belongs_to_the_child_that_accepted_it_and_the_listener_to_the_parent() -> (
    None
):
    with (
        program(ACCEPT_IN_A_CHILD) as (parent, port),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        child = int(client.recv(20))
        assert child != parent
        assert owner(port, client.getsockname()[1]) == (Quality.EXACT, child)
        assert owner(port) == (Quality.LISTENER, parent)


def test_listeners_of_workers_on_one_port_belong_to_their_parent() -> None:
    with program(SHARED_PORT_OF_WORKERS) as (parent, port):
        assert owner(port) == (Quality.LISTENER, parent)


def test_unrelated_listeners_on_one_port_leave_no_owner() -> None:
    with program(SHARED_PORT, "0", reparented=True) as (_, port):
        assert owner(port)[0] is Quality.LISTENER
        with program(SHARED_PORT, str(port), reparented=True):
            assert owner(port) == (Quality.NONE, None)


def test_unrelated_processes_that_received_one_socket_leave_no_owner() -> None:
    near, far = zip(socket.socketpair(), socket.socketpair(), strict=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for channel in near:
            socket.send_fds(channel, [b"x"], [server.fileno()])
    first, second = (str(channel.fileno()) for channel in far)
    with (
        program(RECEIVE, first, fd=int(first)) as (receiver, _),
        program(RECEIVE, second, fd=int(second)) as (other, _),
    ):
        assert receiver != other
        assert owner(port) == (Quality.NONE, None)
    for channel in (*near, *far):
        channel.close()


def test_a_parent_that_passed_a_socket_to_its_child_and_keeps_it_is_the_owner() -> None:
    near, far = socket.socketpair()
    with near, far, socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(near, [b"x"], [server.fileno()])
        with program(RECEIVE, str(far.fileno()), fd=far.fileno()):
            assert owner(server.getsockname()[1]) == (Quality.LISTENER, ME)


def test_an_fd_that_was_reused_for_another_connection_is_noticed() -> None:
    resolver = ProcfsResolver(Path("/proc"))
    here = socket.inet_aton("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, fds = server.getsockname()[1], set()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                fds.add(client.fileno())
                key = FlowKey(TCP, here, client.getsockname()[1], here, port, "lo")
                process = attribute(resolver, [key])[key].process
                assert process is not None
                assert process.pid == ME
        assert len(fds) == 1
