"""The tools that are measured: started side by side, and what each of them told."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import sysconf
from pathlib import Path
from queue import Empty

from support.namespaces import Namespace
from support.running import Running, read_records, running, stats_of, traffic_of
from verdict import Told
from workloads import UDP, Workload

PATIENCE = 20.0  # seconds until a tool must have begun
SETTLED = 3.0  # seconds that a tool is given after the load; hogpipe holds bytes for two
BACKLOG = 15.0  # seconds more that nethogs may take to work off what the kernel kept for it
GRACE = 5.0  # seconds to end in, when asked
REFRESH = 1.5  # seconds in which nethogs prints a list again, once it is not behind
POLL = 0.25
PROCFS, LEDGER, EBPF = "hogpipe", "hogpipe, ledger", "hogpipe, ebpf"
"""How hogpipe finds owners: from /proc alone, with the ledger, or by counting in the kernel."""

_TICKS = sysconf("SC_CLK_TCK")


@dataclass
class Outcome:
    """What a tool told and cost; `error` says why there is nothing."""

    tool: str
    told: Told = field(default_factory=dict)
    link_header: bool = False
    """Whether its bytes are those of Ethernet frames."""
    by_quality: dict[str, int] = field(default_factory=dict)
    dropped: int | None = None
    """Packets that the kernel dropped; None where the tool does not say."""
    cpu_seconds: float = 0.0
    """From before the load until it had settled; what it takes to start is not in it."""
    start_cpu_seconds: float = 0.0
    peak_bytes: int = 0
    unfinished: bool = False
    """Whether it was killed while still busy: what it told is then its last list."""
    notes: dict[str, float] = field(default_factory=dict)
    """What hogpipe's own stats say of the run, summed up."""
    error: str | None = None


class Tool:
    """A tool at work."""

    def __init__(self, name: str, run: Running, read: Callable[[Outcome], None]) -> None:
        self.name = name
        self._run = run
        self._read = read
        self._cpu_before = read_cpu_seconds(run.process.pid)

    def mark(self) -> None:
        """Count CPU time from now on."""
        self._cpu_before = read_cpu_seconds(self._run.process.pid)

    def cpu_seconds(self) -> float:
        return read_cpu_seconds(self._run.process.pid)

    def finish(self) -> Outcome:
        """End the tool and return what it told, or why it did not."""
        outcome = Outcome(self.name)
        try:
            outcome.cpu_seconds = self.cpu_seconds() - self._cpu_before
            outcome.start_cpu_seconds = self._cpu_before
            outcome.peak_bytes = read_peak_bytes(self._run.process.pid)
            outcome.unfinished = not self._end()
            self._read(outcome)
        except (OSError, ValueError, AssertionError) as error:
            outcome.error = " ".join([str(error), *self._run.errors[-3:]]).replace("\n", " ")
        return outcome

    def _end(self) -> bool:
        """End it; false where it had to be killed, being too far behind to notice a signal."""
        self._run.process.send_signal(signal.SIGINT)
        try:
            code = self._run.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._run.process.kill()
            self._run.process.wait()
            return False
        if code:
            raise ValueError(f"{self.name} ended with {code}")
        return True


