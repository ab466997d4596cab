"""Programs under test, started inside a namespace and ended by their own process id."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import IO, Any

from support.namespaces import Namespace

PEER = Path(__file__).with_name("peer.py")
PING = Path(__file__).with_name("ping.py")
PATIENCE = 30.0  # seconds until a test fails that waits for something


def without_times(text: str) -> str:
    """Return the lines of a log without the times in front of them (tests/test_logs.py)."""
    return re.sub(r"^\d{4}-\d\d-\d\dT[\d:.]+Z (?=hogpipe: )", "", text, flags=re.MULTILINE)


class Running:
    """A program whose stderr is read by a thread, so that a test can wait for a line of it.

    `errors` are its lines, without times.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.errors: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, args=(process.stderr,))
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in map(without_times, stream):
            self.errors.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str) -> None:
        """Wait until a line of stderr matches."""
        self.wait_for_each(pattern)

    def wait_for_each(self, *patterns: str) -> None:
        """Wait until each pattern has matched a line of stderr, in any order."""
        missing = set(patterns)
        while missing:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, f"ended before {missing!r}: {self.errors}"
            missing = {pattern for pattern in missing if not re.search(pattern, line)}

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        """Kill the program if it is still running."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def running(where: Namespace | None, *words: str | Path, **options: Any) -> Iterator[Running]:
    """Run a program, in a namespace or here; the program may not start children."""
    command = where.command(*words) if where else [str(word) for word in words]
    process = subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)
    run = Running(process)
    try:
        yield run
    finally:
        run.close()


@contextmanager
def inhabitant(where: Namespace) -> Iterator[Running]:
    """Keep a process in a namespace, which it has entered when the context begins."""
    with running(where, "sh", "-c", "echo entered >&2; exec sleep 60") as run:
        run.wait_for("entered")
        yield run


@contextmanager
def hogpipe(where: Namespace | None, *words: str | Path, **options: Any) -> Iterator[Running]:
    """Run hogpipe with these arguments."""
    with running(where, sys.executable, "-m", "hogpipe", *words, **options) as run:
        yield run


@contextmanager
def tcpdump(where: Namespace, interface: str, path: Path) -> Iterator[Running]:
    """Capture an interface into a file; `end` it before the file is read."""
    words = [
        "tcpdump",
        "-i",
        interface,
        "-w",
        path,
        "-s",
        "128",
        "--immediate-mode",
        "-U",
        "-B",
        "16384",
        "-Z",
        "root",
    ]
    with running(where, *words) as run:
        run.wait_for("listening on")
        yield run


@contextmanager
def peer(where: Namespace, *words: str, program: Path = PEER) -> Iterator[dict[str, Any]]:
    """Run support/peer.py, or another such program; yields its report, and ends it after that."""
    with running(
        where, sys.executable, program, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.process.stdout is not None
        line = run.process.stdout.readline()
        assert line, run.errors
        yield json.loads(line)
        assert run.process.stdin is not None
        run.process.stdin.close()
        assert run.wait() == 0, run.errors


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.05)


def write_config(folder: Path, text: str) -> Path:
    """Write a configuration into `folder` and return its path."""
    path = folder / "config.toml"
    path.write_text(text)
    return path


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON lines file, each a whole line."""
    text = path.read_text()
    assert text.endswith("\n")
    # Not by splitlines(): a name may have other line ends, which JSON need not escape.
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def traffic_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == "traffic"]


def stats_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == "stats"]


def balance(records: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return the bytes of all traffic records, and the same by the counters in stats records."""
    recorded = sum(
        record["network"]["io"][way]["bytes"]
        for record in traffic_of(records)
        for way in ("transmit", "receive")
    )
    counted = 0
    for record in stats_of(records):
        capture = record["capture"]
        counted += capture["bytes"] + capture["both_sides"]["bytes"]
        counted -= sum(capture[key]["bytes"] for key in ("not_local", "not_ip", "undecoded"))
        counted -= record["attribution"]["translated"]["bytes"]
    return recorded, counted


def imbalances(records: Sequence[dict[str, Any]]) -> list[int]:
    """Return by how many bytes records and counters differ at each stats record.

    docs/record.md, "Conservation of bytes": each sum is over all records up to there.
    """
    found = []
    for number, record in enumerate(records, 1):
        if record["type"] == "stats":
            recorded, counted = balance(records[:number])
            found.append(counted - record["attribution"]["pending"]["bytes"] - recorded)
    return found


def assert_conserved(records: Sequence[dict[str, Any]]) -> None:
    """Assert that records and counters add up to what was captured, and nothing was dropped."""
    recorded, counted = balance(records)
    assert recorded == counted > 0, (recorded, counted)
    for record in stats_of(records):
        assert record["capture"]["dropped"] == {"kernel": 0, "interface": 0}, record
    assert stats_of(records)[-1]["attribution"]["pending"] == {"flows": 0, "bytes": 0}
