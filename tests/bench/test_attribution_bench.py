"""The benchmark of attribution: its verdicts. tests/slow has a run of it in small."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from truth import Owner, Truth
from verdict import judge

BENCH = Path(__file__).with_name("attribution.py")


def test_an_unknown_workload_is_refused_with_the_list_of_all() -> None:
    run = subprocess.run(
        [sys.executable, BENCH, "bulky"], text=True, capture_output=True, check=False
    )
    assert run.returncode == 2
    assert "no workload bulky" in run.stderr
    assert "outbound-100ms" in run.stderr


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
