"""The benchmark of attribution runs, and its figures add up."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from support.namespaces import require

sys.path.insert(0, str(Path(__file__).parent))

from truth import Owner, Truth
from verdict import judge

BENCH = Path(__file__).with_name("attribution.py")


def run_bench(*words: str | Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run the command; return its result and its pid, which is in the names of its namespaces."""
    command = [sys.executable, BENCH, *words]
    with subprocess.Popen(command, text=True, stdout=PIPE, stderr=PIPE) as run:
        output, errors = run.communicate()
    return subprocess.CompletedProcess(command, run.returncode, output, errors), run.pid


def test_an_unknown_workload_is_refused_with_the_list_of_all() -> None:
    run, _ = run_bench("bulky")
    assert run.returncode == 2
    assert "no workload bulky" in run.stderr
    assert "outbound-100ms" in run.stderr


def test_the_shares_of_each_tool_add_up_to_the_truth(tmp_path: Path) -> None:
    require("ip", "tcpdump", "nethogs")
    path = tmp_path / "figures.json"
    options = ["--seconds", "2", "--connections-per-second", "60", "--by-flow", "--json", path]
    run, pid = run_bench("outbound-100ms", *options)
    assert run.returncode == 0, run.stderr
    (figures,) = json.loads(path.read_text())["workloads"]
    load = figures["load"]
    assert 0 < load["opened"] <= 120
    assert load["failed"] == load["stray_packets"] == load["dropped"] == 0
    assert [tool["tool"] for tool in figures["tools"]] == ["hogpipe", "nethogs"]
    for tool in figures["tools"]:
        verdict = tool["verdict"]
        parts = [verdict[key] for key in ("right", "wrong", "unattributed", "missing")]
        assert sum(parts) == verdict["truth"] > 0
        assert min(parts[:3]) >= 0
        assert tool["cpu_seconds"] >= 0
    hogpipe = figures["tools"][0]
    assert hogpipe["dropped"] == 0
    assert hogpipe["verdict"]["missing"] == 0
    assert hogpipe["verdict"]["truth"] == load["bytes"]
    assert sum(hogpipe["by_quality"].values()) == load["bytes"]
    assert hogpipe["by_quality"].get("none", 0) == hogpipe["verdict"]["unattributed"]
    assert hogpipe["verdict"]["wrong"] == 0
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    assert f"hogpipe-test-{pid}-" not in left.stdout
    assert run.stdout.count("| outbound-100ms |") == 5


@pytest.mark.parametrize("compared", ["processes", "connections"])
def test_bytes_of_another_process_are_wrong(compared: str) -> None:
    one, two = (6, 1000, 80), (6, 2000, 80)
    truth = Truth()
    truth.bytes.update({("a", one): 70, ("b", two): 50})
    truth.packets.update({("a", one): 1, ("b", two): 1})
    owners = [
        Owner("a", "10.0.0.1", frozenset([1]), 6, [1000], 80),
        Owner("b", "10.0.0.2", frozenset([2, 3]), 6, [2000], 80),
    ]
    parts = (None, None) if compared == "processes" else (one, two)
    reported = {(2, parts[0]): 60, (3, parts[1]): 20, (None, parts[1]): 30}
    verdict = judge(reported, truth, owners, link_header=False)
    by_sum = compared == "processes"
    assert verdict.truth == 120
    assert verdict.right == (50 if by_sum else 20)
    assert verdict.wrong == (30 if by_sum else 60)
    assert verdict.unattributed == 30
    assert verdict.by_address == {"10.0.0.1": (0, 70), "10.0.0.2": (50 if by_sum else 20, 50)}
    assert verdict.right_share(["10.0.0.1", "10.0.0.2"]) == verdict.right / 120
    assert verdict.right_share(["10.0.0.3"]) is None
    assert verdict.missing == 10
    assert judge(reported, truth, owners, link_header=True).truth == 120 + 2 * 14
