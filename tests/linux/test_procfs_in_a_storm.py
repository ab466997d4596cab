"""Reading socket tables of the running kernel while connections come and go."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.namespaces import namespace, require

from hogpipe.linux.procfs import Procfs

# Connections that are made and closed over and over: each leaves a row in TIME_WAIT, so that the
# kernel inserts rows into the table as long as this runs.
STORM = """
import os, socket
listener = socket.create_server(("127.0.0.1", 7700), backlog=4096)
if os.fork() == 0:
    while True:
        listener.accept()[0].recv(1)
made = 0
while True:
    socket.create_connection(("127.0.0.1", 7700)).close()
    made += 1
    if made == 3000:
        print("ready", flush=True)
"""
MOST_ROWS_A_READ = 4096 // 150


@contextmanager
def storm() -> Iterator[int]:
    """Yield the pid of a process whose network namespace has a storm of connections."""
    with namespace() as inside:
        command = inside.command(sys.executable, "-c", STORM)
        with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as made:
            try:
                assert made.stdout is not None
                assert made.stdout.readline() == b"ready\n"
                yield made.pid
            finally:
                subprocess.run(["kill", "-KILL", "--", f"-{made.pid}"], check=True)


def count_reads() -> int:
    """Return how many times this thread called read(2) so far (proc(5), io)."""
    for line in Path("/proc/thread-self/io").read_text().splitlines():
        if line.startswith("syscr:"):
            return int(line.split()[1])
    pytest.skip("this kernel does not account for input and output")


def test_a_table_is_read_in_as_many_reads_as_it_has_pages() -> None:
    require("ip", "kill")
    with storm() as pid:
        procfs = Procfs(Path("/proc"))
        for _ in range(3):
            before = count_reads()
            table = procfs.read_table_of(pid, "tcp", math.inf)
            reads = count_reads() - before
            assert table is not None
            rows = table.data.count(b"\n")
            assert rows > 1000
            assert reads <= 3 + rows // (MOST_ROWS_A_READ - 1), (reads, rows)
