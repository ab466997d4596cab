"""A plugin may fail in every place where it is called: the run says so in a line and loses nothing.

Each is a real file, loaded and run by `hogpipe run`, beside a `jsonl` sink that must get all.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

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
    """What a run with such a plugin came to."""

    def __init__(self, folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.stdout = done.returncode, done.stdout
        *self.told, self.summary = done.stderr.splitlines() or [""]
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
    """Replay with a plugin of which `changes` replace places such as `open` by code.

    It is `used` by a sink or not, and `named` as a file or found in a folder.
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


def _assert_well(outcome: Outcome, *told: str) -> None:
    """The run ended as it should, the other sinks got all, and these lines were told, no others."""
    assert outcome.code == OK
    assert outcome.others == ALL
    printed = [json.loads(line)["sequence"] for line in outcome.stdout.splitlines()]
    assert printed == ALL
    assert "7 records" in outcome.summary
    assert len(outcome.told) == len(told), outcome.told
    for line, pattern in zip(outcome.told, told, strict=True):
        assert re.fullmatch(f"hogpipe: {pattern}", line), line


def test_a_sound_plugin_gets_all(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {})
    _assert_well(outcome)
    assert outcome.mine == ALL


RAISED = [("raise RuntimeError('no')", "RuntimeError: no"), ("sys.exit(3)", "SystemExit: 3")]


@pytest.mark.parametrize(("line", "error"), RAISED)
@pytest.mark.parametrize("place", ["import", "the hook"])
def test_one_that_cannot_be_loaded_is_left_out_and_told(
    tmp_path: Path, place: str, line: str, error: str
) -> None:
    outcome = _run(tmp_path, {place: line}, used=False, named=False)
    where = rf"\({tmp_path}/plugins/bad\.py\): {error} \(bad\.py, line \d+\)"
    _assert_well(outcome, f"WARNING: plugin bad failed to load and is left out {where}")


@pytest.mark.parametrize("place", ["import", "the hook"])
def test_one_that_the_configuration_names_keeps_the_run_from_starting_if_it_cannot_be_loaded(
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


def test_the_sink_of_one_that_cannot_be_loaded_is_told_with_the_reason(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"import": "raise RuntimeError('no')"}, named=False)
    assert outcome.code == BAD_CONFIGURATION
    told = "\n".join([*outcome.told, outcome.summary])
    assert 'sinks[2].type: unknown sink type "mine"' in told
    assert "plugins.bad: failed to load, and the unknown sink type may be its own" in told


def test_one_that_takes_a_name_that_is_taken_is_left_out(tmp_path: Path) -> None:
    changes = {"the hook": 'return [SinkType("jsonl", Settings, Sink)]'}
    outcome = _run(tmp_path, changes, used=False, named=False)
    taken = r"ValueError: the sink type 'jsonl' is taken by builtin \(built-in\)"
    _assert_well(outcome, f"WARNING: plugin bad failed to load and is left out .*: {taken}")


def test_one_that_was_made_for_a_newer_hogpipe_is_left_out(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"import": "HOGPIPE_API = 99"}, used=False, named=False)
    error = "ImportError: it was made for plugin API 99, and hogpipe has 1; upgrade hogpipe"
    _assert_well(outcome, f"WARNING: plugin bad failed to load and is left out .*: {error}")


@pytest.mark.parametrize(
    ("place", "line", "told"),
    [
        ("create", "raise RuntimeError('no')", "cannot be made: RuntimeError: no"),
        ("create", "sys.exit(3)", "cannot be made: SystemExit: 3"),
        ("open", "raise RuntimeError('no')", "cannot be opened: RuntimeError: no"),
        ("open", "sys.exit(3)", "cannot be opened: RuntimeError: the sink raised SystemExit: 3"),
    ],
)
def test_a_bug_before_the_run_keeps_it_from_starting(
    tmp_path: Path, place: str, line: str, told: str
) -> None:
    outcome = _run(tmp_path, {place: line})
    assert outcome.code == BAD_CONFIGURATION
    assert outcome.told == []
    assert re.fullmatch(rf"hogpipe: sink m: {told} \(bad\.py, line \d+\)", outcome.summary)


