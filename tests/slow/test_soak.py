"""Five minutes of mixed load with random faults: no violation."""

import subprocess
import sys
from pathlib import Path

from support.namespaces import require

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"


def test_five_minutes_of_load_and_faults_violate_nothing() -> None:
    require("ip", "mount", "umount", "nsenter")
    words = [sys.executable, SOAK, "--seconds", "300", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
