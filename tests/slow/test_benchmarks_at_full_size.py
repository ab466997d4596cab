"""The benchmarks of docs/benchmark.md at full size. `.ci/full` runs them and shows their tables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import require

BENCH = Path(__file__).parents[1] / "bench"
SHORT = ("outbound-1ms-own", "outbound-1ms-shared", "outbound-1ms-v6", "udp-unconnected", "inbound")


def run_bench(name: str, *words: str | Path) -> None:
    print(f"\n{name} {' '.join(map(str, words))}", flush=True)
    subprocess.run([sys.executable, BENCH / name, *words], check=True)


def verdicts_of(path: Path, *tools: str) -> list[dict[str, Any]]:
    """Return the verdicts on the given tools, and the packets that each lost."""
    figures = json.loads(path.read_text())["workloads"]
    return [
        {**tool["verdict"], "dropped": tool["dropped"]}
        for workload in figures
        for tool in workload["tools"]
        if tool["tool"] in tools
    ]


def test_no_workload_has_bytes_of_a_wrong_process_or_missing_ones(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    path = tmp_path / "figures.json"
    run_bench("attribution.py", "--json", path)
    for verdict in verdicts_of(path, "hogpipe"):
        assert verdict["wrong"] <= verdict["truth"] * 0.005
        assert verdict["missing"] == verdict["dropped"] == 0


def test_ledger_and_ebpf_attribute_short_connections_to_their_processes(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    require_bpf()
    path = tmp_path / "figures.json"
    options = ["--connections-per-second", "2000", "--seconds", "2", "--json", path]
    run_bench("attribution.py", *SHORT, "--ledger", "--ebpf", *options)
    for verdict in verdicts_of(path, "hogpipe, ledger", "hogpipe, ebpf"):
        assert verdict["right"] >= verdict["truth"] * 0.999


@pytest.mark.parametrize("name", ["packet_cost.py", "delivery.py", "jsonl.py", "screen.py"])
def test_a_benchmark_runs_at_full_size(name: str) -> None:
    require("ip", "iperf3")
    run_bench(name)


def test_a_day_of_500_groups_takes_at_most_50_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    run_bench("history.py", "--json", path)
    assert json.loads(path.read_text())["day"]["mib"] * (1 << 20) <= 50e6


def test_a_report_takes_at_most_three_seconds_and_500_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    run_bench("report_lines.py", "--json", path)
    report = json.loads(path.read_text())["report"]
    assert report["cpu_seconds"] <= 3  # of all threads, whatever else the machine does
    assert report["peak_bytes"] <= 500e6
