"""The cost of a lookup on a host with 30,000 sockets and 60,000 fds.

`measure` runs this file as a program in a network namespace of its own. The program asks hogpipe's
resolver for connections of processes that are in its cache. Before each batch it reads and parses
the same socket tables without the resolver, as the baseline.
"""

import json
import math
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.namespaces import namespace

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import parse_table
from hogpipe.model import FlowKey

ROUNDS = 5
CONNECTIONS = 20  # in a batch
HOLDERS = ((7_500, 7_500),) * 4  # idle sockets and other files of each process
HEAD = ("batch", "CPU ms", "baseline CPU ms", "ratio", "wall ms", "fds read")
LOADS = Path(__file__).with_name("loads.py")

Ports = Sequence[Sequence[int]]
Row = tuple[str, float, float, float, int]


def measure() -> dict[str, Any]:
    """Run this program in a network namespace of its own and return its figures."""
    with namespace() as made, made.popen(sys.executable, __file__, stdout=subprocess.PIPE) as run:
        printed, _ = run.communicate()
    if run.returncode:
        raise ValueError(f"warm_batch.py ended with {run.returncode}")
    return json.loads(printed)


def rows(measured: dict[str, Any]) -> list[list[str]]:
    """Return the rows of a table of what `measure` returned."""
    return [
        [name, f"{cpu:.1f}", f"{baseline:.1f}", f"{cpu / baseline:.2f}", f"{wall:.1f}", str(fds)]
        for name, cpu, baseline, wall, fds in measured["batches"]
    ]


class Holder:
    """A process of loads.py that keeps idle descriptors, and opens connections on request."""

    def __init__(self, stack: ExitStack, sockets: int, files: int) -> None:
        words = [sys.executable, LOADS, "hold", json.dumps({"sockets": sockets, "files": files})]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = stack.enter_context(subprocess.Popen(words, **pipes))
        self._process.stdout.readline()

    def open(self) -> Ports:
        """Open new connections and return their (local, remote) ports."""
        self._process.stdin.write(f"{CONNECTIONS}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["connections"]


class Bench:
    """A resolver, and the baseline."""

    def __init__(self, socket_table: Literal["procfs", "auto"]) -> None:
        self._name = socket_table
        self._procfs = Procfs(Path("/proc"))
        self._resolver = ProcfsResolver(Path("/proc"), socket_table=socket_table)

    def read_baseline(self, ports: Ports) -> float:
        """Return the CPU time of reading and parsing the tables for a batch of IPv4 flows."""
        before = time.thread_time()
        for name in ("tcp", "tcp6"):
            table = self._procfs.read_table(name, math.inf)
            parse_table(table.data if table else b"", {(local, far) for local, far in ports})
        return time.thread_time() - before

    def resolve(self, ports: Ports) -> tuple[float, float, int]:
        """Return CPU time, wall time and the number of fds read of a batch."""
        address = socket.inet_aton("127.0.0.1")
        flows = [FlowKey(6, address, local, address, far, "lo") for local, far in ports]
        fds, cpu, wall = (
            self._resolver.counts().fds_read,
            time.thread_time(),
            time.perf_counter(),
        )
        self._resolver.resolve(flows)
        return (
            time.thread_time() - cpu,
            time.perf_counter() - wall,
            self._resolver.counts().fds_read - fds,
        )

    def run(self, name: str, open_ports: Callable[[], Ports], rounds: int = ROUNDS) -> Row:
        """Return the medians, in milliseconds, of batches for the ports of `open_ports`."""
        baselines, batches = [], []
        for _ in range(rounds):
            ports = open_ports()
            baselines.append(self.read_baseline(ports))
            batches.append(self.resolve(ports))
        cpu, wall, fds = (statistics.median(column) for column in zip(*batches, strict=True))
        return (
            f"{self._name}: {name}",
            1e3 * cpu,
            1e3 * statistics.median(baselines),
            1e3 * wall,
            round(fds),
        )


def main() -> None:
    with ExitStack() as stack:
        heavy = [Holder(stack, sockets, files) for sockets, files in HOLDERS]
        light = Holder(stack, 0, 0)
        same, absent = light.open(), [(port, 1) for port in range(1, CONNECTIONS + 1)]
        batches = []
        for bench in (Bench("procfs"), Bench("auto")):
            batches += [
                bench.run("first", heavy[0].open, rounds=1),
                bench.run("the same connections", lambda: same),
                bench.run("new connections, process with few fds", light.open),
                bench.run("new connections, process with 15,000 fds", heavy[-1].open),
                bench.run("connections without a socket", lambda: absent),
            ]
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps({"batches": batches, "peak_bytes": int(peak) * 1024}))


if __name__ == "__main__":
    main()
