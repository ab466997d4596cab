"""An error of a plugin, described with the line of the plugin that raised it."""

import asyncio
import concurrent
import importlib
import traceback
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
    files = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb((error.__cause__ or error).__traceback__)
        if not frame.f_code.co_filename.startswith("<frozen")
    ]
    foreign = [(file, line) for file, line in files if not any(map(file.is_relative_to, _OTHERS))]
    own = [(file, line) for file, line in foreign if file.parent == foreign[0][0].parent]
    place = f" ({printable(own[-1][0].name)}, line {own[-1][1]})" if own else ""
    return f"{describe_error(error)}{place}"
