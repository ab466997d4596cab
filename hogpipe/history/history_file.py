"""The file of a history: what it is, its schema, and connections to it.

In: a path. Out: a connection, or why there is none. The file is an SQLite database with the
application id of hogpipe, whose user version counts the steps of `STEPS` that made it: a new file
takes all steps, a file of an older version takes the rest in one transaction.

A file of another program, or of a newer version, is refused and left as it is. A damaged history is
set aside, as `PATH.damaged`; the next one begins empty.

One process writes, and holds a lock on `PATH-lock` meanwhile; any number of others read (WAL). The
file itself is never opened but by SQLite while a writer holds the lock: closing any descriptor of a
file releases the locks that SQLite has on it in the same process.
"""

import errno
import fcntl
import logging
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hogpipe.files import find_output_problem, may_access, probe_folder, require_regular
from hogpipe.history.level_tables import health_table, traffic_table
from hogpipe.history.levels import BUCKETED
from hogpipe.history.packing import DamagedContentError
from hogpipe.ownership import open_output, resolve_output
from hogpipe.text import printable

log = logging.getLogger(__name__)

APPLICATION_ID = 0x686F6770  # "hogp"
_MODE = 0o640  # a history shows who communicates with whom
_BUSY_SECONDS = 0.1  # delivery tries again; a close has to be quick
_WAL_BYTES = 16 << 20
_HEADER = struct.Struct(">16s44xI4xI28x")
"""Magic, user version and application id of the header of an SQLite database."""
_MAGIC = b"SQLite format 3\0"
_IN_USE = "another run or sink writes to it"
NO_HISTORY = "not a history of hogpipe"

_VERSION_1 = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, host TEXT NOT NULL,
    last_sequence INTEGER NOT NULL, used_until INTEGER NOT NULL
);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT, description TEXT NOT NULL UNIQUE,
    used_until INTEGER NOT NULL
);
CREATE TABLE members (
    id INTEGER PRIMARY KEY AUTOINCREMENT, description TEXT NOT NULL, used_until INTEGER NOT NULL
);
CREATE TABLE windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
    run_id INTEGER NOT NULL, size INTEGER NOT NULL, content BLOB NOT NULL
);
CREATE INDEX windows_by_start ON windows (start_ms);
CREATE TABLE spans (
    level TEXT NOT NULL, start INTEGER NOT NULL, windows INTEGER NOT NULL,
    covered_ms INTEGER NOT NULL, stats TEXT,
    PRIMARY KEY (level, start)
) WITHOUT ROWID;
CREATE TABLE levels (
    level TEXT PRIMARY KEY, kept_ms INTEGER NOT NULL, complete_ms INTEGER NOT NULL
) WITHOUT ROWID;
""" + "".join(traffic_table(level).creation for level in BUCKETED)
_VERSION_2 = "".join(health_table(level).creation for level in BUCKETED)
STEPS: tuple[str, ...] = (_VERSION_1, _VERSION_2)
"""The statements that make each version from the one before, each with its semicolon."""
WITH_HEALTH = 2
"""The version from which on levels have a table of health."""


def find_file_problem(path: Path) -> str | None:
    """Return why `path` cannot be the file of a history that is written; None if it can.

    A file that a writer has open is not looked into.
    """
    problem = find_output_problem(path)
    if problem is not None or not path.exists():
        return problem
    if not may_access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} may not be written to, and SQLite needs files beside the database"
    return None if _is_locked(path) else find_content_problem(path)


def probe_file(path: Path) -> int | None:
    """Return the size of the history at `path`, None if there is none; nothing is changed.

    Raises OSError for a file that cannot be written now.
    """
    if problem := find_file_problem(path):
        raise OSError(errno.EINVAL, problem)
    if _is_locked(path):
        raise OSError(errno.EBUSY, _IN_USE)
    probe_folder(path.parent)  # SQLite needs files beside the database
    return path.stat().st_size if path.exists() else None


def find_content_problem(path: Path) -> str | None:
    """Return why the file at `path` is not a history of this version or an older one.

    An empty file is none yet, and no problem. Raises OSError.
    """
    header = _read_header(path)
    if not header:
        return None
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        return NO_HISTORY
    _, version, application = _HEADER.unpack(header)
    return find_version_problem(application, version)


def find_version_problem(application: int, version: int) -> str | None:
    """Return why a database with these ids is not a history of this version or an older one."""
    if application != APPLICATION_ID:
        return "an SQLite database of another program"
    if version > len(STEPS):
        return (
            f"a history of version {version}, and this hogpipe knows up to version {len(STEPS)}; "
            "upgrade hogpipe, or name another file"
        )
    return None


def is_database(path: Path) -> bool:
    """Return whether the file at `path` is an SQLite database. Raises OSError."""
    return _read_header(path).startswith(_MAGIC)


def lock_for_writing(path: Path) -> int:
    """Return a descriptor that holds the lock of the history until it is closed.

    Raises OSError; if another writer has the lock, with EBUSY.
    """
    resolve_output(path)  # before folders are made where a link of another user leads
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = open_output(_lock_path(path), flags, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise OSError(errno.EBUSY, _IN_USE) from error
        raise
    return descriptor


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Return a connection to the history at `path`, made or brought to this version if needed.

    The caller holds the lock, and has found no problem. Raises OSError and sqlite3.Error.
    """
    path = resolve_output(path)
    with suppress(FileExistsError):  # otherwise SQLite would make it readable for all
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    database = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on an empty file only
        _upgrade(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    except BaseException:
        database.close()
        raise
    return database


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Return a read-only connection to the history at `path`. Raises sqlite3.Error."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


@contextmanager
def transaction(database: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit what is done in the context, or roll it back on any error."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite rolls back by itself after some errors
            database.execute("ROLLBACK")
        raise


def close_moved(database: sqlite3.Connection, path: Path) -> None:
    """Close a history that is no longer at `path`.

    SQLite does not do that by itself: the next database at `path` would take the transactions that
    the moved one left there for its own.
    """
    with suppress(sqlite3.Error):  # a reader holds the rest, which cannot follow the file
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged history, which no connection has open; return its new path.

    An earlier one of that name is overwritten. Raises OSError.
    """
    damaged = path.with_name(f"{path.name}.damaged")
    path.replace(damaged)
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        wal.replace(path.with_name(f"{damaged.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    log.warning(
        "%s: the history is damaged; it is now %s, and a new one begins",
        printable(str(path)),
        printable(str(damaged)),
    )
    return damaged


def is_damage(error: BaseException) -> bool:
    """Return whether an error means that the file is damaged."""
    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return isinstance(error, DamagedContentError) or get_code(error) in damage


def needs_folder(error: BaseException) -> bool:
    """Return whether a reader may not create the files that it needs beside the database."""
    return get_code(error) in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


def get_code(error: BaseException) -> int:
    """Return the code of an error of SQLite without its details, 0 for any other error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _upgrade(database: sqlite3.Connection) -> None:
    """Take the steps that the file has not taken, in one transaction."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == len(STEPS):
        return
    with transaction(database, "EXCLUSIVE"):
        for step in STEPS[version:]:
            for statement in step.split(";"):
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {len(STEPS)}")


def _read_header(path: Path) -> bytes:
    require_regular(path)
    with path.open("rb", buffering=0) as file:
        return file.read(_HEADER.size)


def _is_locked(path: Path) -> bool:
    """Return whether a writer, in this process or another, has the lock."""
    try:
        descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # none was ever made, or it is another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")
