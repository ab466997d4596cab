"""Sockets that pass from hand to hand, on the running kernel: whose their packets are then."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.namespaces import Namespace

from hogpipe.attribution.ledger.kernel_ledger import (
    KernelLedger,
)
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.model import (
    Contested,
    FlowKey,
    LedgerEntry,
    Quality,
    Span,
)

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
def tell(*what):
    print(json.dumps(what), flush=True)
    sys.stdin.readline()
peer = datagrams(900)
"""


class Program:
    """A program inside a namespace that tells what it did, and waits until it may end."""

    def __init__(self, netns: Namespace, ledger: KernelLedger) -> None:
        self._netns, self._ledger = netns, ledger
        self._run: subprocess.Popen[str] | None = None

    def told(self, text: str) -> list[Any]:
        """Return what it told."""
        words = (sys.executable, "-c", BEGIN + text)
        self._run = self._netns.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._run.stdout is not None
        told: list[Any] = json.loads(self._run.stdout.readline())
        self._ledger.refresh()
        return told

    def end(self) -> None:
        if self._run is not None:
            self._run.communicate("\n")
            self._ledger.refresh()

    def ask(
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


def test_who_sends_on_a_socket_that_another_made_is_its_owner(program: Program) -> None:
    child, port = program.told(
        """
end = datagrams()
child = in_child(lambda: end.sendto(b"x", PEER))
tell(child, end.getsockname()[1])
"""
    )
    assert program.ask(port) == (Quality.EXACT, child)


def test_a_port_that_was_given_up_to_connect_anew_is_not_the_first_ones(program: Program) -> None:
    first, second, port, other, before, after = program.told(
        """
end = datagrams()
end.connect(PEER)
port = end.getsockname()[1]
before = time.time_ns()
end.send(b"x")
disconnect(end)  # its port is free
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
tell(os.getpid(), child, port, other, [before, before + 1], [started + 1, ended])
"""
    )
    assert port != other
    assert program.ask(other) == (Quality.EXACT, first)
    for span in (before, after):
        answer = program.ask(port, span)
        assert not isinstance(answer, tuple) or answer == (Quality.EXACT, second)
    assert isinstance(program.ask(port, before), Contested)


def test_a_connection_that_takes_over_the_ends_of_another_has_its_own_packets(
    program: Program,
) -> None:
    turns = program.told(
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
    end.close()  # with a reset, so the ends are free at once
for _ in range(5):
    first = time.time_ns()
    child = in_child(connect)
    turns.append([child, [first, time.time_ns()]])
    listener.accept()[0].close()
tell(*turns)
"""
    )
    for pid, span in turns[1:]:  # its connect came a moment after the time was taken
        assert program.ask(5000, [span[1], span[1] + 1], TCP, 80) == (Quality.EXACT, pid)
    whole = [turns[0][1][0], turns[-1][1][1]]
    assert isinstance(program.ask(5000, whole, TCP, 80), Contested)
    assert program.ask(5000, None, TCP, 80) == (Quality.EXACT, turns[-1][0])


def test_a_connection_that_both_ends_open_at_once_is_of_who_connected(program: Program) -> None:
    (pid,) = program.told(
        """
end = socket.socket()
end.bind((HERE, 5000))
end.connect((HERE, 5000))  # to itself
tell(os.getpid())
"""
    )
    assert program.ask(5000, None, TCP, 5000) == (Quality.EXACT, pid)


def test_sockets_of_two_processes_on_one_port_have_no_owner(program: Program) -> None:
    program.told(
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
tell(os.getpid(), child)
os.kill(child, 9)
"""
    )
    assert program.ask(5000) is None


def test_both_families_of_one_port_are_kept_apart(program: Program) -> None:
    (parent, child) = program.told(
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
tell(os.getpid(), child)
os.kill(child, 9)
"""
    )
    assert program.ask(5000) == (Quality.LISTENER, parent)
    assert child != parent


def test_a_socket_is_of_who_bound_it_until_its_last_holder_lets_go(program: Program) -> None:
    (parent,) = program.told(
        """
end = datagrams(5000)
child = os.fork()
if child == 0:
    time.sleep(60)  # holds it, too
end.close()
tell(os.getpid())
os.kill(child, 9)
"""
    )
    assert program.ask(5000) == (Quality.LISTENER, parent)


def test_a_server_that_follows_another_on_its_port_takes_what_comes(program: Program) -> None:
    first, second, before, after = program.told(
        """
child = in_child(lambda: socket.create_server((HERE, 80)).close())
before = time.time_ns()
time.sleep(0.01)
listener = socket.create_server((HERE, 80))
now = time.time_ns()
tell(child, os.getpid(), [before, before + 1], [now, now + 1])
"""
    )
    assert program.ask(80, before, TCP, 50000) == (Quality.LISTENER, first)
    assert program.ask(80, after, TCP, 50000) == (Quality.LISTENER, second)


def test_ends_that_were_anothers_since_a_connect_was_refused_are_not_the_refused_ones(
    program: Program,
) -> None:
    first, second, during, after = program.told(
        """
listener = socket.create_server((HERE, 80))
def bound():
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.bind((HERE, 5000))
    return end
end = bound()
assert end.connect_ex((HERE, 81))  # nobody listens there
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
tell(os.getpid(), child, during, [now, now + 1])
"""
    )
    assert program.ask(5000, during, TCP, 80) == (Quality.EXACT, second)
    assert program.ask(5000, after, TCP, 80) == (Quality.EXACT, first)
