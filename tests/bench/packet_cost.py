"""What the source `ebpf` costs each packet: iperf3 over a veth, with it and without it by turns.

    sudo .venv/bin/python tests/bench/packet_cost.py [LOAD…] [--pairs N] [--seconds N] [--json FILE]

Needs root, ip and iperf3. Both ends are on this host, so each packet is counted twice, where it
leaves a socket and where it comes to one. docs/benchmark.md tells how to read what it prints.
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
"""By name, what iperf3 is given: one stream as fast as it gets, or as many small packets."""
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
    """One round with hogpipe and one without, right after each other; bits a second arrived."""

    with_it: float
    without: float
    cpu_share: float
    """Of one core that hogpipe took meanwhile."""

    @property
    def ratio(self) -> float:
        return self.with_it / self.without


@dataclass(frozen=True)
class Cost:
    """What came of a load."""

    pairs: list[Pair]
    packet_ns: float
    """How long the programs ran for a packet at one of its sockets, by the kernel's own count."""
    programs_share: float
    """Of one core that they took, in sum over all cores."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "loads", nargs="*", metavar="LOAD", help=f"of {', '.join(LOADS)}; all by default"
    )
    parser.add_argument("--pairs", type=int, default=10, help="how many times, 10 by default")
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each pair there, too")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.loads) - LOADS.keys():
        parser.error(f"no load {', '.join(sorted(unknown))}; there are: {', '.join(LOADS)}")
    chosen.loads = chosen.loads or list(LOADS)
    return chosen


def send(where: Namespace, load: str, seconds: int) -> float:
    """Return how many bits a second arrived. Raises ValueError."""
    words = ["iperf3", "--client", FAR, "--time", str(seconds), "--json", *LOADS[load]]
    done = subprocess.run(where.command(*words), capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    if "error" in told:
        raise ValueError(f"iperf3: {told['error']}")
    end = told["end"]
    if "sum" in end:  # datagrams, of which some are lost
        return float(end["sum"]["bits_per_second"]) * (1 - end["sum"]["lost_percent"] / 100)
    return float(end["sum_received"]["bits_per_second"])


@contextmanager
def counting(where: Namespace, folder: Path) -> Iterator[int]:
    """Run hogpipe with the source ebpf; give its pid."""
    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", write_config(folder, CONFIG))
    with running(None, *words) as run:
        run.wait_for("owners come from")
        time.sleep(SETTLED)
        yield run.process.pid
        if code := run.end():
            raise ValueError(f"hogpipe ended with {code}: {''.join(run.errors).strip()}")


@contextmanager
def statistics_kept() -> Iterator[None]:
    """Have the kernel measure how long programs run, which takes time of its own."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def read_program_times(pid: int) -> tuple[int, int]:
    """Return how many nanoseconds the programs of a process ran for packets, and how often.

    See proc(5) for fdinfo.
    """
    spent = runs = 0
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        told = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        if told.get("prog_type", "").strip() == CGROUP_SKB:
            spent += int(told["run_time_ns"])
            runs += int(told["run_cnt"])
    return spent, runs


def measure(load: str, pairs: int, seconds: int) -> Cost:
    """Return what it costs; which of a pair comes first changes each time."""
    with (
        tempfile.TemporaryDirectory(prefix="hogpipe-bench-") as name,
        pair([(f"{NEAR}/24", f"{FAR}/24")]) as (near, far),
        running(far, "iperf3", "--server", stdout=subprocess.DEVNULL),
    ):
        folder = Path(name)
        time.sleep(SETTLED)
        send(near, load, 1)  # what is slow the first time
        found = [
            measure_pair(near, load, seconds, folder, with_it_first=bool(number % 2))
            for number in range(pairs)
        ]
        with statistics_kept(), counting(near, folder) as pid:
            send(near, load, seconds)
            spent, runs = read_program_times(pid)
        return Cost(found, spent / runs, spent / (1e9 * seconds))


def measure_pair(
    near: Namespace, load: str, seconds: int, folder: Path, *, with_it_first: bool
) -> Pair:
    without = 0.0 if with_it_first else send(near, load, seconds)
    with counting(near, folder) as pid:
        cpu, began = read_cpu_seconds(pid), time.monotonic()
        with_it = send(near, load, seconds)
        share = (read_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    return Pair(with_it, without or send(near, load, seconds), share)


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
