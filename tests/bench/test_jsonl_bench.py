"""The benchmark of JSON lines runs, and has figures for each shape and sink."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("jsonl.py")


def test_each_shape_and_sink_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = ["--records", "300", "--rounds", "2", "--json", path]
    run = subprocess.run(
        [sys.executable, BENCH, *words], capture_output=True, text=True, check=True
    )
    figures = json.loads(path.read_text())
    shapes = [(row["schema"], row["layout"]) for row in figures["delays"]]
    assert len(set(shapes)) == 4
    assert list(figures["costs"]) == ["500", "300"]
    for rows in figures["costs"].values():
        assert [(row["schema"], row["layout"]) for row in rows] == shapes
        sizes = {row["schema"] + row["layout"]: row["bytes"] for row in rows}
        assert 500 < sizes["otelnested"] < sizes["otelflat"] < sizes["ecsflat"] < 2000
        assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(set(row["seconds"]) == {"none", "jsonl", "stdout"} for row in figures["delays"])
    assert run.stdout.count("\n| otel |") == 2 * 2 + 2 * 3
