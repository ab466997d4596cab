"""The closed files of a sink: compressed and, beyond a number to keep, deleted, in a thread.

Whatever is interrupted is done again: a compressed file has its name only when it is whole and on
the disk, and only then the original goes. Nothing is touched but files with exactly our names.
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

log = logging.getLogger(__name__)

_PIECE = 256 << 10
_LEVEL = 6
_LEAST_URGENT = 19  # see nice(2)
_GIVE_UP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is done with closed files."""

    keep: int | None = None
    """How many stay, the newest; all where it is None."""
    compress: bool = False


def list_closed(path: Path) -> dict[datetime, set[str]]:
    """Return the closed files of `path`, oldest first: when closed, and which suffixes exist."""
    found: dict[datetime, set[str]] = defaultdict(set)
    with os.scandir(path.parent) as entries:
        for entry in entries:
            name = parse_closed(path.name, entry.name)
            if name is not None and entry.is_file(follow_symlinks=False):
                found[name.closed].add(name.suffix)
    return dict(sorted(found.items()))


class Caretaker:
    """Sees to the closed files of `path` when asked to, in a thread that lives as long as that."""

    def __init__(self, path: Path, upkeep: Upkeep) -> None:
        self._path = path
        self._upkeep = upkeep
        self._lock = threading.Lock()
        self._asked = False
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def ask(self) -> None:
        """Have the closed files looked after."""
        if not self._upkeep.compress and self._upkeep.keep is None:
            return
        with self._lock:
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="closed", daemon=True)
                self._thread.start()

    def close(self, seconds: float) -> None:
        """Wait that long for what is being done, then give it up until the next start."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        self._stopping.set()
        if thread is not None:
            thread.join(_GIVE_UP_SECONDS)

    def _run(self) -> None:
        with suppress(OSError):  # then it is as urgent as the rest
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_URGENT)
        while self._take_order():
            try:
                look_after(self._path, self._upkeep, self._stopping)
            except OSError as error:
                log.warning(
                    "%s: closed files are left as they are until the next rotation: %s",
                    printable(str(self._path)),
                    error.strerror or error,
                )

    def _take_order(self) -> bool:
        with self._lock:
            if self._asked and not self._stopping.is_set():
                self._asked = False
                return True
            self._thread = None
            return False


def look_after(path: Path, upkeep: Upkeep, stopping: threading.Event) -> None:
    """Delete the closed files of `path` that are too many and compress the others."""
    closed = list_closed(path)
    if upkeep.keep is not None:
        surplus = len(closed) - upkeep.keep
        for time in list(closed)[: max(0, surplus)]:
            for suffix in closed.pop(time):
                _name(path, time, suffix).unlink(missing_ok=True)
    for time, suffixes in closed.items():
        if "" not in suffixes:
            if UNFINISHED in suffixes:  # someone took the original away
                _name(path, time, UNFINISHED).unlink(missing_ok=True)
        elif upkeep.compress and not stopping.is_set():
            _compress(_name(path, time, ""), stopping)


def _name(path: Path, closed: datetime, suffix: str) -> Path:
    return path.with_name(format_closed(path.name, closed) + suffix)


def _compress(source: Path, stopping: threading.Event) -> None:
    """Put a compressed file in the place of `source`, or leave it as it is."""
    target = source.with_name(source.name + COMPRESSED)
    unfinished = source.with_name(source.name + UNFINISHED)
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # someone took it away
        return
    with os.fdopen(descriptor, "rb", buffering=0) as plain:
        try:
            fcntl.flock(plain, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a run before this one still is at it
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
    """Write to `path` what `plain` holds, through to the disk; return whether it is whole.

    The bytes depend on nothing else: the time is that of the file, and not in it.
    """
    found = os.fstat(plain)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = stat.S_IMODE(found.st_mode)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
            while piece := os.read(plain, _PIECE):
                if stopping.is_set():
                    return False
                packed.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    return True
