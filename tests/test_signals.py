"""A signal ends or spares the command line in order, from the first line of the program on."""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from hogpipe import signals

HOGPIPE = [sys.executable, "-m", "hogpipe"]
GOLDEN = Path(__file__).parent / "data" / "golden" / "config.toml"
STOPPED = "hogpipe: stopped before the capture started"
INTERRUPTED = 128  # less the number of the signal
DELAYS = [0.1 * step for step in range(5)]
"""Seconds after the handlers are there. A replay takes longer, on any host that runs it slowly."""

AT_AN_IMPORT = """
import os, runpy, sys
module, number = sys.argv.pop(1), int(sys.argv.pop(1))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder())
runpy.run_module("hogpipe", run_name="__main__", alter_sys=True)
"""
PLUGIN = """
import os, signal
from hogpipe import hookimpl

os.kill(os.getpid(), signal.{number})

@hookimpl
def hogpipe_sinks():
    return []
"""


def run_program(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


def run_with_signal_at(
    module: str, number: int, *words: object
) -> "subprocess.CompletedProcess[str]":
    return run_program(sys.executable, "-c", AT_AN_IMPORT, module, int(number), *words)


def handles_signals(pid: int) -> bool:
    """Return whether the process has a handler for SIGTERM, which the interpreter has none for."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_stop_ends_the_process_only_if_an_earlier_one_was_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, ends, asked = [0.0], list[str](), list[signal.Signals]()
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(signals, "end_process", lambda line, _code: ends.append(line))
    stops = signals.StopSignals()
    stops.set_stop_action(asked.append)
    for at in (0.0, 5.0, 6.9):
        now[0] = at
        stops._handle_stop(signal.SIGINT, None)
        stops.answer()
    assert (len(asked), ends) == (3, [])
    now[0] = 7.1
    stops._handle_stop(signal.SIGINT, None)
    assert len(ends) == 1


def test_a_hangup_that_comes_before_its_action_is_kept() -> None:
    hangups, calls = signals.StopSignals(), list[int]()
    for _ in range(2):
        hangups._handle_hangup(signal.SIGHUP, None)
    hangups.set_hangup_action(lambda: calls.append(1))
    assert calls == [1]
    hangups._handle_hangup(signal.SIGHUP, None)
    assert calls == [1, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("module", ["hogpipe.cli", "numpy", "hogpipe.pipeline"])
def test_a_stop_during_the_imports_ends_a_run_with_a_line(
    module: str, number: signal.Signals
) -> None:
    done = run_with_signal_at(module, number, "run", GOLDEN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{STOPPED}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_stop_during_the_imports_ends_another_command_with_the_code_of_the_signal(
    number: signal.Signals,
) -> None:
    done = run_with_signal_at("asyncio", number, "check", GOLDEN)
    assert (done.returncode, done.stdout) == (INTERRUPTED + number, "")
    assert done.stderr == f"hogpipe: interrupted by {number.name}\n"


def test_a_hangup_during_the_imports_changes_nothing() -> None:
    done = run_with_signal_at("asyncio", signal.SIGHUP, "check", GOLDEN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid" in done.stdout


@pytest.mark.parametrize(
    ("number", "code", "error"),
    [("SIGTERM", 0, f"{STOPPED}\n"), ("SIGINT", 0, f"{STOPPED}\n"), ("SIGHUP", 0, "149 packets")],
)
def test_a_signal_while_plugins_are_loaded_ends_or_spares_a_run(
    tmp_path: Path, number: str, code: int, error: str
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN.format(number=number))
    paths = f'plugins.paths=["{tmp_path}/plugin.py"]'
    done = run_program(*HOGPIPE, "run", GOLDEN, "--set", paths)
    assert done.returncode == code
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name
)
def test_a_signal_at_any_time_after_the_start_ends_or_spares_a_run(number: signal.Signals) -> None:
    def run_with_signal_after(delay: float) -> tuple[int, str]:
        command = [*HOGPIPE, "run", GOLDEN]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while not handles_signals(process.pid):
                time.sleep(0.001)
            time.sleep(delay)  # any moment is right; the delays spread them
            process.send_signal(number)
            assert process.stderr is not None
            return process.wait(), process.stderr.read()

    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(run_with_signal_after, DELAYS))
    for code, errors in ends:
        (line,) = errors.splitlines()
        assert code == 0
        # Once the log is open, its lines begin with the time.
        assert "by owner" in line or (line.endswith(STOPPED) and number != signal.SIGHUP)
