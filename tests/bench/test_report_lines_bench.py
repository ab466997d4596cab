"""The benchmark of reports runs, and has figures for `hogpipe report` and for DuckDB alone."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("report_lines.py")


def test_a_small_file_is_reported_and_queried(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["--lines", "2000", "--rounds", "1", "--json", path]
    run = subprocess.run(
        [sys.executable, BENCH, *words], capture_output=True, text=True, check=True
    )
    figures = json.loads(path.read_text())
    assert 600 < figures["line_bytes"] < 760
    for name in ("report", "duckdb"):
        assert figures[name]["wall_seconds"] > 0
        assert figures[name]["cpu_seconds"] > 0
        assert figures[name]["peak_bytes"] > 10e6
    assert "\nwall time of the report over that of DuckDB alone: " in run.stdout
