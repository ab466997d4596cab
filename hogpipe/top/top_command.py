"""What `hogpipe top` does: finds out what the terminal can show, and runs the screen on a source.

Nothing here imports Textual until the screen is to be shown. The exit code is that of docs/cli.md.

While the screen is shown, log lines do not reach the terminal: the newest warning is shown in the
last line of the screen, and all are printed when the screen is closed.
"""

import asyncio
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from hogpipe.errors import HogpipeError, ScreenError
from hogpipe.files import read_regular
from hogpipe.signals import StopSignals
from hogpipe.top.row_groups import Query
from hogpipe.top.screen_sources import WindowSource
from hogpipe.top.screen_text import Look

if TYPE_CHECKING:
    from hogpipe.top.top_app import TopApp

_MONOCHROME_TERMINALS = ("dumb", "vt")
_ASCII_LOCALES = ("C", "POSIX")
_UNICODE = "▁█…"
_SQLITE = b"SQLite format 3\0"
_MAX_MESSAGES = 100
_MESSAGE_SECONDS = 5.0


class Terminal(msgspec.Struct, frozen=True):
    """What a terminal can show."""

    has_colour: bool
    is_ascii: bool


def examine_terminal(
    stdin: TextIO | None, screen: TextIO | None, environ: Mapping[str, str]
) -> Terminal:
    """Return what the terminal of `screen` can show. Raises ScreenError if it is none."""
    for stream, name in ((stdin, "input"), (screen, "error output")):
        if stream is None or not stream.isatty():
            raise ScreenError(
                f"top needs a terminal, and the standard {name} is none; "
                "use `hogpipe run` for a table or JSON lines"
            )
    kind = environ.get("TERM", "")
    if not kind:
        raise ScreenError("top needs to know the terminal; set TERM, e.g. TERM=vt100")
    is_monochrome = kind.startswith(_MONOCHROME_TERMINALS)
    return Terminal(
        has_colour=not is_monochrome and not environ.get("NO_COLOR"),
        is_ascii=is_monochrome
        or environ.get("LC_ALL") in _ASCII_LOCALES  # Python's own encoding is UTF-8 then
        or not _can_encode(getattr(screen, "encoding", None)),
    )


def _can_encode(encoding: str | None) -> bool:
    try:
        _UNICODE.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def choose_recording(path: Path, since: float = 0.0) -> WindowSource:
    """Return the source for a file: a history, or lines. One that cannot be read is of lines.

    Windows that end before `since`, seconds since the epoch, are left out.
    """
    try:
        is_history = read_regular(path, len(_SQLITE)) == _SQLITE
    except OSError:  # the source names it
        is_history = False
    if is_history:
        from hogpipe.top.history_source import HistorySource  # noqa: PLC0415 - it imports sqlite3

        return HistorySource(path, since)
    from hogpipe.top.record_file import RecordFile  # noqa: PLC0415

    return RecordFile(path, since)


async def run_top(
    source: WindowSource, dimension: str, speed: float | None, signals: StopSignals
) -> int:
    """Show `source` until the screen is closed; return the exit code.

    Raises HogpipeError if the source cannot be opened or breaks off, or there is no terminal.
    """
    terminal = examine_terminal(sys.__stdin__, sys.__stderr__, os.environ)
    if not terminal.has_colour:
        os.environ["NO_COLOR"] = "1"  # for Textual's own styles
    loop = asyncio.get_running_loop()
    opening = asyncio.create_task(_open(source))
    signals.set_stop_action(lambda _number: loop.call_soon_threadsafe(opening.cancel))
    try:
        make_app = await opening
    except asyncio.CancelledError:
        return 0
    with _messages_on_screen() as messages:
        app = make_app(
            source,
            Query(dimension=dimension),
            Look(is_ascii=terminal.is_ascii),
            has_colour=terminal.has_colour,
            speed=speed,
            take_message=messages.take,
        )

        def stop() -> None:
            signals.answer()
            app.exit()

        signals.set_stop_action(lambda _number: loop.call_soon_threadsafe(stop))
        signals.set_hangup_action(lambda: loop.call_soon_threadsafe(stop))
        await app.run_async()
        await app.close_player()
    if isinstance(app.error, HogpipeError):
        raise app.error
    return app.return_code or 0


async def _open(source: WindowSource) -> "type[TopApp]":
    """Open the source, and meanwhile load Textual in a thread, which takes 0.2 s."""
    loading = asyncio.create_task(asyncio.to_thread(_load_app))
    try:
        await source.prepare()
    finally:
        make_app = await loading
    return make_app


def _load_app() -> "type[TopApp]":
    try:
        from hogpipe.top.top_app import TopApp  # noqa: PLC0415 - it imports Textual
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"textual", "rich"}:
            raise
        raise ScreenError("top needs Textual; install it: pip install 'hogpipe[top]'") from error
    return TopApp


class _Messages(logging.Handler):
    """Keeps log records while the screen is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=_MAX_MESSAGES)
        self._shown_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, and show it for some seconds if it is a warning."""
        self.records.append(record)
        if record.levelno >= logging.WARNING:
            self._shown_until = time.monotonic() + _MESSAGE_SECONDS

    def take(self) -> str:
        """Return the newest warning while it is to be shown; empty otherwise."""
        if time.monotonic() > self._shown_until:
            return ""
        warnings = (one for one in reversed(self.records) if one.levelno >= logging.WARNING)
        return next((one.getMessage() for one in warnings), "")


@contextmanager
def _messages_on_screen() -> Iterator[_Messages]:
    """Keep what is logged, and log it again at the end."""
    root = logging.getLogger()
    handlers, messages = root.handlers, _Messages()
    root.handlers = [messages]
    try:
        yield messages
    finally:
        root.handlers = handlers
        for record in messages.records:
            root.handle(record)
