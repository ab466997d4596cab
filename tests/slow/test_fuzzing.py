"""Coverage-guided fuzzing of each target for a while, from a new seed for each run of the tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

PROGRAM = Path(__file__).parent.parent / "fuzz" / "run.py"
RUNS = 5000


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_breaks_no_invariant(name: str) -> None:
    pytest.importorskip("atheris", reason="needs the extra fuzz")
    words = [sys.executable, PROGRAM, name, f"-runs={RUNS}"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
