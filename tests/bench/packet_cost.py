"""The cost of source = "ebpf" for each packet: iperf3 over a veth, with and without hogpipe.

    sudo .venv/bin/python tests/bench/packet_cost.py [LOAD…] [--pairs N] [--seconds N] [--json FILE]

Needs root, ip and iperf3. Both ends are on this host, so each packet is counted twice: at the
sending and at the receiving socket. docs/benchmark.md explains the columns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import host, table
from support.namespaces import Namespace, pair
from support.running import running, write_config
from tools import read_cpu_seconds

NEAR, FAR = "10.79.0.1", "10.79.0.2"
LOADS: dict[str, list[str]] = {
    "tcp": [],
    "udp-64": ["--udp", "--bitrate", "0", "--length", "64"],
}
"""The options of iperf3 by load: one TCP stream, or datagrams of 64 bytes, both unpaced."""
SETTLED = 0.5
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
CGROUP_SKB = "8"  # BPF_PROG_TYPE_CGROUP_SKB of include/uapi/linux/bpf.h
CONFIG = """
[capture]
source = "ebpf"
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
HEAD = (
    "load", "pairs", "median of with/without", "least", "most", "without", "CPU of hogpipe",
    "ns a packet", "CPU of programs",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Consecutive rounds with and without hogpipe, in bits a second received."""

    with_hogpipe: float
    without: float
    cpu_share: float
    """CPU time of hogpipe during its round, as a share of one core."""

    @property
    def ratio(self) -> float:
        return self.with_hogpipe / self.without


@dataclass(frozen=True)
class Cost:
    """The result of a load."""

    pairs: list[Pair]
    packet_ns: float
    """The mean run time of a program for a packet at one socket, measured by the kernel."""
    programs_share: float
    """The run time of the programs on all cores, as a share of one core."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "loads", nargs="*", metavar="LOAD", help=f"of {', '.join(LOADS)}; all by default"
    )
    parser.add_argument(
        "--pairs", type=int, default=10, help="how many rounds of each, 10 by default"
    )
    parser.add_argument("--seconds", type=int, default=2, help="duration of a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write each pair to FILE")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.loads) - LOADS.keys():
        parser.error(f"no load {', '.join(sorted(unknown))}; there are: {', '.join(LOADS)}")
    chosen.loads = chosen.loads or list(LOADS)
    return chosen


def send(where: Namespace, load: str, seconds: int) -> float:
    """Return the bits a second that were received. Raises ValueError."""
    words = ["iperf3", "--client", FAR, "--time", str(seconds), "--json", *LOADS[load]]
    done = subprocess.run(where.command(*words), capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    if "error" in report:
        raise ValueError(f"iperf3: {report['error']}")
    end = report["end"]
    if "sum" in end:  # datagrams, of which some are lost
        return float(end["sum"]["bits_per_second"]) * (1 - end["sum"]["lost_percent"] / 100)
    return float(end["sum_received"]["bits_per_second"])


@contextmanager
def counting(where: Namespace, folder: Path) -> Iterator[int]:
    """Run hogpipe with source = "ebpf"; yield its pid."""
    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", write_config(folder, CONFIG))
    with running(None, *words) as run:
        run.wait_for("owners come from")
        time.sleep(SETTLED)
        yield run.process.pid
        if code := run.end():
            raise ValueError(f"hogpipe ended with {code}: {''.join(run.errors).strip()}")


@contextmanager
def program_statistics() -> Iterator[None]:
    """Make the kernel measure the run time of programs, which costs CPU time itself."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def read_program_times(pid: int) -> tuple[int, int]:
    """Return the run time of a process's packet programs in nanoseconds, and the number of runs.

    The source is /proc/PID/fdinfo (proc(5)).
    """
    spent = runs = 0
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        if fields.get("prog_type", "").strip() == CGROUP_SKB:
            spent += int(fields["run_time_ns"])
            runs += int(fields["run_cnt"])
    return spent, runs


def measure(load: str, pairs: int, seconds: int) -> Cost:
    """Return the cost of a load; the order within a pair alternates."""
    with (
        tempfile.TemporaryDirectory(prefix="hogpipe-bench-") as name,
        pair([(f"{NEAR}/24", f"{FAR}/24")]) as (near, far),
        running(far, "iperf3", "--server", stdout=subprocess.DEVNULL),
    ):
        folder = Path(name)
        time.sleep(SETTLED)
        send(near, load, 1)  # a warm-up
        found = [
            measure_pair(near, load, seconds, folder, with_hogpipe_first=bool(number % 2))
            for number in range(pairs)
        ]
        with program_statistics(), counting(near, folder) as pid:
            send(near, load, seconds)
            spent, runs = read_program_times(pid)
        return Cost(found, spent / runs, spent / (1e9 * seconds))


def measure_pair(
    near: Namespace, load: str, seconds: int, folder: Path, *, with_hogpipe_first: bool
) -> Pair:
    without = 0.0 if with_hogpipe_first else send(near, load, seconds)
    with counting(near, folder) as pid:
        cpu, began = read_cpu_seconds(pid), time.monotonic()
        with_hogpipe = send(near, load, seconds)
        share = (read_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    return Pair(with_hogpipe, without or send(near, load, seconds), share)


def row(load: str, cost: Cost) -> list[str]:
    ratios = [one.ratio for one in cost.pairs]
    return [
        load,
        str(len(ratios)),
        f"{statistics.median(ratios):.3f}",
        f"{min(ratios):.3f}",
        f"{max(ratios):.3f}",
        f"{statistics.median(one.without for one in cost.pairs) / 1e9:.2f} Gbit/s",
        f"{100 * statistics.median(one.cpu_share for one in cost.pairs):.1f} %",
        f"{cost.packet_ns:.0f}",
        f"{100 * cost.programs_share:.1f} %",
    ]


def main() -> int:
    """Return 0, or 1 if anything failed."""
    chosen = parse_arguments()
    if os.geteuid() != 0:
        print("packet_cost.py: namespaces and eBPF need root; use sudo", file=sys.stderr)
        return 1
    found: dict[str, Cost] = {}
    try:
        for load in chosen.loads:
            print(f"{load} …", file=sys.stderr, flush=True)
            found[load] = measure(load, chosen.pairs, chosen.seconds)
    except (OSError, ValueError, AssertionError, subprocess.SubprocessError) as error:
        print(f"packet_cost.py: failed: {error}", file=sys.stderr)
        return 1
    print(f"{host()}, load {os.getloadavg()[0]:.1f}\n")
    print(table(HEAD, [row(load, cost) for load, cost in found.items()]))
    if chosen.json:
        figures = {load: asdict(cost) for load, cost in found.items()}
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
