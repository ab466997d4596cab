"""Sockets, ports and five-tuples whose owners change, on the running kernel."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.namespaces import Namespace

from hogpipe.attribution.ledger.kernel_ledger import KernelLedger
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.model import Contested, FlowKey, LedgerEntry, Quality, Span

TCP, UDP, PEER = 6, 17, 900
BEGIN = """
import json, os, socket, struct, sys, time
HERE, PEER = "127.0.0.1", ("127.0.0.1", 900)
def datagrams(port=0):
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port:
        end.bind((HERE, port))
    return end
def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
def disconnect(end):  # connect(2), to an address of AF_UNSPEC
    import ctypes
    assert not ctypes.CDLL(None).connect(end.fileno(), bytes(16), 16)
def report(*values):
    print(json.dumps(values), flush=True)
    sys.stdin.readline()
peer = datagrams(900)
"""


class Program:
    """A program inside a namespace that reports what it did, then waits for `end`."""

    def __init__(self, netns: Namespace, ledger: KernelLedger) -> None:
        self._netns, self._ledger = netns, ledger
        self._process: subprocess.Popen[str] | None = None

    def run(self, text: str) -> list[Any]:
        """Run `text` until it reports, and return the values."""
        words = (sys.executable, "-c", BEGIN + text)
        self._process = self._netns.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        values: list[Any] = json.loads(self._process.stdout.readline())
        self._ledger.refresh()
        return values

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate("\n")
            self._ledger.refresh()

    def find_owner(
        self, port: int, span: list[int] | None = None, protocol: int = UDP, peer: int = PEER
    ) -> tuple[Quality, int] | Contested | None:
        here = socket.inet_aton("127.0.0.1")
        key = FlowKey(protocol, here, port, here, peer, "lo")
        cookie = self._netns.call(read_own_cookie)
        answer = self._ledger.owner_of(key, cookie, None if span is None else Span(*span))
        if not isinstance(answer, LedgerEntry):
            return answer
        return answer.quality, answer.owner.pid


@pytest.fixture
def program(netns: Namespace, ledger: KernelLedger) -> Iterator[Program]:
    made = Program(netns, ledger)
    try:
        yield made
    finally:
        made.end()


def test_the_process_that_transmits_first_owns_a_socket_that_another_made(program: Program) -> None:
    child, port = program.run(
        """
end = datagrams()
child = in_child(lambda: end.sendto(b"x", PEER))
report(child, end.getsockname()[1])
"""
    )
    assert program.find_owner(port) == (Quality.EXACT, child)


def test_a_port_freed_by_a_second_connect_belongs_to_the_next_process(
    program: Program,
) -> None:
    first, second, port, other, before, after = program.run(
        """
end = datagrams()
end.connect(PEER)
port = end.getsockname()[1]
before = time.time_ns()
end.send(b"x")
disconnect(end)  # frees its port
def take():
    taken = datagrams(port)
    taken.connect(PEER)
    taken.send(b"x")
started = time.time_ns()
child = in_child(take)
ended = time.time_ns()
end.connect(PEER)
end.send(b"x")
other = end.getsockname()[1]
end.close()
report(os.getpid(), child, port, other, [before, before + 1], [started + 1, ended])
"""
    )
    assert port != other
    assert program.find_owner(other) == (Quality.EXACT, first)
    for span in (before, after):
        answer = program.find_owner(port, span)
        assert not isinstance(answer, tuple) or answer == (Quality.EXACT, second)
    assert isinstance(program.find_owner(port, before), Contested)


def test_a_connection_on_the_five_tuple_of_a_former_one_owns_its_packets(
    program: Program,
) -> None:
    turns = program.run(
        """
listener = socket.create_server((HERE, 80))
turns = []
def connect():
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.bind((HERE, 5000))
    end.connect((HERE, 80))
    end.send(b"x")
    end.close()  # with a reset, so the five-tuple is free at once
for _ in range(5):
    first = time.time_ns()
    child = in_child(connect)
    time.sleep(0.001)  # packets of the former connection may arrive 0.2 ms after its end
    turns.append([child, [first, time.time_ns()]])
    listener.accept()[0].close()
