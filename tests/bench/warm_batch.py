"""What a look-up costs on a host with 30,000 sockets and 60,000 fds; `measure` is its one door.

Run as a program it is the look-up alone, in the network namespace it is started in: hogpipe's
resolver asked for connections of processes that it has met before, each time right after the bare
reading and parsing of the same socket tables.
"""

import json
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
HEAD = ("batch", "CPU ms", "bare CPU ms", "ratio", "wall ms", "fds read")
LOADS = Path(__file__).with_name("loads.py")

Ports = Sequence[Sequence[int]]
Row = tuple[str, float, float, float, int]


def measure() -> dict[str, Any]:
    """Run this program in a namespace of its own and return what it printed."""
    with namespace() as made, made.popen(sys.executable, __file__, stdout=subprocess.PIPE) as run:
        told, _ = run.communicate()
    if run.returncode:
        raise ValueError(f"warm_batch.py ended with {run.returncode}")
    return json.loads(told)


def rows(measured: dict[str, Any]) -> list[list[str]]:
    """Return the table of what `measure` returned."""
    return [
        [name, f"{cpu:.1f}", f"{bare:.1f}", f"{cpu / bare:.2f}", f"{wall:.1f}", str(fds)]
        for name, cpu, bare, wall, fds in measured["batches"]
    ]


class Holder:
    """A process of loads.py that keeps idle sockets, and opens connections when asked."""

    def __init__(self, stack: ExitStack, sockets: int, files: int) -> None:
        words = [sys.executable, LOADS, "hold", json.dumps({"sockets": sockets, "files": files})]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = stack.enter_context(subprocess.Popen(words, **pipes))
        self._process.stdout.readline()

    def open(self) -> Ports:
        """Return the (local, remote) ports of connections that were not there before."""
        self._process.stdin.write(f"{CONNECTIONS}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["connections"]


class Bench:
    """A resolver beside the bare reading of the tables."""

    def __init__(self, socket_table: Literal["procfs", "auto"]) -> None:
        self._name = socket_table
        self._procfs = Procfs(Path("/proc"))
        self._resolver = ProcfsResolver(Path("/proc"), socket_table=socket_table)

    def read_bare(self, ports: Ports) -> float:
        """Return the CPU time of reading and parsing what a batch of IPv4 flows needs."""
        before = time.thread_time()
        for name in ("tcp", "tcp6"):
            parse_table(
                self._procfs.read_table(name) or b"", {(local, far) for local, far in ports}
            )
        return time.thread_time() - before

    def resolve(self, ports: Ports) -> tuple[float, float, int]:
        """Return CPU and wall time of a batch, and how many fds it read."""
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
        """Measure batches of what `open_ports` gives; medians, in milliseconds."""
        bare, batches = [], []
        for _ in range(rounds):
            ports = open_ports()
            bare.append(self.read_bare(ports))
            batches.append(self.resolve(ports))
        cpu, wall, fds = (statistics.median(column) for column in zip(*batches, strict=True))
        return (
            f"{self._name}: {name}",
            1e3 * cpu,
            1e3 * statistics.median(bare),
            1e3 * wall,
            round(fds),
        )


def main() -> None:
    with ExitStack() as stack:
        heavy = [Holder(stack, sockets, files) for sockets, files in HOLDERS]
        light = Holder(stack, 0, 0)
        same, strangers = light.open(), [(port, 1) for port in range(1, CONNECTIONS + 1)]
        batches = []
        for bench in (Bench("procfs"), Bench("auto")):
            batches += [
                bench.run("the first one", heavy[0].open, rounds=1),
                bench.run("the same connections again", lambda: same),
                bench.run("new ones of a process with few fds", light.open),
                bench.run("new ones of a process with 15,000 fds", heavy[-1].open),
                bench.run("connections that nobody has", lambda: strangers),
            ]
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps({"batches": batches, "peak_bytes": int(peak) * 1024}))


if __name__ == "__main__":
    main()
