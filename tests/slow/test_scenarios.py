"""All scenarios of the scoreboard, as the running kernel has them."""

import json
import sys
from pathlib import Path

from support.bpf import require_bpf
from support.namespaces import require

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import scenarios
from scenario_table import unexplained


def test_the_ledger_and_ebpf_are_right_about_all_scenarios_but_the_explained_ones(
    tmp_path: Path,
) -> None:
    require("ip", "nft", "nethogs")
    require_bpf()
    path = tmp_path / "figures.json"
    assert scenarios.main(["--json", str(path), "--page", str(tmp_path / "none.md")]) == 0
    figures = json.loads(path.read_text())
    assert set(figures) == set(scenarios.SCENARIOS)
    assert unexplained(figures) == []
