"""The files that the tables of sinks name, before any plugin says what its keys mean.

In: the `[[sinks]]` tables, not yet converted. Out: paths. `path` and `spool` are written to; any
other text that is the path of something that exists is read, such as a key or a certificate.
The files of references are left out: they were read already.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from hogpipe.config.references import ReferencedText

_WRITTEN = ("path", "spool")


class NamedFiles(msgspec.Struct, frozen=True):
    """What the sinks use, as far as their tables show it."""

    written: tuple[Path, ...] = ()
    """Files and folders, which may not exist yet."""
    read: tuple[Path, ...] = ()
    """Files that exist."""


def find_named_files(sinks: object, expand: Callable[[str], Path]) -> NamedFiles:
    """Return the files that `sinks`, the value of that key, name; `expand` may raise ValueError."""
    written, read = list[Path](), list[Path]()
    for table in sinks if isinstance(sinks, list) else ():
        if not isinstance(table, dict):
            continue
        for key, value in table.items():
            paths = [*_expand_each(value, expand)]
            if key in _WRITTEN:
                written += paths
            else:
                read += [path for path in paths if _is_file(path)]
    return NamedFiles(tuple(dict.fromkeys(written)), tuple(dict.fromkeys(read)))


def _expand_each(value: object, expand: Callable[[str], Path]) -> Iterator[Path]:
    match value:
        case str(text) | ReferencedText(text=text):
            with suppress(ValueError):  # the conversion reports it
                yield expand(text)
        case dict():
            for item in value.values():
                yield from _expand_each(item, expand)
        case list():
            for item in value:
                yield from _expand_each(item, expand)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a path
        return False
