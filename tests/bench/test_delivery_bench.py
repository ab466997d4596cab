"""The benchmark of delivery: it runs, and tells of each case."""

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("delivery.py")


def run_bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, BENCH, *words], text=True, capture_output=True, check=False
    )


def test_a_wrong_case_is_told_with_those_that_there_are() -> None:
    run = run_bench("jsonk")
    assert run.returncode == 2
    assert "no case jsonk" in run.stderr
    assert "counting, spooled" in run.stderr


def test_each_case_has_a_row_of_figures() -> None:
    run = run_bench("--records", "50", "--windows", "3", "--interval", "0.05")
    assert run.returncode == 0, run.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in run.stdout.splitlines()
        if re.match(r"\| \w", line)
    ]
    assert [row[0] for row in rows] == [
        "case", "counting", "jsonl", "stdout", "tcp", "counting, spooled", "beside a dead one",
        "beside dead and stalled",
    ]  # fmt: skip
    assert all(float(cell) >= 0 for row in rows[1:] for cell in row[1:])
