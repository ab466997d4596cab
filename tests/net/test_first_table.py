"""`hogpipe run` for a person: the first table does not wait for the end of a window."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.configuration import load_text
from support.namespaces import Namespace
from support.running import hogpipe, running

from hogpipe.factory import FIRST_TABLE_NS, choose_first_window, make_sink

TALK = """
import socket, sys, time
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
print("talking", file=sys.stderr, flush=True)
while True:
    sender.send(bytes(1000))
    receiver.recv(1000)
    time.sleep(0.001)
"""
# Of all windows, only the first ends within the time of a test.
RUN = ["run", "-i", "lo", "--format", "table", "--interval", "1d"]


def test_the_first_table_does_not_wait_for_a_boundary(netns: Namespace) -> None:
    with (
        running(netns, sys.executable, "-c", TALK) as talk,
        hogpipe(netns, *RUN, stdout=subprocess.PIPE) as run,
    ):
        talk.wait_for("talking")
        assert run.process.stdout is not None
        time, head, *rows = iter(run.process.stdout.readline, "\n")
        assert run.end() == 0
    assert " UTC, 0." in time
    assert {"PID", "USER", "PROGRAM", "TRANSMIT", "RECEIVE"} <= {*head.split()}
    assert any(str(talk.process.pid) in row for row in rows)


@pytest.mark.parametrize(
    ("sink", "first"),
    [
        ('type = "stdout"', None),  # the output of a test is no terminal
        ('type = "stdout"\nformat = "jsonl"', None),
        ('type = "stdout"\nformat = "table"', FIRST_TABLE_NS),
        ('type = "stdout"\nformat = "table-scroll"', FIRST_TABLE_NS),
        ('type = "jsonl"\npath = "records.jsonl"', None),
    ],
)
def test_only_a_table_has_a_short_first_window(
    tmp_path: Path, sink: str, first: int | None
) -> None:
    assert choose_first_window(load_text(tmp_path, f"[[sinks]]\n{sink}")) == first


@pytest.mark.parametrize(("chosen", "stats"), [("table", True), ("auto", False), ("jsonl", False)])
def test_a_table_gets_the_stats_of_each_window(tmp_path: Path, chosen: str, stats: bool) -> None:
    text = f'[[sinks]]\ntype = "stdout"\nformat = "{chosen}"\nstats = false'
    (choice,) = load_text(tmp_path, text).sinks
    for live in (True, False):
        _, settings = make_sink(choice, live=live)
        assert settings.stats is stats
