"""The benchmark of delivery runs, and prints a row for each case."""

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("delivery.py")


def run_bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, BENCH, *words], text=True, capture_output=True, check=False
    )


def test_an_unknown_case_is_refused_with_the_list_of_all() -> None:
    run = run_bench("jsonk")
    assert run.returncode == 2
    assert "no case jsonk" in run.stderr
    assert "discard, spooled" in run.stderr


def test_each_case_has_a_row_of_figures() -> None:
    run = run_bench("--records", "50", "--windows", "3", "--interval", "0.05")
    assert run.returncode == 0, run.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in run.stdout.splitlines()
        if re.match(r"\| \w", line)
    ]
    assert [row[0] for row in rows] == [
        "case", "discard", "jsonl", "stdout", "tcp", "discard, spooled", "beside a failing sink",
        "beside failing and stalled sinks",
    ]  # fmt: skip
    assert all(float(cell) >= 0 for row in rows[1:] for cell in row[1:])