@pytest.mark.parametrize(("line", "error"), RAISED)
def test_a_bug_in_its_look_at_the_settings_keeps_the_run_from_starting(
    tmp_path: Path, line: str, error: str
) -> None:
    check = f"def check(settings): {line}\n    "
    changes = {"the hook": f'{check}return [SinkType("mine", Settings, Sink, check)]'}
    outcome = _run(tmp_path, changes)
    assert outcome.code == BAD_CONFIGURATION
    where = f"hogpipe: {tmp_path}/config.toml: sinks[2]: "
    assert outcome.summary == f"{where}cannot be checked: {error}"


def test_what_is_wrong_with_the_settings_may_be_told_when_the_sink_is_made(tmp_path: Path) -> None:
    line = "from hogpipe import ConfigurationError; raise ConfigurationError('path: not that one')"
    outcome = _run(tmp_path, {"create": line})
    assert outcome.code == BAD_CONFIGURATION
    assert outcome.summary == "hogpipe: sink m: path: not that one"


def test_what_may_pass_when_it_opens_holds_up_nobody_and_loses_nothing(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"open": "if self.opened < 3: raise OSError('not yet')"})
    _assert_well(
        outcome,
        "WARNING: sink m: fails, and is retried: OSError: not yet",
        "WARNING: sink m: works again",
    )
    assert outcome.mine == ALL


@pytest.mark.parametrize("line", ["await asyncio.sleep(0.8)", "time.sleep(0.7)"])
def test_one_that_opens_late_loses_nothing(tmp_path: Path, line: str) -> None:
    outcome = _run(tmp_path, {"open": line})
    _assert_well(outcome)
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
def test_a_bug_in_write_costs_that_window_of_that_sink(
    tmp_path: Path, line: str, error: str
) -> None:
    outcome = _run(tmp_path, {"write": f"if self.written == 1: {line}"})
    _assert_well(outcome, rf"ERROR: sink m: drops 3 records: {error}( \(bad\.py, line \d+\))?")
    assert outcome.mine == ALL[3:]


def test_what_may_pass_when_it_writes_loses_nothing(tmp_path: Path) -> None:
    outcome = _run(tmp_path, {"write": "if self.written < 3: raise OSError('full')"})
    _assert_well(
        outcome,
        "WARNING: sink m: fails, and is retried: OSError: full",
        "WARNING: sink m: works again",
    )
    assert outcome.mine == ALL


def test_one_that_goes_on_writing_after_it_was_given_up_loses_nothing(tmp_path: Path) -> None:
    stubborn = (
        "if self.written == 1:\n"
        "            for _ in range(6):\n"
        "                try: await asyncio.sleep(0.2)\n"
        "                except asyncio.CancelledError: pass"
    )
    outcome = _run(tmp_path, {"write": stubborn}, more="write_timeout = 0.1\n")
    _assert_well(
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
def test_one_that_cannot_be_closed_has_got_all_before(
    tmp_path: Path, line: str, error: str
) -> None:
    outcome = _run(tmp_path, {"close": line})
    _assert_well(outcome, f"WARNING: sink m: cannot be closed: {error}")
    assert outcome.mine == ALL


@pytest.mark.parametrize("daemon", [True, False])
def test_threads_that_it_leaves_do_not_keep_the_run_from_ending(
    tmp_path: Path, daemon: bool
) -> None:
    line = f"threading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()"
    outcome = _run(tmp_path, {"import": line, "open": line, "write": line})
    _assert_well(outcome)
    assert outcome.mine == ALL


def test_what_it_prints_does_not_get_in_among_the_records(tmp_path: Path) -> None:
    places = ["import", "the hook", "create", "open", "write", "close"]
    outcome = _run(tmp_path, {place: f"print('here is {place}')" for place in places})
    assert [json.loads(line)["sequence"] for line in outcome.stdout.splitlines()] == ALL
    assert outcome.mine == ALL
    assert set(outcome.told) == {f"here is {place}" for place in places}
    assert "7 records" in outcome.summary
