"""A plugin fails in each place where it is called: the run logs one line and loses nothing.

Each plugin is a real file, loaded by `hogpipe run`, beside a `jsonl` sink that must get all
records.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from support.running import without_times

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
OK, BAD_CONFIGURATION = 0, 78
ALL = list(range(1, 8))
"""The sequence of each record of the replay."""

# A sink that appends sequences to a file; a test replaces lines of it.
SOUND = """
import asyncio
import sys
import threading
import time
from pathlib import Path
from hogpipe import SinkSettings, SinkType, hookimpl

# at import

class Settings(SinkSettings, frozen=True, kw_only=True):
    path: Path

class Sink:
    opened = written = 0

    def __init__(self, settings):
        self.path = settings.path
        # at create

    async def open(self):
        self.opened += 1
        # at open

    async def write(self, records):
        self.written += 1
        # at write
        with self.path.open("a") as file:
            file.writelines(f"{record['sequence']}\\n" for record in records)

    async def close(self):
        pass
        # at close

@hookimpl
def hogpipe_sinks():
    # at the hook
    return [SinkType("mine", Settings, Sink)]
"""


class Outcome:
    """The result of a run with such a plugin."""

    def __init__(self, folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.stdout = done.returncode, done.stdout
        *self.lines, self.summary = without_times(done.stderr).splitlines() or [""]
        others, mine = folder / "others.jsonl", folder / "mine.txt"
        text = others.read_text() if others.exists() else ""
        self.others = [json.loads(line)["sequence"] for line in text.splitlines()]
        self.mine = [int(line) for line in mine.read_text().split()] if mine.exists() else []


def _run(
    folder: Path,
    changes: dict[str, str],
    *,
    used: bool = True,
    named: bool = True,
    more: str = "",
) -> Outcome:
    """Replay with a plugin in which `changes` replace places such as `open` by code.

    `used`: whether a sink uses the plugin. `named`: whether `paths` names the file, or its folder.
    """
    code = SOUND
    for place, line in changes.items():
        assert f"# at {place}\n" in code
        code = code.replace(f"# at {place}\n", f"{line}\n")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "bad.py").write_text(code)
    sink = f'[[sinks]]\ntype = "mine"\nname = "m"\npath = "mine.txt"\nretry_initial = 0.01\n{more}'
    config = folder / "config.toml"
    config.write_text(
        dedent(f"""
        [capture]
        source = "savefile"
        path = "{GOLDEN / "trace.pcap"}"
        [attribution]
        procfs = "{GOLDEN / "proc"}"
        [plugins]
        paths = ["plugins{"/bad.py" if named else ""}"]
        [[sinks]]
        type = "stdout"
        [[sinks]]
        type = "jsonl"
        path = "others.jsonl"
        """)
        + (sink if used else "")
    )
    words = [sys.executable, "-m", "hogpipe", "run", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return Outcome(folder, done)


def _assert_success(outcome: Outcome, *lines: str) -> None:
    """The run succeeded, the other sinks got all records, and exactly these lines were logged."""
    assert outcome.code == OK
    assert outcome.others == ALL
    printed = [json.loads(line)["sequence"] for line in outcome.stdout.splitlines()]
    assert printed == ALL
    assert "7 records" in outcome.summary
    assert len(outcome.lines) == len(lines), outcome.lines
    for line, pattern in zip(outcome.lines, lines, strict=True):
        assert re.fullmatch(f"hogpipe: {pattern}", line), line


def test_a_correct_plugin_gets_all_records(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {})
    _assert_success(outcome)
    assert outcome.mine == ALL


RAISED = [("raise RuntimeError('no')", "RuntimeError: no"), ("sys.exit(3)", "SystemExit: 3")]


@pytest.mark.parametrize(("line", "error"), RAISED)
@pytest.mark.parametrize("place", ["import", "the hook"])
def test_a_plugin_that_cannot_be_loaded_is_left_out_and_logged(
    tmp_path: Path, place: str, line: str, error: str
) -> None:
    outcome = _run(tmp_path, {place: line}, used=False, named=False)
    where = rf"\({tmp_path}/plugins/bad\.py\): {error} \(bad\.py, line \d+\)"
    _assert_success(outcome, f"WARNING: plugin bad failed to load and is left out {where}")


@pytest.mark.parametrize("place", ["import", "the hook"])
def test_a_configured_plugin_that_cannot_be_loaded_prevents_the_start(
    tmp_path: Path, place: str
) -> None:
    outcome = _run(tmp_path, {place: "raise RuntimeError('no')"}, used=False)
    assert outcome.code == BAD_CONFIGURATION
    assert outcome.others == []
    assert re.fullmatch(
        rf"hogpipe: {tmp_path}/config\.toml: plugins\.paths\[0\]: "
        rf'"{tmp_path}/plugins/bad\.py" failed to load: RuntimeError: no \(bad\.py, line \d+\)',
        outcome.summary,
    )


def test_the_error_of_a_sink_whose_plugin_cannot_be_loaded_names_the_reason(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"import": "raise RuntimeError('no')"}, named=False)
    assert outcome.code == BAD_CONFIGURATION
    text = "\n".join([*outcome.lines, outcome.summary])
    assert 'sinks[2].type: unknown sink type "mine"' in text
    assert "plugins.bad: failed to load, and the unknown sink type may be its own" in text


def test_a_plugin_with_the_sink_type_of_another_is_left_out(tmp_path: Path) -> None:
    changes = {"the hook": 'return [SinkType("jsonl", Settings, Sink)]'}
    outcome = _run(tmp_path, changes, used=False, named=False)
    taken = r"ValueError: the sink type 'jsonl' is taken by builtin \(built-in\)"
    _assert_success(outcome, f"WARNING: plugin bad failed to load and is left out .*: {taken}")


def test_a_plugin_made_for_a_newer_hogpipe_is_left_out(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"import": "HOGPIPE_API = 99"}, used=False, named=False)
    error = "ImportError: it was made for plugin API 99, and hogpipe has 1; upgrade hogpipe"
    _assert_success(outcome, f"WARNING: plugin bad failed to load and is left out .*: {error}")


@pytest.mark.parametrize(
    ("place", "line", "text"),
    [
        ("create", "raise RuntimeError('no')", "cannot be made: RuntimeError: no"),
        ("create", "sys.exit(3)", "cannot be made: SystemExit: 3"),
        ("open", "raise RuntimeError('no')", "cannot be opened: RuntimeError: no"),
        ("open", "sys.exit(3)", "cannot be opened: RuntimeError: the sink raised SystemExit: 3"),
    ],
)
def test_a_bug_before_the_run_prevents_the_start(
    tmp_path: Path, place: str, line: str, text: str
) -> None:
    outcome = _run(tmp_path, {place: line})
    assert outcome.code == BAD_CONFIGURATION
    assert outcome.lines == []
    assert re.fullmatch(rf"hogpipe: sink m: {text} \(bad\.py, line \d+\)", outcome.summary)


@pytest.mark.parametrize(("line", "error"), RAISED)
def test_a_bug_in_the_check_of_settings_prevents_the_start(
    tmp_path: Path, line: str, error: str
) -> None:
    check = f"def check(settings): {line}\n    "
    changes = {"the hook": f'{check}return [SinkType("mine", Settings, Sink, check)]'}
    outcome = _run(tmp_path, changes)
    assert outcome.code == BAD_CONFIGURATION
    where = f"hogpipe: {tmp_path}/config.toml: sinks[2]: "
    assert outcome.summary == f"{where}cannot be checked: {error}"


def test_a_factory_may_raise_a_configuration_error(tmp_path: Path) -> None:
    line = "from hogpipe import ConfigurationError; raise ConfigurationError('path: not that one')"
    outcome = _run(tmp_path, {"create": line})
    assert outcome.code == BAD_CONFIGURATION
    assert outcome.summary == "hogpipe: sink m: path: not that one"


def test_an_open_that_fails_for_now_delays_no_other_and_loses_nothing(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"open": "if self.opened < 3: raise OSError('not yet')"})
    _assert_success(
        outcome,
        "WARNING: sink m: fails, and is retried: OSError: not yet",
        "WARNING: sink m: works again",
    )
    assert outcome.mine == ALL


@pytest.mark.parametrize("line", ["await asyncio.sleep(0.8)", "time.sleep(0.7)"])
def test_a_sink_that_opens_late_loses_nothing(tmp_path: Path, line: str) -> None:
    outcome = _run(tmp_path, {"open": line})
    _assert_success(outcome)
    assert outcome.mine == ALL


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("sys.exit(3)", "RuntimeError: the sink raised SystemExit: 3"),
        ("raise KeyboardInterrupt", "RuntimeError: the sink raised KeyboardInterrupt"),
        ("raise asyncio.CancelledError", "RuntimeError: the sink was cancelled from within"),
    ],
)
def test_a_bug_in_write_costs_that_sink_that_window(tmp_path: Path, line: str, error: str) -> None:
    outcome = _run(tmp_path, {"write": f"if self.written == 1: {line}"})
    _assert_success(outcome, rf"ERROR: sink m: drops 3 records: {error}( \(bad\.py, line \d+\))?")
    assert outcome.mine == ALL[3:]


def test_a_write_that_fails_for_now_loses_nothing(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"write": "if self.written < 3: raise OSError('full')"})
    _assert_success(
        outcome,
        "WARNING: sink m: fails, and is retried: OSError: full",
        "WARNING: sink m: works again",
    )
    assert outcome.mine == ALL


def test_a_write_that_refuses_cancellation_loses_nothing(tmp_path: Path) -> None:
    refusing = (
        "if self.written == 1:\n"
        "            for _ in range(6):\n"
        "                try: await asyncio.sleep(0.2)\n"
        "                except asyncio.CancelledError: pass"
    )
    outcome = _run(tmp_path, {"write": refusing}, more="write_timeout = 0.1\n")
    _assert_success(
        outcome,
        r"WARNING: sink m: fails, and is retried: TimeoutError: it took longer than 0\.1 s",
        "WARNING: sink m: works again",
    )
    assert sorted(set(outcome.mine)) == ALL


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("sys.exit(3)", "RuntimeError: the sink raised SystemExit: 3"),
        ("await asyncio.sleep(60)", r"TimeoutError: it took longer than 0\.4 s"),
    ],
)
def test_a_sink_that_cannot_be_closed_has_all_records(
    tmp_path: Path, line: str, error: str
) -> None:
    outcome = _run(tmp_path, {"close": line})
    _assert_success(outcome, f"WARNING: sink m: cannot be closed: {error}")
    assert outcome.mine == ALL


@pytest.mark.parametrize("daemon", [True, False])
def test_threads_of_a_plugin_do_not_prevent_the_end(tmp_path: Path, daemon: bool) -> None:
    line = f"threading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()"
    outcome = _run(tmp_path, {"import": line, "open": line, "write": line})
    _assert_success(outcome)
    assert outcome.mine == ALL


def test_text_printed_by_a_plugin_does_not_mix_with_records(tmp_path: Path) -> None:
    places = ["import", "the hook", "create", "open", "write", "close"]
    outcome = _run(tmp_path, {place: f"print('here is {place}')" for place in places})
    assert [json.loads(line)["sequence"] for line in outcome.stdout.splitlines()] == ALL
    assert outcome.mine == ALL
    assert set(outcome.lines) == {f"here is {place}" for place in places}
    assert "7 records" in outcome.summary
