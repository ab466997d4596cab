"""PURE: keys of a configuration that have a new name, and still work for one version.

In: the tables of a file. Out: the tables with the new names, and a warning for each old one. A key
that is given by both names is a problem. There is no entry now; `RenamedKey` says how to add one,
and a test fails once an entry is older than a version.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

from hogpipe.config.problems import Problems, format_key_path


class RenamedKey(NamedTuple):
    """A key of a section, or of each table of `[[sinks]]`, that has a new name.

    `since` is the version with the new name, such as "0.2"; the old one is an unknown key in the
    version after it.
    """

    section: str
    old: str
    new: str
    since: str


RENAMED_KEYS: tuple[RenamedKey, ...] = ()


def rename_keys(
    tables: Mapping[str, object], renamed: Sequence[RenamedKey], problems: Problems
) -> tuple[Mapping[str, object], list[str]]:
    """Return the tables with the new names, and the warnings; the argument is not changed."""
    if not renamed:
        return tables, []
    changed, warnings = deepcopy(dict(tables)), []
    for key in renamed:
        for at, table in _list_tables(changed, key.section):
            if key.old not in table:
                continue
            old, new = ((*at, name) for name in (key.old, key.new))
            if key.new in table:
                problems.add(old, f"the former name of {format_key_path(new)}, which is there, too")
                continue
            table[key.new] = table.pop(key.old)
            warnings.append(
                f"{format_key_path(old)}: is called {format_key_path(new)} since {key.since}; "
                "the next version does not know the former name"
            )
    return changed, warnings


def list_expired(renamed: Sequence[RenamedKey], version: str) -> list[RenamedKey]:
    """Return the entries that a version should no longer have: those that are older than it."""
    return [key for key in renamed if _parse(key.since) < _parse(version)]


def _list_tables(
    tables: dict[str, object], section: str
) -> Iterator[tuple[tuple[str | int, ...], dict[str, object]]]:
    """Yield the path and the table of a section; of an array, each one."""
    found = tables.get(section)
    if isinstance(found, dict):
        yield (section,), found
    elif isinstance(found, list):
        for index, one in enumerate(found):
            if isinstance(one, dict):
                yield (section, index), one


def _parse(version: str) -> tuple[int, ...]:
    """Return the two numbers of a version that say what users script against."""
    return tuple(int(number) for number in version.split(".")[:2])
