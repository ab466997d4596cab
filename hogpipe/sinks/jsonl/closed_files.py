"""The closed files of a sink: compressed, and deleted beyond a number to keep, in a thread.

In: the path of the current file, and a policy. Out: renamed, compressed and deleted files; errors
are logged, and the work is repeated at the next rotation. Interrupted work is repeated, too: a
compressed file gets its name only when it is complete and on the disk, and then the original is
deleted. Only files whose names are exactly those of rotation.py are changed.
"""

import fcntl
import gzip
import logging
import os
import stat
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hogpipe.sinks.jsonl.line_file import sync_folder
from hogpipe.sinks.jsonl.rotation import COMPRESSED, UNFINISHED, format_closed, parse_closed
from hogpipe.text import printable
from hogpipe.threads import keep_running

log = logging.getLogger(__name__)

_CHUNK = 256 << 10
_LEVEL = 6
_LOWEST_PRIORITY = 19  # see nice(2)
_STOP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ClosedFilePolicy:
    """What is done with closed files."""

    keep: int | None = None
    """How many of the newest are kept; None: all."""
    compress: bool = False


def list_closed(path: Path) -> dict[datetime, set[str]]:
    """Return the closed files of `path`, oldest first: the time, and the suffixes that exist."""
    found: dict[datetime, set[str]] = defaultdict(set)
    with os.scandir(path.parent) as entries:
        for entry in entries:
            name = parse_closed(path.name, entry.name)
            if name is not None and entry.is_file(follow_symlinks=False):
                found[name.closed].add(name.suffix)
    return dict(sorted(found.items()))


class ClosedFileWorker:
    """Processes the closed files of `path` on request, in a thread that ends when it is done."""

    def __init__(self, path: Path, policy: ClosedFilePolicy) -> None:
        self._path = path
        self._policy = policy
        self._lock = threading.Lock()
        self._requested = False
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def request(self) -> None:
        """Have the closed files processed, once more if that is under way."""
        if not self._policy.compress and self._policy.keep is None:
            return
        with self._lock:
            self._requested = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=keep_running, args=(self._run,), name="closed", daemon=True
                )
                self._thread.start()

    def close(self, seconds: float) -> None:
        """Wait so long for the work under way, then stop it; the next start repeats it."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        self._stopping.set()
        if thread is not None:
            thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        with suppress(OSError):  # the priority stays as it is
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while self._take_request():
            try:
                process_closed_files(self._path, self._policy, self._stopping)
            except OSError as error:
                log.warning(
                    "%s: closed files are left as they are until the next rotation: %s",
                    printable(str(self._path)),
                    error.strerror or error,
                )

    def _take_request(self) -> bool:
        with self._lock:
            if self._requested and not self._stopping.is_set():
                self._requested = False
                return True
            self._thread = None
            return False


def process_closed_files(path: Path, policy: ClosedFilePolicy, stopping: threading.Event) -> None:
    """Delete the closed files of `path` beyond the number to keep, and compress the others."""
    closed = list_closed(path)
    if policy.keep is not None:
        surplus = len(closed) - policy.keep
        for time in list(closed)[: max(0, surplus)]:
            for suffix in closed.pop(time):
                _name(path, time, suffix).unlink(missing_ok=True)
    for time, suffixes in closed.items():
        if "" not in suffixes:
            if UNFINISHED in suffixes:  # the original was deleted by another process
                _name(path, time, UNFINISHED).unlink(missing_ok=True)
        elif policy.compress and not stopping.is_set():
            _compress(_name(path, time, ""), stopping)


def _name(path: Path, closed: datetime, suffix: str) -> Path:
    return path.with_name(format_closed(path.name, closed) + suffix)


def _compress(source: Path, stopping: threading.Event) -> None:
    """Replace `source` by a compressed file, or leave it unchanged."""
    target = source.with_name(source.name + COMPRESSED)
    unfinished = source.with_name(source.name + UNFINISHED)
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # deleted by another process
        return
    with os.fdopen(descriptor, "rb", buffering=0) as plain:
        try:
            fcntl.flock(plain, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # an earlier run still compresses it
            return
        if not target.exists():
            try:
                if not _write_compressed(plain.fileno(), unfinished, stopping):
                    return
                unfinished.rename(target)
            finally:
                unfinished.unlink(missing_ok=True)
            sync_folder(target)
        source.unlink(missing_ok=True)


def _write_compressed(plain: int, path: Path, stopping: threading.Event) -> bool:
    """Compress the file `plain` to `path`, through to the disk; return False if stopped.

    The result depends on the bytes only: the modification time is set on the file, not in it.
    """
    found = os.fstat(plain)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = stat.S_IMODE(found.st_mode)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as compressed:
            while chunk := os.read(plain, _CHUNK):
                if stopping.is_set():
                    return False
                compressed.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    return True
