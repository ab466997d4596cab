"""A run ends in time and in order, whatever its sinks do and whenever a signal comes."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.namespaces import Namespace
from support.running import hogpipe, read_records, running, wait_until, write_config

from hogpipe.config import load

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
QUICKLY = 6.0
"""Seconds. A stop takes less than two by design; a sink that delays it takes eight or more."""

PLUGIN = """
import asyncio, time
from hogpipe import SinkSettings, SinkType, hookimpl

class Odd:
    def __init__(self, settings):
        pass
    async def open(self):
        {open}
    async def write(self, records):
        {write}
    async def close(self):
        {close}

@hookimpl
def hogpipe_sinks():
    return [SinkType("odd", SinkSettings, Odd)]
"""


def configure(folder: Path, **bodies: str) -> Path:
    """Write a configuration with a sink whose methods have these bodies, and one that works."""
    (folder / "odd.py").write_text(
        PLUGIN.format(**{"open": "pass", "write": "pass", "close": "pass", **bodies})
    )
    return write_config(
        folder,
        """
        [capture]
        interfaces = ["lo"]
        [aggregation]
        interval = 0.2
        [plugins]
        paths = ["odd.py"]
        [[sinks]]
        type = "odd"
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


@pytest.mark.parametrize(
    ("code", "bodies"),
    [
        (1, {"write": "await asyncio.to_thread(time.sleep, 15)"}),
        (1, {"write": "await asyncio.sleep(15)"}),
        (0, {"close": "await asyncio.to_thread(time.sleep, 15)"}),
        (0, {"close": "raise SystemExit(3)"}),
        (0, {"write": "raise SystemExit(3)"}),
        (0, {"write": "raise BaseException('odd')"}),
        (1, {"open": "raise OSError('later')"}),
        (1, {"open": "await asyncio.sleep(15)"}),
    ],
    ids=str,
)
def test_a_misbehaving_sink_neither_delays_the_end_nor_harms_the_other(
    netns: object, tmp_path: Path, code: int, bodies: dict[str, str]
) -> None:
    config = configure(tmp_path, **bodies)
    with hogpipe(netns, "-v", "run", config) as run:  # type: ignore[arg-type]
        run.wait_for("capturing on lo")
        time.sleep(1)
        signalled = time.monotonic()
        assert run.end() == code, run.errors
        assert time.monotonic() - signalled < QUICKLY
    assert any("records not delivered" in line for line in run.errors) == bool(code)
    assert not any("Traceback" in line for line in run.errors)
    sequences = [record["sequence"] for record in read_records(tmp_path / "records.jsonl")]
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) > 3


def test_a_sink_that_blocks_the_event_loop_is_named_while_it_does(
    netns: object, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    waits = f"while not __import__('os').path.exists({str(released)!r}): time.sleep(0.01)"
    with hogpipe(netns, "run", configure(tmp_path, write=waits)) as run:  # type: ignore[arg-type]
        run.wait_for(r"sink odd: blocks the event loop \(odd.py, line \d+\)")
        released.touch()
        path = tmp_path / "records.jsonl"
        wait_until(lambda: path.exists() and path.stat().st_size > 0)


def test_a_sink_that_blocks_each_write_costs_the_run_its_own_records_only(
    netns: object, tmp_path: Path
) -> None:
    config = configure(tmp_path, write="time.sleep(2.5)")
    with hogpipe(netns, "run", config, "--duration", "3") as run:  # type: ignore[arg-type]
        assert run.wait() == 1
    totals = run.errors[-1]
    records = read_records(tmp_path / "records.jsonl")
    assert [record["sequence"] for record in records] == list(range(1, len(records) + 1))
    assert f", {len(records)} records;" in totals
    (line,) = (line for line in run.errors if "records not delivered" in line)
    assert line.startswith("hogpipe: ERROR: sink odd: ")
    assert "(last error: blocks the event loop (odd.py, line " in line


def test_a_sink_that_blocks_everything_is_ended_by_the_second_signal(
    netns: object, tmp_path: Path
) -> None:
    config = configure(tmp_path, write="time.sleep(60)")
    with hogpipe(netns, "-v", "run", config) as run:  # type: ignore[arg-type]
        run.wait_for("capturing on lo")
        time.sleep(1)
        run.process.send_signal(signal.SIGINT)
        time.sleep(2.2)
        assert run.end() == 1
    assert run.errors[-1] == "hogpipe: the run does not stop; process terminated\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_sinks_are_opened_ends_the_run_quietly(
    netns: object, tmp_path: Path, number: signal.Signals
) -> None:
    started = "__import__('sys').stderr.write('opening\\n'); await asyncio.sleep(15)"
    config = configure(tmp_path, open=started)
    with hogpipe(netns, "run", config) as run:  # type: ignore[arg-type]
        run.wait_for("opening")
        assert run.end(number) == 0
    assert not any("Traceback" in line for line in run.errors)


def test_a_signal_at_the_very_end_of_opening_ends_the_run(netns: Namespace, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from hogpipe import cli
from hogpipe.pipeline import Pipeline
open_all = Pipeline.open
async def open_and_be_interrupted(self):
    await open_all(self)
    os.kill(os.getpid(), signal.SIGINT)
Pipeline.open = open_and_be_interrupted
sys.argv[0] = "hogpipe"
cli.main()
"""
    config = configure(tmp_path)
    with running(netns, sys.executable, "-c", program, "run", config) as run:
        assert run.wait() == 0
    assert "records; by owner" in run.errors[-1]


def test_many_signals_end_the_run_like_one(netns: object, tmp_path: Path) -> None:
    with hogpipe(netns, "-v", "run", configure(tmp_path)) as run:  # type: ignore[arg-type]
        path = tmp_path / "records.jsonl"
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        for _ in range(20):
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert run.wait() == 0
    assert "records; by owner" in run.errors[-1]


def test_a_replay_waits_for_a_collector_that_comes_late(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = write_config(
        tmp_path,
        f"""
        [capture]
        source = "savefile"
        path = "{GOLDEN}/trace.pcap"
        [attribution]
        procfs = "{GOLDEN}/proc"
        [[sinks]]
        type = "tcp"
        host = "127.0.0.1"
        port = {port}
        retry_max = 0.5
        """,
    )
    lines: list[str] = []

    def collect() -> None:
        time.sleep(2.5)
        with socket.create_server(("127.0.0.1", port)) as listener:
            connection, _peer = listener.accept()
            with connection, connection.makefile() as stream:
                lines.extend(stream)

    collector = threading.Thread(target=collect)
    collector.start()
    with hogpipe(None, "run", config) as run:
        assert run.wait() == 0, run.errors
    collector.join()
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]


def test_an_unexpected_error_is_reported_in_one_line() -> None:
    program = (
        "import sys, hogpipe.cli as cli, hogpipe.config.load as load\n"
        "def fail(*_): raise ExceptionGroup('several', [ValueError('odd\\x1b[31m')])\n"
        "load.read_tables = fail\n"
        "sys.argv = ['hogpipe', 'check', 'x.toml']\n"
        "cli.main()\n"
    )
    assert hasattr(load, "read_tables")
    with running(None, sys.executable, "-c", program, stdout=subprocess.PIPE) as run:
        assert run.wait() == 1
    assert run.errors == ["hogpipe: ValueError: odd\\x1b[31m (run with -vv for details)\n"]
