"""The file that a report is written to: whole or not at all, and for its user alone.

A report shows who communicates with whom. It is written to a new file beside the one that it
replaces, so that an error leaves that one as it is. A symbolic link is refused, as another user may
have placed it in a folder such as /tmp; what is not a regular file, such as a FIFO, is written to
directly.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.files import find_write_problem
from hogpipe.text import printable


def check_output(path: Path) -> None:
    """Raise HogpipeError if `replacing` would fail, before the work that is to be reported."""
    _refuse_link(path)
    try:
        folder = path.absolute().parent
        if path.is_dir():
            problem: str | None = "a folder; name a file"
        elif not folder.is_dir():
            problem = f"{printable(str(folder))} is not a folder"
        elif path.exists() and not path.is_file():
            problem = find_write_problem(path, os.W_OK)
        elif problem := find_write_problem(folder, os.W_OK | os.X_OK):
            problem = f"{printable(str(folder))} {problem}"
    except OSError as error:
        problem = error.strerror
    if problem is not None:
        raise HogpipeError(f"{printable(str(path))}: {problem}")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise HogpipeError(
            f"{printable(str(path))}: a symbolic link is not written to; name the file itself"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path to write to; what is written there takes the place of `path` at the end.

    Raises HogpipeError for a symbolic link, and OSError.
    """
    _refuse_link(path)
    if path.exists() and not path.is_file():
        yield path
        return
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=".hogpipe-report-")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(number)
    try:
        yield Path(name)
        os.replace(name, path)  # noqa: PTH105 - of a name
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
