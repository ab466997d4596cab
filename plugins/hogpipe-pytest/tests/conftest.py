"""Sessions of pytest with the plugin, in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> None:
    """Skip the test without root; in CI, fail."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root")


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """What runs a session."""
    return _run


def _run(folder: Path, text: str, *words: str, prefix: tuple[str, ...] = ()) -> str:
    """Return the output of a session with one file of tests."""
    file = folder / "test_it.py"
    file.write_text(text)
    command = [*prefix, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *words]
    if not _is_installed():
        command += ["-p", "hogpipe_pytest"]
    done = subprocess.run(
        [*command, file.name], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def _is_installed() -> bool:
    return "hogpipe_pytest" in {one.value for one in entry_points(group="pytest11")}
