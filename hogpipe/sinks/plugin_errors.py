"""What goes wrong in a plugin, described with the line of the plugin."""

import asyncio
import concurrent
import importlib
import traceback
from collections.abc import Iterable
from pathlib import Path

import pluggy

from hogpipe.text import describe_error, printable

# The packages that import plugins and call them.
_CALLERS = [Path(str(one.__file__)).parent for one in (asyncio, concurrent, importlib, pluggy)]
_OTHERS = [Path(__file__).parents[1], *_CALLERS]


def describe_bug(error: BaseException) -> str:
    """Return the error in one printable line, with its place in the code of a plugin, if any.

    The place is the deepest line in the folder of the first file that is not hogpipe's: a library
    may have raised the error, but the plugin called it.
    """
    calls = traceback.walk_tb((error.__cause__ or error).__traceback__)
    place = describe_place((frame.f_code.co_filename, line) for frame, line in calls)
    return f"{describe_error(error)}{place}"


def describe_place(calls: Iterable[tuple[str, int]]) -> str:
    """Return the place in the code of a plugin, as ` (FILE, line N)`; empty if there is none.

    `calls` are the files and lines of the calls, the outermost first.
    """
    files = [(Path(file), line) for file, line in calls if not file.startswith("<frozen")]
    foreign = [(file, line) for file, line in files if not any(map(file.is_relative_to, _OTHERS))]
    own = [(file, line) for file, line in foreign if file.parent == foreign[0][0].parent]
    return f" ({printable(own[-1][0].name)}, line {own[-1][1]})" if own else ""
