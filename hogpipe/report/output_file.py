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
from hogpipe.text import printable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path to write to; what is written there takes the place of `path` at the end.

    Raises HogpipeError for a symbolic link, and OSError.
    """
    if path.is_symlink():
        raise HogpipeError(
            f"{printable(str(path))}: a symbolic link is not written to; name the file itself"
        )
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
