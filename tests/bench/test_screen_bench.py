"""The benchmark of the screen runs, and has figures for `run` and for each size."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("screen.py")


def test_run_and_each_size_of_screen_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["--processes", "20", "--flows", "100", "--windows", "2", "--json", path]
    run = subprocess.run(
        [sys.executable, BENCH, *words], capture_output=True, text=True, check=True
    )
    figures = json.loads(path.read_text())
    assert list(figures) == ["run", "80x24", "160x50"]
    assert all(cost > 0 for cost in figures["80x24"].values())
    assert run.stdout.count("\n| `top`") == 2
