"""Which store the arguments of `hogpipe report` name: files of records, or a history.

In: paths, globs, or `-` for the standard input. Out: a TrafficStore. What a file is, its first
bytes say: a history, Parquet, gzip, or else JSON lines. A path that exists is never taken for a
glob. The standard input is copied to a temporary file first, as a report may need it twice.
"""

import glob
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.files import read_regular
from hogpipe.report.progress import Waiter
from hogpipe.report.traffic_store import TrafficStore
from hogpipe.text import printable

STDIN = "-"
_SQLITE = b"SQLite format 3\0"
_PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"
_MISSING = "a report over files needs DuckDB: pip install 'hogpipe[report]'"


@contextmanager
def open_store(sources: Sequence[str], waiter: Waiter) -> Iterator[TrafficStore]:
    """Open what the sources name.

    Raises HogpipeError for a source that cannot be read, and without DuckDB.
    """
    with ExitStack() as stack:
        with waiter.deferred():  # a signal within would leave the folder behind
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-report-"))
            )
        names = {_copy_stdin(folder): "stdin"} if STDIN in sources else {}
        paths = [*names, *_list_paths([one for one in sources if one != STDIN])]
        heads = {path: _read_head(path) for path in paths}
        histories = [path for path, head in heads.items() if head == _SQLITE]
        if histories and len(paths) > 1:
            raise HogpipeError(
                f"{printable(str(histories[0]))}: a history is read alone, without other sources"
            )
        store = (
            _open_history(histories[0]) if histories else _open_files(heads, names, folder, waiter)
        )
        stack.callback(store.close)
        yield store


def _open_history(path: Path) -> TrafficStore:
    from hogpipe.report.history_store import HistoryFile

    return HistoryFile(path)


def _open_files(
    heads: dict[Path, bytes], names: dict[Path, str], folder: Path, waiter: Waiter
) -> TrafficStore:
    # DuckDB aborts the process or loses the signal if an exception passes through its own code.
    with waiter.deferred():
        try:
            from hogpipe.report.file_store import RecordFile, RecordFiles
        except ImportError as error:
            raise HogpipeError(_MISSING) from error
        files = [
            RecordFile(path, head.startswith(_PARQUET), head.startswith(_GZIP), names.get(path))
            for path, head in heads.items()
        ]
        return RecordFiles(files, folder, waiter)


def _list_paths(sources: Sequence[str]) -> list[Path]:
    """Return the files that the sources name, each once."""
    found: dict[Path, None] = {}
    for source in sources:
        if Path(source).exists() or not glob.has_magic(source):
            found[Path(source)] = None
            continue
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - as the shell does
        if not matches:
            raise HogpipeError(f"{printable(source)}: no file matches")
        found |= dict.fromkeys(map(Path, matches))
    return list(found)


def _read_head(path: Path) -> bytes:
    try:
        return read_regular(path, len(_SQLITE))
    except OSError as error:
        raise HogpipeError(f"{printable(str(path))}: {error.strerror}") from error


def _copy_stdin(folder: Path) -> Path:
    copy = folder / STDIN
    with copy.open("wb") as file:
        if sys.stdin is not None:
            shutil.copyfileobj(sys.stdin.buffer, file)
    return copy
