"""The measured tools: how each is started, and how its report is read."""

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
from typing import Any

from support.namespaces import Namespace
from support.running import Running, read_records, running, stats_of, traffic_of
from verdict import Reported

PATIENCE = 20.0  # seconds within which a tool must start
IDLE_AFTER = 3.0  # seconds for each tool after the load; hogpipe keeps flows pending for two
BACKLOG = 15.0  # further seconds for nethogs to process its capture buffer
GRACE = 5.0  # seconds to exit after SIGINT
REFRESH = 1.5  # seconds within which nethogs prints its next list
POLL = 0.25
PROCFS, LEDGER, EBPF = "hogpipe", "hogpipe, ledger", "hogpipe, ebpf"
"""The modes of hogpipe: owners from /proc alone, with the ledger, or with source = "ebpf"."""
NETHOGS, TCPDUMP = "nethogs", "tcpdump"

_TICKS = sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers_types.h


@dataclass
class Outcome:
    """The report and the cost of a tool; `error` is the reason if there is none."""

    tool: str
    reported: Reported = field(default_factory=dict)
    link_header: bool = False
    """Whether the tool counts bytes of Ethernet frames."""
    by_quality: dict[str, int] = field(default_factory=dict)
    dropped: int | None = None
    """Packets that the kernel dropped; None if the tool does not report it."""
    cpu_seconds: float = 0.0
    """CPU time from the start of the load until the tool was idle."""
    start_cpu_seconds: float = 0.0
    peak_bytes: int = 0
    unfinished: bool = False
    """Whether the tool was killed while busy: its report is then the last list it printed."""
    notes: dict[str, float] = field(default_factory=dict)
    """Sums of hogpipe's own stats over the run."""
    error: str | None = None


