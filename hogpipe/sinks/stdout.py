"""The `stdout` sink: a table on a terminal, JSON lines in a pipe or a file.

In: windows. Out: bytes on a descriptor that stays open. `write` raises OutputClosedError once the
reader has left, and OSError. On a terminal a table replaces the one before (terminal_screen.py),
unless its cursor cannot be moved.

A daemon thread encodes and writes, so that neither a large window nor a stalled reader (a paused
pager) blocks the event loop or the end of the process. It writes whole lines, of at most PIPE_BUF
bytes at a time, which a pipe accepts all or nothing of (pipe(7)): the output of a killed process
ends with a whole line. The retry of a write continues where it stopped, so nothing is printed
twice.

Known limit: a line longer than PIPE_BUF (4 KiB) may be cut by a kill.
"""

import asyncio
import errno
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from hogpipe.errors import ConfigurationError, OutputClosedError
from hogpipe.records.schema import Record
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.table import render_table
from hogpipe.sinks.terminal_screen import TerminalScreen, can_move_cursor, read_size

_OTHER_LINES = 4  # of a table besides its rows, and of the cursor below it


class StdoutSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "stdout"`."""

    format: Literal["auto", "table", "table-scroll", "jsonl"] = "auto"
    """auto: a table on a terminal, JSON lines otherwise. A table replaces the one before on a
    terminal; with table-scroll it follows below, as it does anywhere else."""
    rows: Annotated[int, Meta(ge=1)] = 20
    """How many groups the table of a window shows, those with most bytes."""


def prints_table(settings: StdoutSettings, terminal: bool) -> bool:
    """Return whether a sink prints tables; `terminal`: whether its output is a terminal."""
    chosen = settings.format
    return chosen in {"table", "table-scroll"} or (chosen == "auto" and terminal)


class StdoutSink:
    """Prints windows to `descriptor`, which stays open."""

    def __init__(self, settings: StdoutSettings, descriptor: int = 1) -> None:
        self._settings = settings
        self._encoder = JsonEncoder(settings)
        self._descriptor = descriptor
        self._terminal = False
        self._screen: TerminalScreen | None = None
        """Where tables replace one another."""
        self._rest: Iterator[bytes] | None = None
        """The rest of the window that is being printed. The thread owns it while it runs, and:"""
        self._data = b""
        self._written = 0
        """How many bytes of `_data` are written."""
        self._writing: asyncio.Future[Exception | None] | None = None
        """The result of the thread, which continues after a write was cancelled."""

    async def open(self) -> None:
        """Find out whether stdout is a terminal; ConfigurationError if it is closed."""
        if sys.stdout is None or not _is_open(self._descriptor):
            raise ConfigurationError("stdout is closed; give it a reader or take this sink out")
        self._terminal = os.isatty(self._descriptor)
        is_table = prints_table(self._settings, self._terminal)
        scrolls = self._settings.format == "table-scroll"
        if is_table and not scrolls and can_move_cursor(self._descriptor):
            self._screen = TerminalScreen()
            self._screen.start()

    async def probe(self) -> str:
        """Return whether stdout is a terminal, and what would be printed."""
        await self.open()
        is_table = prints_table(self._settings, self._terminal)
        shown = "a table" if is_table else "JSON lines"
        return f"{'a terminal' if self._terminal else 'no terminal'}: {shown}"

    async def write(self, records: Sequence[Record]) -> None:
        """Print a window; OutputClosedError once the reader has left."""
        if self._writing is None:
            if self._rest is None:
                self._rest = self._format(records)
            self._writing = _start_thread(partial(self._write_window, self._rest))
        error = await asyncio.shield(self._writing)
        self._writing = None
        if error is None:
            return
        if isinstance(error, ConnectionError) or self._hung_up(error):
            self._silence()
            raise OutputClosedError("the reader of stdout has left") from error
        raise error

    async def close(self) -> None:
        """Leave stdout as it is: it belongs to the process, and a stalled thread ends with it."""
        if self._screen is not None:
            self._screen.stop()

    def _format(self, records: Sequence[Record]) -> Iterator[bytes]:
        if prints_table(self._settings, self._terminal):
            yield self._draw(records)
        else:
            yield from self._encoder.batches(records)

    def _draw(self, records: Sequence[Record]) -> bytes:
        """Return the table of a window in the terminal's encoding."""
        size, encoding = read_size(self._descriptor), sys.stdout.encoding
        rows = self._settings.rows
        if self._screen is None:
            lines = render_table(records, size.columns, rows, encoding)
            text = "".join(f"{line}\n" for line in (*lines, ""))
        else:
            rows = max(0, min(rows, size.lines - _OTHER_LINES))
            text = self._screen.replace(render_table(records, size.columns, rows, encoding), size)
        return text.encode(encoding)

    def _write_window(self, rest: Iterator[bytes]) -> None:
        """Write the rest, in the thread; after an OSError another call continues there."""
        self._write_data()
        try:
            for self._data in rest:
                self._written = 0
                self._write_data()
        except OSError:
            raise
        except Exception:
            self._rest = None  # records that cannot be formatted now never can
            raise
        self._rest = None

    def _write_data(self) -> None:
        while self._written < len(self._data):
            try:
                self._written += os.write(self._descriptor, self._next_lines())
            except BlockingIOError:  # another process with the same stdout made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

    def _next_lines(self) -> bytes:
        """Return the next lines that fit into PIPE_BUF, or so much of one that does not."""
        start, limit = self._written, self._written + select.PIPE_BUF
        end = self._data.rfind(b"\n", start, limit) + 1
        return self._data[start : end or limit]

    def _hung_up(self, error: Exception) -> bool:
        return self._terminal and isinstance(error, OSError) and error.errno == errno.EIO

    def _silence(self) -> None:
        """Redirect to /dev/null what Python flushes at exit: the pipe is broken."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._descriptor)
        os.close(null)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _start_thread(work: Callable[[], None]) -> asyncio.Future[Exception | None]:
    """Run `work` in a daemon thread; its error is the result.

    An executor would be joined at exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Exception | None] = loop.create_future()

    def run() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as raised:  # noqa: BLE001 - the caller raises it
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done.set_result, error)

    threading.Thread(target=run, name="stdout", daemon=True).start()
    return done
