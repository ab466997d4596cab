"""The time and memory of `hogpipe report` over a large file, beside a query of DuckDB alone.

`python tests/bench/report_lines.py` writes a file of a million lines with the stamper and the
encoder of a run: windows of a second, each with 500 processes of 100 programs. In alternate rounds
it runs `hogpipe report FILE`, and a program that only has DuckDB read the same file, with all
defaults, and sum up the bytes by program. Each is a process of its own. Wall time, CPU time of all
threads and peak resident memory are those that the kernel reports when the process ends (`wait4`),
so the start of the interpreter is part of them. The file is in the cache of the system before the
first round. Both must find the same bytes.

Known limit: to the kernel the peak memory of a process is at least that of the process that
started it, here some 60 MB.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.sinks import stats

from hogpipe.records.schema import Record, StatsBody, TrafficBody
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings

START_NS = 1_795_330_800_000_000_000  # 2026-11-22T07:00:00Z
SECOND_NS = 1_000_000_000
PROCESSES = 500
PROGRAMS = 100
QUERY = """
    SELECT process.name, sum(network.io.transmit.bytes + network.io.receive.bytes)::BIGINT
    FROM read_json('{path}', format = 'newline_delimited') WHERE type = 'traffic' GROUP BY ALL
"""
DUCKDB = """
import json, sys, duckdb
duckdb.execute("SET enable_progress_bar = false")  # python -c counts as interactive
print(json.dumps([bytes for _, bytes in duckdb.execute(sys.argv[1]).fetchall()]))
"""


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def write_file(path: Path, lines: int, seed: int = 1) -> None:
    """Write so many lines: windows of a record for each process, with a stats record at the end."""
    rng = random.Random(seed)
    stamper = RecordStamper(make_run_id(START_NS, bytes(10)), "web1")
    encoder = JsonEncoder(JsonSettings(type="jsonl"))
    one = stats()
    counters: StatsBody = {
        "capture": one["capture"],
        "attribution": one["attribution"],
        "aggregation": one["aggregation"],
        "self": one["self"],
    }
    with path.open("wb") as file:
        left, start_ns = lines, START_NS
        while left:
            count = min(PROCESSES, left - 1)
            end_ns = start_ns + SECOND_NS
            records: list[Record] = [
                stamper.traffic(make_body(number, rng), start_ns, end_ns) for number in range(count)
            ]
            records.append(stamper.stats(counters, start_ns, end_ns))
            file.write(encoder.lines(records))
            left -= len(records)
            start_ns = end_ns


def make_body(number: int, rng: random.Random) -> TrafficBody:
    """Return the record body of one process, with sizes as they vary between connections."""
    program = f"program-{number % PROGRAMS}"
    sizes = [int(rng.paretovariate(1.0) * 200) for _ in range(2)]
    transmit, receive = ({"bytes": size, "packets": 1 + size // 1400} for size in sizes)
    return {
        "process": {
            "pid": 1000 + number,
            "name": program,
            "parent_pid": 1,
            "creation": {"time": "2026-11-22T06:58:01.220Z"},
            "executable": {"name": program, "path": f"/usr/bin/{program}"},
            "command": program,
            "user": {"id": 1000 + number % 10},
            "owner": f"user-{number % 10}",
            "linux": {"cgroup": f"/system.slice/{program}.service"},
        },
        "systemd": {"unit": f"{program}.service"},
        "network": {
            "flows": rng.randint(1, 3),
            "io": {"transmit": transmit, "receive": receive},  # type: ignore[typeddict-item]
        },
        "attribution": {"exact": sum(sizes)},
    }


def read_into_cache(path: Path) -> None:
    """Read a file in small parts: the peak memory of this process is that of its children, too."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def measure(command: Sequence[str]) -> tuple[bytes, Cost]:
    """Run a program; return what it prints, and its cost. Raises CalledProcessError."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu = usage.ru_utime + usage.ru_stime
    return printed, Cost(wall, cpu, usage.ru_maxrss * 1024)


def compare(path: Path, rounds: int) -> dict[str, list[Cost]]:
    """Return the cost of a report and of DuckDB alone, in alternate rounds."""
    options = ["--top", "1000", "--format", "json"]
    report = [sys.executable, "-m", "hogpipe", "report", str(path), *options]
    bare = [sys.executable, "-c", DUCKDB, QUERY.format(path=path)]
    costs: dict[str, list[Cost]] = {"report": [], "duckdb": []}
    for _ in range(rounds):
        printed, cost = measure(report)
        rows = map(json.loads, printed.splitlines())
        reported = sorted(row["transmit_bytes"] + row["receive_bytes"] for row in rows)
        costs["report"].append(cost)
        printed, cost = measure(bare)
        assert reported == sorted(json.loads(printed))
        costs["duckdb"].append(cost)
    return costs


def take_median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        statistics.median(cost.wall_seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
        round(statistics.median(cost.peak_bytes for cost in costs)),
    )


def main() -> None:
    """Measure with the sizes of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hogpipe.jsonl"
        write_file(path, options.lines)
        size = path.stat().st_size
        read_into_cache(path)
        load = os.getloadavg()[0]
        costs = compare(path, options.rounds)
    medians = {name: take_median(each) for name, each in costs.items()}
    print(f"{options.lines:,} lines of {size / options.lines:.0f} bytes, load average {load:.1f}")
    print("\n| program | wall s (all rounds) | CPU s | peak MB |\n|---|---|---|---|")
    for name, cost in medians.items():
        walls = ", ".join(f"{one.wall_seconds:.2f}" for one in costs[name])
        figures = f"{cost.cpu_seconds:.2f} | {cost.peak_bytes / 1e6:.0f}"
        print(f"| {name} | {cost.wall_seconds:.2f} ({walls}) | {figures} |")
    ratio = medians["report"].wall_seconds / medians["duckdb"].wall_seconds
    print(f"\nwall time of the report over that of DuckDB alone: {ratio:.2f}")
    if options.json:
        written: dict[str, object] = {name: asdict(cost) for name, cost in medians.items()}
        written |= {"ratio": ratio, "line_bytes": size / options.lines, "load": load}
        options.json.write_text(json.dumps(written))


if __name__ == "__main__":
    main()
