"""Where in a plugin an error came from: a line that its author can go to."""

import asyncio
import concurrent
import importlib
import traceback
from pathlib import Path

import pluggy

from hogpipe.text import describe_error, printable

# Folders of the code that imports plugins and calls them.
_BETWEEN = [Path(str(one.__file__)).parent for one in (asyncio, concurrent, importlib, pluggy)]
_OURS = [Path(__file__).parents[1], *_BETWEEN]


def describe_bug(error: BaseException) -> str:
    """Return the error in one printable line, with its place in the code of the plugin, if any.

    That is the deepest line that is in the same folder as the first one that is not ours: what a
    plugin calls may raise, but the plugin has called it.
    """
    files = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb((error.__cause__ or error).__traceback__)
        if not frame.f_code.co_filename.startswith("<frozen")
    ]
    foreign = [(file, line) for file, line in files if not any(map(file.is_relative_to, _OURS))]
    own = [(file, line) for file, line in foreign if file.parent == foreign[0][0].parent]
    place = f" ({printable(own[-1][0].name)}, line {own[-1][1]})" if own else ""
    return f"{describe_error(error)}{place}"
