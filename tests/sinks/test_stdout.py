"""Standard output: whole lines, a reader that leaves, a reader that stalls."""

import asyncio
import io
import json
import logging
import os
import pty
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sinks import traffic

from hogpipe.errors import ConfigurationError, OutputClosedError
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink

PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from support.sinks import traffic
from hogpipe.errors import OutputClosedError
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink

async def main():
    sink = StdoutSink(StdoutSettings(type="stdout"))
    await sink.open()
    print("ready", file=sys.stderr, flush=True)
    try:
        async with asyncio.timeout(float(sys.argv[2])):
            while True:
                await sink.write([traffic(n) for n in range(100)])
    except OutputClosedError:
        print("left behind in the buffer")
        print("closed", file=sys.stderr)
    except TimeoutError:
        print("gave up", file=sys.stderr)
    await sink.close()

asyncio.run(main())
"""


def _start(seconds: float) -> "subprocess.Popen[bytes]":
    tests = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tests), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _sink(descriptor: int, **changes: object) -> StdoutSink:
    return StdoutSink(StdoutSettings(type="stdout", **changes), descriptor)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, as its reading and its writing end; a test may close the reading one."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)
    try:
        os.close(reader)
    except OSError:
        return


async def test_a_pipe_gets_json_lines(pipe: tuple[int, int]) -> None:
    sink = _sink(pipe[1])
    await sink.open()
    await sink.write([traffic(1), traffic(2)])
    lines = os.read(pipe[0], 1 << 16).splitlines()
    assert [json.loads(line) for line in lines] == [traffic(1), traffic(2)]


class Terminal:
    """A terminal, as the two ends of a pty."""

    def __init__(self, lines: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(lines, columns)

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self.slave, (lines, columns))

    def read(self, end: str = "\x1b[J", tables: int = 1) -> str:
        """Return what was written since the last call, once it has the ends of so many tables."""
        data = ""
        while data.count(end) < tables:  # the kernel passes on what is written in parts
            readable, _, _ = select.select([self.master], [], [], 20)
            assert readable, f"no further output after {data!r}"
            data += os.read(self.master, 1 << 16).decode().replace("\r\n", "\n")
        return data

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


UP, ERASE_LINE, ERASE_BELOW, ERASE_SCREEN = "\r\x1b[{}A", "\x1b[K", "\x1b[J", "\x1b[H\x1b[2J"


async def test_a_terminal_gets_a_table_as_wide_as_it_is(terminal: Terminal) -> None:
    terminal.resize(24, 40)
    sink = _sink(terminal.slave)
    await sink.open()
    record = traffic(1)
    record["process"]["name"] = "x" * 100
    await sink.write([record])
    await sink.close()
    _, heading, row, *_ = terminal.read().split("\n")
    assert heading.removesuffix(ERASE_LINE).split() == ["PID", "PROGRAM", "TRANSMIT", "RECEIVE"]
    assert len(row) == 40  # at the edge nothing is erased
    assert ERASE_LINE not in row


async def test_a_table_replaces_the_one_before_on_a_terminal(terminal: Terminal) -> None:
    sink = _sink(terminal.slave)
    await sink.open()
    await sink.write([traffic(1), traffic(2, pid=2)])
    first = terminal.read()
    await sink.write([traffic(3)])
    second = terminal.read()
    await sink.close()
    assert "\x1b" not in first.replace(ERASE_LINE, "").removesuffix(ERASE_BELOW)
    assert first.count("\n") == 5
    assert second.startswith(UP.format(5) + "2026-11-22 07:00:00 UTC")
    assert second.endswith(f"{ERASE_LINE}\n{ERASE_BELOW}")
    assert second.count("\n") == 4


@pytest.mark.parametrize(
    ("chosen", "term"),
    [("table-scroll", "xterm"), ("auto", "dumb"), ("table", ""), ("table", None)],
)
async def test_a_table_follows_the_one_before_if_asked_to_or_if_the_cursor_cannot_move(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, chosen: str, term: str | None
) -> None:
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    sink = _sink(terminal.slave, format=chosen)
    await sink.open()
    await sink.write([traffic(1)])
    await sink.write([traffic(2)])
    await sink.close()
    tables = terminal.read("\n\n", tables=2).split("\n\n")
    assert [table.count("\n") for table in tables] == [3, 3, 0]
    assert "\x1b" not in "".join(tables)


@pytest.mark.parametrize(("lines", "shown"), [(24, 20), (10, 6), (5, 1), (4, 0)])
async def test_a_table_is_not_longer_than_the_terminal(
    terminal: Terminal, lines: int, shown: int
) -> None:
    terminal.resize(lines, 80)
    sink = _sink(terminal.slave, rows=20)
    await sink.open()
    await sink.write([traffic(n, pid=n) for n in range(1, 31)])
    await sink.close()
    printed = terminal.read()
    assert printed.count("program") == shown
    assert printed.count("\n") == shown + 3 < lines
    assert f"total of 30, {30 - shown} not shown" in printed


@pytest.mark.parametrize("lines", [1, 2, 3])
async def test_a_terminal_with_hardly_a_line_shows_the_total(
    terminal: Terminal, lines: int
) -> None:
    terminal.resize(lines, 80)
    sink = _sink(terminal.slave)
    await sink.open()
    for _ in range(2):
        await sink.write([traffic(1)])
        printed = terminal.read()
        assert printed.count("\n") == max(1, lines - 1)
        assert "total" in printed
    await sink.close()


async def test_a_terminal_without_a_size_is_an_ordinary_one(terminal: Terminal) -> None:
    terminal.resize(0, 0)
    sink = _sink(terminal.slave, rows=100)
    await sink.open()
    await sink.write([traffic(n, pid=n) for n in range(1, 31)])
    await sink.close()
    assert terminal.read().count("\n") == 23


async def test_a_screen_whose_size_changed_is_erased(terminal: Terminal) -> None:
    sink = _sink(terminal.slave)
    await sink.open()
    await sink.write([traffic(1)])
    terminal.read()
    terminal.resize(10, 40)
    await sink.write([traffic(2)])
    assert terminal.read().startswith(ERASE_SCREEN)
    await sink.write([traffic(3)])
    await sink.close()
    assert terminal.read().startswith(UP.format(4))


async def test_log_lines_are_not_overwritten(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with io.TextIOWrapper(io.FileIO(terminal.slave, "w", closefd=False)) as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        sink = _sink(terminal.slave)
        await sink.open()
        await sink.write([traffic(1)])
        terminal.read()
        logging.getLogger("test").warning("one")
        await sink.write([traffic(2)])
        assert terminal.read().startswith("2026")
        await sink.write([traffic(3)])
        assert terminal.read().startswith(UP.format(4))
        handlers = logging.getLogger().handlers.copy()
        await sink.close()
        assert len(handlers) == len(logging.getLogger().handlers) + 1


async def test_a_table_has_the_encoding_of_stdout(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    sink = _sink(terminal.slave)
    await sink.open()
    record = traffic(1)
    record["process"]["name"] = "caf\xe9\x1b[2J" + "x" * 100
    await sink.write([record])
    await sink.close()
    printed = terminal.read()
    assert printed.isascii()
    assert "caf\\xe9\\x1b[2Jxxx" in printed


@pytest.mark.parametrize(
    ("chosen", "start"), [("table", b"2026-11-22 07:"), ("jsonl", b'{"type":')]
)
async def test_the_format_can_be_chosen(pipe: tuple[int, int], chosen: str, start: bytes) -> None:
    sink = _sink(pipe[1], format=chosen)
    await sink.open()
    await sink.write([traffic(1)])
    assert os.read(pipe[0], 1 << 16).startswith(start)


async def test_a_terminal_that_hangs_up_is_a_reader_that_left() -> None:
    master, slave = pty.openpty()
    sink = _sink(slave)
    await sink.open()
    os.close(master)
    with pytest.raises(OutputClosedError):
        await sink.write([traffic(1)])
    os.close(slave)


async def test_a_closed_descriptor_is_a_configuration_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(ConfigurationError, match="stdout is closed"):
        await _sink(pipe[0]).open()


async def test_a_reader_that_leaves_closes_the_output(pipe: tuple[int, int]) -> None:
    sink = _sink(pipe[1])
    await sink.open()
    os.close(pipe[0])
    with pytest.raises(OutputClosedError):
        await sink.write([traffic(1)])


async def test_a_stalled_reader_neither_blocks_the_loop_nor_gets_a_line_twice(
    pipe: tuple[int, int],
) -> None:
    sink = _sink(pipe[1])
    await sink.open()
    records = [traffic(sequence) for sequence in range(1000)]
    for _ in range(3):
        writing = asyncio.ensure_future(sink.write(records))
        await asyncio.sleep(0.01)
        assert not writing.done()
        writing.cancel()
        await asyncio.wait({writing})
    writing = asyncio.ensure_future(sink.write(records))
    data = bytearray()
    while data.count(b"\n") < 1000:
        if select.select([pipe[0]], [], [], 0)[0]:
            data += os.read(pipe[0], 1 << 16)
        await asyncio.sleep(0)
    await writing
    assert [json.loads(line)["sequence"] for line in data.splitlines()] == list(range(1000))


async def test_a_non_blocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    sink = _sink(pipe[1])
    await sink.open()
    writing = asyncio.ensure_future(sink.write([traffic(n) for n in range(1000)]))
    count = 0
    while count < 1000:
        await asyncio.sleep(0.001)
        count += os.read(pipe[0], 1 << 16).count(b"\n")
    await writing


async def test_a_window_that_cannot_be_encoded_does_not_block_the_next(
    pipe: tuple[int, int],
) -> None:
    sink = _sink(pipe[1])
    await sink.open()
    broken = traffic(1)
    broken["host"]["name"] = "\ud800"
    with pytest.raises(TypeError, match="surrogates"):
        await sink.write([broken])
    await sink.write([traffic(2)])
    assert json.loads(os.read(pipe[0], 1 << 16))["sequence"] == 2


async def test_a_pipe_gets_the_configured_layout_and_schema(pipe: tuple[int, int]) -> None:
    sink = _sink(pipe[1], layout="flat", schema="ecs")
    await sink.open()
    await sink.write([traffic(1)])
    assert json.loads(os.read(pipe[0], 1 << 16))["event.sequence"] == 1


async def test_records_are_encoded_in_the_thread_of_the_sink(
    pipe: tuple[int, int], encoding_threads: list[threading.Thread]
) -> None:
    sink = _sink(pipe[1])
    await sink.open()
    await sink.write([traffic(1)])
    assert encoding_threads
    assert threading.main_thread() not in encoding_threads


async def test_a_retry_after_a_full_disk_continues_where_the_write_stopped() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    sink = _sink(full)
    await sink.open()
    with pytest.raises(OSError, match="No space left"):
        await sink.write([traffic(1)])
    reader, writer = os.pipe()
    os.dup2(writer, full)
    await sink.write([traffic(1)])
    assert os.read(reader, 1 << 16).count(b"\n") == 1
    for descriptor in (full, reader, writer):
        os.close(descriptor)


def test_a_process_whose_reader_left_ends_without_an_error_of_python() -> None:
    with _start(30) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"closed\n"
        assert process.wait(30) == 0


def test_a_stalled_reader_does_not_delay_the_end_and_has_whole_lines() -> None:
    with _start(0.2) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.wait(30) == 0
        assert process.stderr.read() == b"ready\ngave up\n"
        assert all(json.loads(line) for line in process.stdout.read().splitlines())
