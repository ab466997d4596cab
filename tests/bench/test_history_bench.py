"""The benchmark of the history runs, and has a figure for each size, query and sink."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("history.py")


def test_a_small_day_is_written_and_queried(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["--groups", "10", "--hours", "0.1", "--records", "50", "--rounds", "1"]
    run = subprocess.run(
        [sys.executable, BENCH, *words, "--json", path], capture_output=True, text=True, check=True
    )
    figures = json.loads(path.read_text())
    assert 0 < figures["day"]["mib"] < 5
    assert figures["day"]["window_ms"] > 0
    assert len(figures["queries"]) == 5
    assert set(figures["writes"]) == {"sqlite", "jsonl"}
    assert run.stdout.count("\nCPU of a query, ") == 5
