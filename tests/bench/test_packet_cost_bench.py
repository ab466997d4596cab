"""The command line of the benchmark of packets; tests/slow runs it."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("packet_cost.py")


def test_an_unknown_load_is_refused_with_the_list_of_all() -> None:
    words = [sys.executable, BENCH, "sctp"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no load sctp; there are: tcp, udp-64" in done.stderr
