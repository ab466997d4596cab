"""A signal ends a report wherever it arrives, and no work goes on without an interrupt."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from threading import Event
from typing import Any

import duckdb
import pytest
from support.reports import make_windows, write_lines

from hogpipe.report.progress import Waiter
from hogpipe.report.source_files import open_store


def test_a_signal_while_duckdb_starts_ends_the_report_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "x.jsonl", make_windows(1))
    waiter, connect, connected = Waiter(), duckdb.connect, Event()

    def connect_slowly(*arguments: Any, **options: Any) -> object:
        waiter.stop(SIGTERM)
        connected.set()
        return connect(*arguments, **options)

    monkeypatch.setattr(duckdb, "connect", connect_slowly)
    with pytest.raises(SystemExit), open_store([str(path)], waiter):
        pass
    assert connected.is_set()


def test_a_signal_while_work_starts_interrupts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waiter, interrupted, submit = Waiter(), Event(), ThreadPoolExecutor.submit

    def submit_slowly(executor: ThreadPoolExecutor, work: Any) -> object:
        future = submit(executor, work)
        waiter.stop(SIGTERM)
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_slowly)
    with pytest.raises(SystemExit):
        waiter.wait(lambda: interrupted.wait(10), lambda: 0.0, interrupted.set)
    assert interrupted.is_set()
