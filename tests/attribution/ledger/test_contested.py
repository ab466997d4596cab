"""Processes that use one five-tuple one after the other, on the running kernel."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest
from support.namespaces import Namespace

from hogpipe.attribution.ledger.kernel_ledger import KernelLedger
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.model import Contested, FlowKey, LedgerEntry, Quality, Span

UDP, PORT, PEER = 17, 5000, 900
HERE = socket.inet_aton("127.0.0.1")
FLOW = FlowKey(UDP, HERE, PORT, HERE, PEER, "lo")

# Each process binds the port in its turn, and prints its pid and the time of its transmission.
TURNS = """
import json, os, socket, sys, time
kind, count = sys.argv[1], int(sys.argv[2])
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.bind(("127.0.0.1", 900))
turns = []
for number in range(count):
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind(("127.0.0.1", 5000))
        first = time.time_ns()
        if kind == "connected":
            end.connect(("127.0.0.1", 900))
        end.sendto(b"x", ("127.0.0.1", 900)) if kind == "bound" else end.send(b"x")
        last = time.time_ns()
        end.close()
        os.write(there, json.dumps([os.getpid(), first, last]).encode())
        os._exit(0)
    turns.append(json.loads(os.read(here, 1000)))
    os.waitpid(pid, 0)
print(json.dumps(turns))
"""


def run_turns(where: Namespace, kind: str, count: int) -> list[tuple[int, Span]]:
    """Return the pid and the time span of each turn."""
    run = where.popen(sys.executable, "-c", TURNS, kind, str(count), stdout=subprocess.PIPE)
    return [(pid, Span(first, last)) for pid, first, last in json.loads(run.communicate()[0])]


def find_owners(
    ledger: KernelLedger, where: Namespace, spans: Sequence[Span]
) -> list[LedgerEntry | Contested | None]:
    ledger.refresh()
    cookie = where.call(read_own_cookie)
    return [ledger.owner_of(FLOW, cookie, span) for span in spans]


@pytest.mark.parametrize(
    ("kind", "quality"), [("bound", Quality.LISTENER), ("connected", Quality.EXACT)]
)
def test_each_process_that_held_a_port_owns_the_packets_of_its_turn(
    netns: Namespace, ledger: KernelLedger, kind: str, quality: Quality
) -> None:
    turns = run_turns(netns, kind, 20)
    answers = find_owners(ledger, netns, [span for _, span in turns])
    for (pid, _), answer in zip(turns, answers, strict=True):
        assert isinstance(answer, LedgerEntry)
        assert (answer.owner.pid, answer.quality) == (pid, quality)


@pytest.mark.parametrize("kind", ["bound", "connected"])
def test_packets_of_several_turns_are_contested(
    netns: Namespace, ledger: KernelLedger, kind: str
) -> None:
    turns = run_turns(netns, kind, 20)
    spans = [
        Span(one.start_ns, other.end_ns)
        for (_, one), (_, other) in zip(turns, turns[1:] + turns[:1], strict=True)
        if one.start_ns < other.end_ns
    ]
    assert all(isinstance(one, Contested) for one in find_owners(ledger, netns, spans))
    assert ledger.counts().contested == len(spans)
