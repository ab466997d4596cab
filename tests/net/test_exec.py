"""exec and moves between control groups during a connection, in each way to find the owner.

A process keeps one connection, on which it transmits what the test writes to its input: so the test
decides when bytes pass, and waits for what the records say about them. Time is counted in windows,
which pass as slowly as everything else if the host is busy.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import find_cgroup_root, require_bpf
from support.namespaces import Namespace, namespace, require
from support.running import (
    PATIENCE,
    Running,
    assert_conserved,
    read_records,
    running,
    traffic_of,
    write_config,
)

CONFIG = """
[capture]
{capture}
[attribution]
ledger = "{ledger}"
[aggregation]
interval = 0.25
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
LO = 'interfaces = ["lo"]'
WAYS = {"off": (LO, "off"), "ledger": (LO, "on"), "ebpf": ('source = "ebpf"', "auto")}
# Passes its input on to the connection; from the line "exec" on, another program does.
SENDER = """
import os, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
for line in sys.stdin.buffer.raw:
    if line == b"exec\\n":
        os.dup2(connection.fileno(), 1)
        os.execv("/bin/cat", ["cat"])
    connection.sendall(line)
"""
SINK = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", 0))
selector.register(listener, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
while True:
    for key, _ in selector.select():
        if key.fileobj is sys.stdin:
            sys.exit()
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
        elif not key.fileobj.recv(1 << 20):
            selector.unregister(key.fileobj)
"""
CHUNK = b"x" * 999 + b"\n"
BURST = 100  # chunks after a change that was recorded
OLD_ENOUGH = 5  # windows, after which a connection is not about to be looked up again
SOON = 5  # windows

Records = list[dict[str, Any]]


class Run:
    """A run of hogpipe with the interval of CONFIG, and a process with a connection."""

    def __init__(self, hogpipe: Running, records: Path, sender: "subprocess.Popen[bytes]") -> None:
        self.hogpipe = hogpipe
        self.pid = sender.pid
        self._records = records
        self._sender = sender

    def write(self, text: bytes) -> None:
        assert self._sender.stdin is not None
        self._sender.stdin.write(text)
        self._sender.stdin.flush()

    def read(self) -> Records:
        """Return what is recorded of the process by now."""
        text = self._records.read_text() if self._records.exists() else ""
        path = self._records.with_name("whole.jsonl")
        path.write_text(text[: text.rindex("\n") + 1] if "\n" in text else "\n")
        records = read_records(path) if "\n" in text else []
        return [one for one in traffic_of(records) if one.get("process", {}).get("pid") == self.pid]

    def transmit_until(self, holds: Callable[[Records], bool]) -> None:
        """Transmit until the condition holds for the records of the process."""
        patience = time.monotonic() + PATIENCE
        while not holds(self.read()):
            assert time.monotonic() < patience, self.read()
            self.write(CHUNK)
            time.sleep(0.02)

    def transmit(self, chunks: int) -> None:
        """Transmit, and wait until that much more is recorded."""
        before = sum(map(transmitted, self.read()))
        for _ in range(chunks):
            self.write(CHUNK)
        patience = time.monotonic() + PATIENCE
        while sum(map(transmitted, self.read())) < before + chunks * len(CHUNK):
            assert time.monotonic() < patience
            time.sleep(0.05)


def transmitted(record: dict[str, Any]) -> int:
    size: int = record["network"]["io"]["transmit"]["bytes"]
    return size


def program_of(record: dict[str, Any]) -> tuple[str, str]:
    """Return the two names of the program, which are the same."""
    return record["process"]["name"], record["process"]["executable"]["name"]


def unit_of(record: dict[str, Any]) -> str | None:
    unit: str | None = record.get("systemd", {}).get("unit")
    return unit


@pytest.fixture(scope="module", params=WAYS)
def where(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Namespace, Running, Path]]:
    """Run hogpipe in a namespace; all its records add up in the end."""
    require("ip", "nsenter")
    folder, (capture, ledger) = tmp_path_factory.mktemp("run"), WAYS[request.param]
    if request.param != "off":
        require_bpf()
    config = write_config(folder, CONFIG.format(capture=capture, ledger=ledger))
    with namespace() as made:
        words = made.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
        with running(None, *words) as hogpipe:
            hogpipe.wait_for("capturing on lo|counting at all sockets")
            yield made, hogpipe, folder / "records.jsonl"
            assert hogpipe.end() == 0, hogpipe.errors
        assert_conserved(read_records(folder / "records.jsonl"))


@pytest.fixture
def run(where: tuple[Namespace, Running, Path]) -> Iterator[Run]:
    """Connect a process, and transmit on the connection until it is not new any more."""
    made, hogpipe, records = where
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen(made.enter(sys.executable, "-c", SINK), **pipes) as sink,  # type: ignore[call-overload]
        ExitStack() as stack,
    ):
        port = sink.stdout.readline().decode().strip()
        words = made.enter(sys.executable, "-c", SENDER, port)
        sender = stack.enter_context(subprocess.Popen(words, **pipes))  # type: ignore[call-overload]
        sender.stdout.readline()
        run = Run(hogpipe, records, sender)
        run.transmit_until(lambda records: len(records) >= OLD_ENOUGH)
        yield run


@contextmanager
def control_groups(*names: str) -> Iterator[Callable[[str, int], None]]:
    """Make control groups as systemd does, and give a function that moves a process into one."""
    roots = [find_cgroup_root()]
    if (systemd := Path("/sys/fs/cgroup/systemd")).is_dir():
        roots.append(systemd)
    folders = [root / name for root in roots for name in names]
    for folder in folders:
        folder.mkdir()

    def move(name: str, pid: int) -> None:
        for root in roots:
            (root / name / "cgroup.procs").write_text(str(pid))

    try:
        yield move
    finally:
        for folder in folders:
            folder.rmdir()


def test_bytes_after_exec_are_those_of_the_new_program(run: Run) -> None:
    (old,) = set(map(program_of, run.read()))
    run.write(b"exec\n")
    windows = len(run.read())
    run.transmit_until(lambda records: program_of(records[-1]) == ("cat", "cat"))
    waited = [one for one in run.read()[windows:] if program_of(one) == old]
    run.transmit(BURST)
    records = run.read()
    assert len(waited) <= SOON
    assert sum(map(transmitted, records)) >= BURST * len(CHUNK)
    by_program = [program_of(one) for one in records]
    change = by_program.index(("cat", "cat"))
    assert set(by_program[:change]) == {old}
    assert set(by_program[change:]) == {("cat", "cat")}
    assert sum(map(transmitted, records[change:])) >= BURST * len(CHUNK)


def test_bytes_after_a_move_are_those_of_the_new_unit(run: Run) -> None:
    names = [f"hogpipe-test-{run.pid}-{one}.service" for one in "ab"]
    with control_groups(*names) as move:
        try:
            for name in names:
                move(name, run.pid)
                windows = len(run.read())
                run.transmit_until(lambda records, name=name: unit_of(records[-1]) == name)
                waited = [one for one in run.read()[windows:] if unit_of(one) != name]
                assert len(waited) <= SOON
                run.transmit(BURST)
                assert {unit_of(one) for one in run.read()[windows + len(waited) :]} == {name}
        finally:
            for root in (find_cgroup_root(), Path("/sys/fs/cgroup/systemd")):
                if root.is_dir():
                    (root / "cgroup.procs").write_text(str(run.pid))