def read_cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and the children it waited for (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


def read_peak_bytes(pid: int) -> int:
    """Return the peak of resident memory; 0 for a process that has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


@contextmanager
def hogpipe_tool(
    where: Namespace, interface: str, workload: Workload, folder: Path, *, by_flow: bool, way: str
) -> Iterator[Tool]:
    """Run hogpipe with its records in a file of `folder`, which is made.

    `way` is one of PROCFS, LEDGER and EBPF. With the latter it counts at all sockets of the host,
    and what is not with the workload's other side is left out; and so is each time what is not of
    its protocol.
    """
    folder.mkdir()
    dimensions = ["process", "flow"] if by_flow else ["process", "transport"]
    if way == EBPF and not by_flow:
        dimensions.append("remote")
    transport = "udp" if workload.protocol == UDP else "tcp"
    config = folder / "config.toml"
    config.write_text(f"""
        [capture]
        source = "{"ebpf" if way == EBPF else "pcap"}"
        interfaces = ["{interface}"]
        [attribution]
        ledger = "{"off" if way == PROCFS else "on"}"
        [aggregation]
        group_by = {json.dumps(dimensions)}
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
    """)

    def read(outcome: Outcome) -> None:
        records = read_records(folder / "records.jsonl")
        told: Counter = Counter()
        qualities: Counter[str] = Counter()
        for record in traffic_of(records):
            network = record["network"]
            if network.get("transport") != transport:
                continue
            if way == EBPF and network.get("peer", {}).get("address") != workload.far:
                continue
            moved = sum(one["bytes"] for one in network["io"].values())
            told[record.get("process", {}).get("pid"), _part_of(network)] += moved
            qualities.update(record["attribution"])
        outcome.told, outcome.by_quality = told, dict(qualities)
        stats = stats_of(records)
        outcome.dropped = sum(sum(one["capture"]["dropped"].values()) for one in stats)
        for key in ("batches", "table_reads", "fd_scans", "fds_read", "lookup_seconds"):
            outcome.notes[key] = round(sum(one["attribution"][key] for one in stats), 3)
        delays = (one["self"]["loop"]["longest_delay_seconds"] for one in stats)
        outcome.notes["longest_loop_delay_seconds"] = max(delays)

    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    with running(None, *words) as run:
        run.wait_for("owners come from" if way == EBPF else f"capturing on {interface}")
        yield Tool(way, run, read)


def _part_of(network: dict) -> tuple[int, int, int] | None:
    if "local" not in network:
        return None
    number = {"tcp": 6, "udp": 17}.get(network["transport"], 0)
    return number, network["local"].get("port", 0), network["peer"].get("port", 0)


@contextmanager
def nethogs_tool(where: Namespace, interface: str, folder: Path, udp: bool) -> Iterator[Tool]:
    """Run nethogs in its trace mode with totals in bytes; `-C` makes it look at UDP, too."""
    path = folder / "nethogs.txt"
    options = ["-t", "-v", "2", "-d", "1", *(["-C"] if udp else [])]

    def read(outcome: Outcome) -> None:
        told: Counter = Counter()
        for line in _last_refresh(path.read_text(errors="replace")):
            name, sent, received = line.rsplit("\t", 2)
            pid = int(name.rsplit("/", 2)[1])  # program/pid/uid
            told[pid or None, None] += int(float(sent)) + int(float(received))
        outcome.told, outcome.link_header = told, True

    program = shutil.which("nethogs")
    if program is None:
        raise ValueError("nethogs is not installed (Debian: apt-get install nethogs)")
    with path.open("w") as file, running(where, program, *options, interface, stdout=file) as run:
        deadline = time.monotonic() + PATIENCE
        while "Refreshing:" not in path.read_text(errors="replace"):
            if run.process.poll() is not None or time.monotonic() > deadline:
                raise ValueError("nethogs did not begin: " + " ".join(run.errors).strip())
            time.sleep(POLL)
        yield Tool("nethogs", run, read)


def _last_refresh(text: str) -> Sequence[str]:
    """Return the lines of the last whole list; the totals in it are those of the whole run."""
    whole = text.rpartition("\n\n")[0] or text
    return [line for line in whole.rpartition("Refreshing:\n")[2].splitlines() if "\t" in line]


def settle(tools: Sequence[Tool]) -> None:
    """Wait until the tools have worked off what they were behind with, or for long enough."""
    time.sleep(SETTLED)
    deadline = time.monotonic() + BACKLOG
    before = [tool.cpu_seconds() for tool in tools]
    while time.monotonic() < deadline:
        time.sleep(4 * POLL)
        now = [tool.cpu_seconds() for tool in tools]
        if all(later - sooner < POLL for later, sooner in zip(now, before, strict=True)):
            time.sleep(REFRESH)
            return
        before = now


START_ERRORS = (OSError, ValueError, AssertionError, Empty)
"""What starting a tool may raise."""
