"""The `stdout` sink: a table on a terminal, JSON lines in a pipe or a file.

Writing happens in a daemon thread, encoding included, so that neither a big window nor a reader who
stalls (a paused pager) holds up the event loop or the end of the process. It goes in portions of
whole lines that a pipe takes all or nothing of (PIPE_BUF, see pipe(7)): what a killed process
leaves behind ends with a whole line as long as that line is no longer than such a portion. A write
that is tried again goes on where it stopped, so nothing is printed twice.
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

_WIDTH = 80  # where the terminal does not tell, or there is none


class StdoutSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "stdout"`."""

    format: Literal["auto", "table", "jsonl"] = "auto"
    """auto: a table on a terminal, JSON lines otherwise."""
    rows: Annotated[int, Meta(ge=1)] = 20
    """How many groups a window's table shows, those that moved most."""


class StdoutSink:
    """Prints windows to `descriptor`, which stays open."""

    def __init__(self, settings: StdoutSettings, descriptor: int = 1) -> None:
        self._settings = settings
        self._encoder = JsonEncoder(settings)
        self._descriptor = descriptor
        self._terminal = False
        self._at_hand: Iterator[bytes] | None = None
        """The rest of the window that is being printed; the thread's while one runs, as are:"""
        self._data = b""
        self._written = 0
        """How much of the data is out."""
        self._writing: asyncio.Future[Exception | None] | None = None
        """The thread at work, which goes on where a write was cancelled."""

    async def open(self) -> None:
        """Find out what we print to; ConfigurationError if it is closed."""
        if sys.stdout is None or not _is_open(self._descriptor):
            raise ConfigurationError("stdout is closed; give it a reader or take this sink out")
        self._terminal = os.isatty(self._descriptor)

    async def write(self, records: Sequence[Record]) -> None:
        """Print a window; OutputClosedError once the reader has left."""
        if self._writing is None:
            if self._at_hand is None:
                self._at_hand = self._format(records)
            self._writing = _start_thread(partial(self._write_window, self._at_hand))
        error = await asyncio.shield(self._writing)
        self._writing = None
        if error is None:
            return
        if isinstance(error, ConnectionError) or self._hung_up(error):
            self._silence()
            raise OutputClosedError("the reader of stdout has left") from error
        raise error

    async def close(self) -> None:
        """Do nothing: stdout belongs to the process, and a stalled thread ends with it."""

    def _format(self, records: Sequence[Record]) -> Iterator[bytes]:
        chosen = self._settings.format
        if chosen == "table" or (chosen == "auto" and self._terminal):
            yield f"{render_table(records, self._width(), self._settings.rows)}\n".encode()
        else:
            yield from self._encoder.portions(records)

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns or _WIDTH
        except OSError:  # no terminal, or one that hung up: writing will tell
            return _WIDTH

    def _write_window(self, rest: Iterator[bytes]) -> None:
        """Write what is left, so that another try goes on from there; the thread's work."""
        self._write_data()
        try:
            for self._data in rest:
                self._written = 0
                self._write_data()
        except OSError:
            raise
        except Exception:
            self._at_hand = None  # what cannot be formatted now never can
            raise
        self._at_hand = None

    def _write_data(self) -> None:
        while self._written < len(self._data):
            try:
                self._written += os.write(self._descriptor, self._portion())
            except BlockingIOError:  # whoever shares our stdout has made it so
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

    def _portion(self) -> bytes:
        """Return the next lines that fit into one portion, or a portion of one that does not."""
        start, most = self._written, self._written + select.PIPE_BUF
        end = self._data.rfind(b"\n", start, most) + 1
        return self._data[start : end or most]

    def _hung_up(self, error: Exception) -> bool:
        return self._terminal and isinstance(error, OSError) and error.errno == errno.EIO

    def _silence(self) -> None:
        """Send what Python itself may still flush at exit where it meets no broken pipe."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _start_thread(work: Callable[[], None]) -> asyncio.Future[Exception | None]:
    """Run `work` in a daemon thread, which an executor's are not: those are joined at exit.

    What it raises is the result.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Exception | None] = loop.create_future()

    def run() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as caught:  # noqa: BLE001 - it is raised where it is awaited
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set_result, error)

    threading.Thread(target=run, name="stdout", daemon=True).start()
    return done