class Tool:
    """A running tool."""

    def __init__(
        self, name: str, run: Running, read: Callable[[Outcome], None], *, refresh: float = 0.0
    ) -> None:
        self.name = name
        self.refresh = refresh
        """Seconds within which a tool that is not behind has reported everything."""
        self._run = run
        self._read = read
        self._cpu_before = read_cpu_seconds(run.process.pid)

    def mark(self) -> None:
        """Start counting CPU time."""
        self._cpu_before = read_cpu_seconds(self._run.process.pid)

    @property
    def pid(self) -> int:
        return self._run.process.pid

    def cpu_seconds(self) -> float:
        return read_cpu_seconds(self._run.process.pid)

    def finish(self) -> Outcome:
        """End the tool and return its report, or the reason why there is none."""
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
        """End the tool; return false if it did not react to SIGINT and had to be killed."""
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
    """Return the CPU time of a process and its reaped children.

    That of the process is exact: its clock (clock_getcpuclockid(3)) has no ticks.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = sum(int(ticks) for ticks in fields[13:15]) / _TICKS
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED) + children


def read_peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process; 0 if it has exited."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


@contextmanager
def hogpipe_tool(
    where: Namespace,
    interface: str,
    folder: Path,
    *,
    mode: str,
    group_by: Sequence[str],
    is_of_load: Callable[[dict[str, Any]], bool],
    containers: int = 0,
) -> Iterator[Tool]:
    """Run hogpipe in `mode` (PROCFS, LEDGER or EBPF) with its records in `folder`, which is new.

    Only records of the load count: EBPF counts all sockets of the host. The context begins once
    that many `containers` have been found.
    """
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(f"""
        [capture]
        source = "{"ebpf" if mode == EBPF else "pcap"}"
        interfaces = ["{interface}"]
        [attribution]
        ledger = "{"off" if mode == PROCFS else "on"}"
        [aggregation]
        group_by = {json.dumps(group_by)}
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
    """)

    def read(outcome: Outcome) -> None:
        records = read_records(folder / "records.jsonl")
        reported: Counter = Counter()
        qualities: Counter[str] = Counter()
        for record in filter(is_of_load, traffic_of(records)):
            network = record["network"]
            size = sum(one["bytes"] for one in network["io"].values())
            reported[record.get("process", {}).get("pid"), _part_of(network)] += size
            qualities.update(record["attribution"])
        outcome.reported, outcome.by_quality = reported, dict(qualities)
        stats = stats_of(records)
        outcome.dropped = sum(sum(one["capture"]["dropped"].values()) for one in stats)
        for key in ("batches", "table_reads", "fd_scans", "fds_read", "lookup_seconds"):
            outcome.notes[key] = round(sum(one["attribution"][key] for one in stats), 3)
        delays = (one["self"]["loop"]["longest_delay_seconds"] for one in stats)
        outcome.notes["longest_loop_delay_seconds"] = max(delays)

    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    ready = ["owners come from"] if mode == EBPF else [f"capturing on {interface}"]
    if containers and mode != EBPF:
        ready.append(f"network namespaces at captured interfaces: {containers}")
    with running(None, *words) as run:
        run.wait_for_each(*ready)
        yield Tool(mode, run, read)


def _part_of(network: dict) -> tuple[int, int, int] | None:
    if "local" not in network:
        return None
    number = {"tcp": 6, "udp": 17}.get(network["transport"], 0)
    return number, network["local"].get("port", 0), network["peer"].get("port", 0)


@contextmanager
def nethogs_tool(where: Namespace, interface: str, folder: Path, udp: bool) -> Iterator[Tool]:
    """Run nethogs in trace mode with totals in bytes; `-C` makes it capture UDP as well."""
    path = folder / "nethogs.txt"
    options = ["-t", "-v", "2", "-d", "1", *(["-C"] if udp else [])]
    if interface == "lo":
        options.append("-a")

    def read(outcome: Outcome) -> None:
        reported: Counter = Counter()
        for line in _last_refresh(path.read_text(errors="replace")):
            name, transmitted, received = line.rsplit("\t", 2)
            pid = int(name.rsplit("/", 2)[1])  # program/pid/uid
            reported[pid or None, None] += int(float(transmitted)) + int(float(received))
        outcome.reported, outcome.link_header = reported, True

    program = shutil.which("nethogs")
    if program is None:
        raise ValueError("nethogs is not installed (Debian: apt-get install nethogs)")
    with path.open("w") as file, running(where, program, *options, interface, stdout=file) as run:
        deadline = time.monotonic() + PATIENCE
        while "Refreshing:" not in path.read_text(errors="replace"):
            if run.process.poll() is not None or time.monotonic() > deadline:
                raise ValueError("nethogs did not start: " + " ".join(run.errors).strip())
            time.sleep(POLL)
        yield Tool(NETHOGS, run, read, refresh=REFRESH)


def _last_refresh(text: str) -> Sequence[str]:
    """Return the lines of the last complete list, whose totals are those of the whole run."""
    whole = text.rpartition("\n\n")[0] or text
    return [line for line in whole.rpartition("Refreshing:\n")[2].splitlines() if "\t" in line]


@contextmanager
def tcpdump_tool(where: Namespace, interface: str) -> Iterator[Tool]:
    """Run tcpdump with hogpipe's ring and snaplen, writing to /dev/null: the cost of capture alone.

    It reports no bytes; `notes` has the number of packets that it captured.
    """

    def read(outcome: Outcome) -> None:
        run.wait()
        outcome.notes["packets"] = read_tcpdump_count(run, "captured")
        outcome.dropped = read_tcpdump_count(run, "dropped")

    words = ["-i", interface, "-w", "/dev/null", "-s", "128", "-B", "16384", "-Z", "root"]
    with running(where, "tcpdump", *words) as run:
        run.wait_for("listening on")
        yield Tool(TCPDUMP, run, read)


def read_tcpdump_count(run: Running, what: str) -> int:
    """Return the number of packets of a tcpdump that has ended: `captured` or `dropped`."""
    found = re.findall(rf"^(\d+) packets? {what}", "".join(run.errors), re.MULTILINE)
    return sum(map(int, found))


def wait_until_idle(tools: Sequence[Tool], idle_after: float = IDLE_AFTER) -> None:
    """Wait until all tools are idle and have reported, at most `idle_after` + BACKLOG seconds."""
    time.sleep(idle_after)
    deadline = time.monotonic() + BACKLOG
    before = [tool.cpu_seconds() for tool in tools]
    while time.monotonic() < deadline:
        time.sleep(4 * POLL)
        now = [tool.cpu_seconds() for tool in tools]
        if all(later - sooner < POLL for later, sooner in zip(now, before, strict=True)):
            time.sleep(max(tool.refresh for tool in tools))
            return
        before = now


START_ERRORS = (OSError, ValueError, AssertionError, Empty)
"""What starting a tool may raise."""
