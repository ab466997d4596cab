"""The lines of the log: their format, and the time or the priority in front of text."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from hogpipe.logs import JsonFormatter, Prefix, TextFormatter
from hogpipe.text import NOTICE

GOLDEN = Path(__file__).parent / "data" / "golden" / "config.toml"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
TOTALS = r"hogpipe: .* captured, .*"
HOSTILE = 'bad\n2026-01-01T00:00:00.000Z hogpipe: forged\x1b[2J "quoted" \u202e'


def _record(level: int, text: str = "sink %s: works", *words: object) -> logging.LogRecord:
    record = logging.LogRecord("hogpipe.delivery", level, "x.py", 1, text, words or ("tcp",), None)
    record.created, record.msecs = 1763794810.123, 123.0
    return record


@pytest.mark.parametrize(
    ("prefix", "level", "line"),
    [
        ("none", logging.WARNING, "hogpipe: WARNING: sink tcp: works"),
        ("none", NOTICE, "hogpipe: sink tcp: works"),
        ("none", logging.CRITICAL, "hogpipe: sink tcp: works"),
        ("time", logging.ERROR, "2025-11-22T07:00:10.123Z hogpipe: ERROR: sink tcp: works"),
        ("time", NOTICE, "2025-11-22T07:00:10.123Z hogpipe: sink tcp: works"),
        ("priority", logging.CRITICAL, "<2>hogpipe: sink tcp: works"),
        ("priority", logging.ERROR, "<3>hogpipe: ERROR: sink tcp: works"),
        ("priority", logging.WARNING, "<4>hogpipe: WARNING: sink tcp: works"),
        ("priority", NOTICE, "<5>hogpipe: sink tcp: works"),
        ("priority", logging.INFO, "<6>hogpipe: INFO: sink tcp: works"),
        ("priority", logging.DEBUG, "<7>hogpipe: DEBUG: sink tcp: works"),
    ],
)
def test_text_has_the_level_unless_it_is_a_notice_or_the_end(
    prefix: Prefix, level: int, line: str
) -> None:
    assert TextFormatter(prefix).format(_record(level)) == line


@pytest.mark.parametrize("prefix", ["none", "time", "priority"])
def test_a_hostile_text_begins_no_line_and_controls_no_terminal(prefix: Prefix) -> None:
    line = TextFormatter(prefix).format(_record(logging.WARNING, "%s", HOSTILE))
    assert line.isprintable()


def test_json_is_one_object_of_ascii() -> None:
    line = JsonFormatter().format(_record(logging.WARNING, "%s", HOSTILE))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "2025-11-22T07:00:10.123Z",
        "level": "warning",
        "logger": "hogpipe.delivery",
        "message": HOSTILE,
    }


@pytest.mark.parametrize(
    ("level", "name"),
    [(5, "debug"), (NOTICE, "notice"), (26, "notice"), (35, "warning"), (50, "critical")],
)
def test_levels_of_other_libraries_have_the_name_of_the_one_below(level: int, name: str) -> None:
    assert json.loads(JsonFormatter().format(_record(level)))["level"] == name


def test_a_traceback_is_part_of_the_object() -> None:
    record, error = _record(logging.DEBUG), ValueError(HOSTILE)
    record.exc_info = (ValueError, error, None)
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["exception"].endswith(f"ValueError: {HOSTILE}")


def _run(stderr: int | IO[bytes], *words: str | Path, journal: object = None) -> None:
    """Replay the golden savefile with this standard error output."""
    environ = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    if journal is not None:
        environ["JOURNAL_STREAM"] = str(journal)
    subprocess.run(
        [sys.executable, "-m", "hogpipe", "run", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=stderr, env=environ, check=False,
    )  # fmt: skip


def _run_into_file(
    folder: Path, *words: str | Path, journal: Callable[[os.stat_result], str] | None = None
) -> list[str]:
    path = folder / "stderr"
    with path.open("wb") as file:
        status = os.fstat(file.fileno())
        _run(file, *(words or [GOLDEN]), journal=journal(status) if journal else None)
    return path.read_text().splitlines()


def test_a_file_gets_times(tmp_path: Path) -> None:
    (line,) = _run_into_file(tmp_path)
    assert re.fullmatch(f"{TIME} {TOTALS}", line)


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    (line,) = _run_into_file(tmp_path, journal=lambda status: f"{status.st_dev}:{status.st_ino}")
    assert re.fullmatch(f"<5>{TOTALS}", line)


def test_a_file_gets_times_where_only_the_variable_is_that_of_the_journal(tmp_path: Path) -> None:
    (line,) = _run_into_file(tmp_path, journal=lambda status: f"{status.st_dev}:1")
    assert re.fullmatch(f"{TIME} {TOTALS}", line)


def test_a_terminal_gets_neither() -> None:
    reader, writer = pty.openpty()
    _run(writer, GOLDEN)
    shown = os.read(reader, 1 << 16).decode()
    os.close(reader)
    os.close(writer)
    assert re.fullmatch(f"{TOTALS}\r\n", shown)


def test_json_lines_of_a_run_and_of_its_end_are_objects(tmp_path: Path) -> None:
    savefile = tmp_path / "not.pcap"
    savefile.write_bytes(b"nothing")
    sinks = 'sinks=[{type="stdout"}]'
    (line,) = _run_into_file(
        tmp_path, "--read", savefile, "--set", "log.format=json", "--set", sinks
    )
    document = json.loads(line)
    assert list(document) == ["time", "level", "logger", "message"]
    assert re.fullmatch(TIME, document["time"])
    assert document["level"] == "critical"
    assert document["message"].startswith(f"capture.path: {savefile}: not a capture")


def test_errors_of_the_configuration_are_text(tmp_path: Path) -> None:
    wrong = ["--set", "log.format=json", "--set", "log.level=1"]
    problem = f"{GOLDEN}: log.level: unknown key; known: format"
    assert _run_into_file(tmp_path, GOLDEN, *wrong) == [f"hogpipe: {problem}"]
    lines = _run_into_file(
        tmp_path, GOLDEN, *wrong, journal=lambda status: f"{status.st_dev}:{status.st_ino}"
    )
    assert lines == [f"<2>hogpipe: {problem}"]