report(*turns)
"""
    )
    for pid, span in turns[1:]:  # the connect came after the start of the span
        assert program.find_owner(5000, [span[1], span[1] + 1], TCP, 80) == (Quality.EXACT, pid)
    whole = [turns[0][1][0], turns[-1][1][1]]
    assert isinstance(program.find_owner(5000, whole, TCP, 80), Contested)
    assert program.find_owner(5000, None, TCP, 80) == (Quality.EXACT, turns[-1][0])


def test_a_simultaneous_open_is_owned_by_the_process_that_connected(program: Program) -> None:
    (pid,) = program.run(
        """
end = socket.socket()
end.bind((HERE, 5000))
end.connect((HERE, 5000))  # to itself
report(os.getpid())
"""
    )
    assert program.find_owner(5000, None, TCP, 5000) == (Quality.EXACT, pid)


def test_sockets_of_two_processes_at_one_port_have_no_owner(program: Program) -> None:
    program.run(
        """
def reuse():
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    end.bind((HERE, 5000))
    return end
mine = reuse()
here, there = os.pipe()
child = os.fork()
if child == 0:
    theirs = reuse()
    os.write(there, b"x")
    time.sleep(60)
os.read(here, 1)
report(os.getpid(), child)
os.kill(child, 9)
"""
    )
    assert program.find_owner(5000) is None


def test_sockets_of_both_address_families_at_one_port_have_two_owners(program: Program) -> None:
    (parent, child) = program.run(
        """
mine = datagrams(5000)
here, there = os.pipe()
child = os.fork()
if child == 0:
    theirs = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    theirs.bind(("::", 5000))
    os.write(there, b"x")
    time.sleep(60)
os.read(here, 1)
report(os.getpid(), child)
os.kill(child, 9)
"""
    )
    assert program.find_owner(5000) == (Quality.LISTENER, parent)
    assert child != parent


def test_a_socket_is_owned_by_the_process_that_bound_it_until_its_release(program: Program) -> None:
    (parent,) = program.run(
        """
end = datagrams(5000)
child = os.fork()
if child == 0:
    time.sleep(60)  # holds the socket, too
end.close()
report(os.getpid())
os.kill(child, 9)
"""
    )
    assert program.find_owner(5000) == (Quality.LISTENER, parent)


def test_a_server_owns_its_port_from_the_end_of_the_former_server_on(program: Program) -> None:
    first, second, before, after = program.run(
        """
child = in_child(lambda: socket.create_server((HERE, 80)).close())
before = time.time_ns()
time.sleep(0.01)
listener = socket.create_server((HERE, 80))
now = time.time_ns()
report(child, os.getpid(), [before, before + 1], [now, now + 1])
"""
    )
    assert program.find_owner(80, before, TCP, 50000) == (Quality.LISTENER, first)
    assert program.find_owner(80, after, TCP, 50000) == (Quality.LISTENER, second)


def test_a_five_tuple_used_by_another_process_after_a_refused_connect_has_its_owner(
    program: Program,
) -> None:
    first, second, during, after = program.run(
        """
listener = socket.create_server((HERE, 80))
def bound():
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.bind((HERE, 5000))
    return end
end = bound()
assert end.connect_ex((HERE, 81))  # no socket listens there
def connect():
    other = bound()
    other.connect((HERE, 80))
    time.sleep(0.01)
    started = time.time_ns()
    other.send(b"x")
    os.write(there, json.dumps([started, time.time_ns()]).encode())
    other.close()
here, there = os.pipe()
child = in_child(connect)
during = json.loads(os.read(here, 100))
time.sleep(0.01)
end.connect((HERE, 80))
time.sleep(0.01)
now = time.time_ns()
report(os.getpid(), child, during, [now, now + 1])
"""
    )
    assert program.find_owner(5000, during, TCP, 80) == (Quality.EXACT, second)
    assert program.find_owner(5000, after, TCP, 80) == (Quality.EXACT, first)
