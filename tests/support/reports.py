"""Records, files of them, and stores that read them, for tests of `hogpipe report`."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from hogpipe.cli import commands
from hogpipe.records.schema import Record
from hogpipe.report.filters import parse_filters
from hogpipe.report.progress import Waiter
from hogpipe.report.question import Question
from hogpipe.report.record_columns import list_columns
from hogpipe.report.source_files import open_store
from hogpipe.report.traffic_store import TrafficStore
from hogpipe.signals import StopSignals
from support.histories import START_MS, Run, write, writing

START = START_MS / 1000


def make_windows(count: int = 3) -> list[list[Record]]:
    """Return windows of a second: curl with 100 bytes, nginx with 10 and 1 by two processes."""
    run = Run()
    traffic = [("curl", 3, 100), ("nginx", 1, 10), ("nginx", 2, 1)]
    return [run.window(START_MS + 1000 * second, 1000, traffic) for second in range(count)]


def write_lines(path: Path, windows: Iterable[Sequence[object]]) -> Path:
    """Write records as JSON lines, compressed if the path says so."""
    lines = "".join(json.dumps(record) + "\n" for window in windows for record in window)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def write_history(path: Path, windows: Iterable[Sequence[Record]]) -> Path:
    """Write records to a history."""
    with writing(path) as writer:
        write(writer, *windows)
    return path


@contextmanager
def stored(*sources: str | Path) -> Iterator[TrafficStore]:
    """Open a store of these sources."""
    with open_store([str(one) for one in sources], Waiter()) as store:
        yield store


def ask(
    *by: str,
    only: Sequence[str] = (),
    top: int | None = None,
    health: bool = False,
    **span: float,
) -> Question:
    """Return a question."""
    return Question(list_columns(by), parse_filters(only), top=top, health=health, **span)


def run_command(*words: str | Path, stdin: bytes | None = None) -> Result:
    """Run `hogpipe report`; its errors and log lines are in `stderr`."""
    arguments = ["report", *map(str, words)]
    return CliRunner().invoke(commands, arguments, input=stdin, obj=StopSignals())


def read_objects(lines: str) -> list[dict[str, Any]]:
    """Return the objects of JSON lines."""
    return [json.loads(line) for line in lines.splitlines()]
