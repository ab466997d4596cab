"""What the command line imports: help and completion wait for no pipeline."""

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "numpy", "pcapy", "pluggy", "hogpipe.pipeline", "hogpipe.sinks"}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["completion", "bash"]])
def test_help_and_completion_import_no_pipeline(words: list[str]) -> None:
    program = (
        "import atexit, sys; from hogpipe.__main__ import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['hogpipe', *{words!r}]\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert HEAVY & set(done.stderr.split()) == set()
