"""The benchmark of packets runs, with and without hogpipe."""

import json
import subprocess
import sys
from pathlib import Path

from support.bpf import require_bpf
from support.namespaces import require

BENCH = Path(__file__).with_name("packet_cost.py")


def test_a_pair_has_the_throughput_with_and_without_hogpipe(tmp_path: Path) -> None:
    require("ip", "iperf3")
    require_bpf()
    path = tmp_path / "figures.json"
    words = [sys.executable, BENCH, "--pairs", "1", "--seconds", "1", "--json", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert figures.keys() == {"tcp", "udp-64"}
    for cost in figures.values():
        (one,) = cost["pairs"]
        assert 1 < cost["packet_ns"] < 1e6
        assert one["with_hogpipe"] > 1e6
        assert one["without"] > 1e6
        assert one["cpu_share"] >= 0
    assert done.stdout.count("Gbit/s") == 2


def test_an_unknown_load_is_refused_with_the_list_of_all() -> None:
    words = [sys.executable, BENCH, "sctp"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no load sctp; there are: tcp, udp-64" in done.stderr
