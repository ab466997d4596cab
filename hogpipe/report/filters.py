"""PURE: the selectors of `hogpipe report --only`, as those of a run, for records.

A selector is `kind:pattern`, or `!kind:pattern` to exclude. Traffic counts if one of the selectors
without `!` matches it, or if there is none of those, and no selector with `!` does. Text is
compared with a case-sensitive shell glob, a pid or port as a number, a remote with an address or a
prefix.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address

import msgspec

from hogpipe.model.networks import parse_prefix
from hogpipe.report.record_columns import (
    CGROUP,
    COMMAND,
    CONTAINER,
    CONTAINER_NAME,
    DOMAIN,
    EXECUTABLE,
    HOST,
    IMAGE,
    INTERFACE,
    NAMESPACE,
    NETWORK,
    NUMERIC,
    PARENT,
    PARENT_PROGRAM,
    PID,
    POD,
    POD_NAME,
    PORT,
    PROGRAM,
    REMOTE,
    UNIT,
    USER,
    Column,
)

Value = str | int | float | bool | None

_KINDS: Mapping[str, tuple[Column, ...]] = {
    "pid": (PID,),
    "program": (PROGRAM,),
    "exe": (EXECUTABLE,),
    "command": (COMMAND,),
    "parent": (PARENT, PARENT_PROGRAM),
    "user": (USER,),
    "cgroup": (CGROUP,),
    "unit": (UNIT,),
    "container": (CONTAINER, CONTAINER_NAME),
    "pod": (POD, POD_NAME),
    "image": (IMAGE,),
    "namespace": (NAMESPACE,),
    "port": (PORT,),
    "network": (NETWORK,),
    "remote": (REMOTE,),
    "domain": (DOMAIN,),
    "interface": (INTERFACE,),
    "host": (HOST,),
}
NO_OWNER = "none"
"""The selector of traffic without a process."""


class Filter(msgspec.Struct, frozen=True):
    """One selector."""

    columns: tuple[Column, ...]
    matches: Callable[[Sequence[Value]], bool]
    """Whether the values of the columns are wanted; None stands for no value."""
    excludes: bool


class Filters:
    """What several selectors choose together; without any, all traffic."""

    def __init__(self, filters: Iterable[Filter]) -> None:
        self._filters = tuple(filters)
        self.columns = tuple(
            dict.fromkeys(column for one in self._filters for column in one.columns)
        )
        """The columns whose values decide."""

    def select(self, values: Mapping[Column, Value]) -> bool:
        """Return whether traffic with these values of `columns` counts."""

        def matches(one: Filter) -> bool:
            return one.matches([values[column] for column in one.columns])

        included = [one for one in self._filters if not one.excludes]
        if any(matches(one) for one in self._filters if one.excludes):
            return False
        return not included or any(map(matches, included))


def parse_filters(texts: Sequence[str]) -> Filters:
    """Return the filters that are written so. Raises ValueError with a message for the user."""
    return Filters(map(_parse, texts))


def _parse(text: str) -> Filter:
    excludes = text.startswith("!")
    bare = text.removeprefix("!")
    if bare == NO_OWNER:
        return _make_filter((PROGRAM,), lambda value: value is None, excludes)
    kind, _, pattern = bare.partition(":")
    if kind not in _KINDS or not pattern:
        kinds = ", ".join(_KINDS)
        raise ValueError(
            f"{text!r} is not a selector: write kind:pattern, !kind:pattern to exclude, or "
            f"{NO_OWNER} for traffic without an owner; kind one of {kinds}"
        )
    column = _KINDS[kind][0]
    if column == REMOTE:
        return _make_filter((column,), _make_remote_test(text, pattern), excludes)
    if column in NUMERIC:
        return _make_filter((column,), _make_number_test(text, pattern), excludes)
    if column == EXECUTABLE and "/" not in pattern:
        pattern = f"*/{pattern}"  # the name of the file, as for a run
    if column == POD and "/" in pattern:  # no uid and no name has one
        return Filter((NAMESPACE, POD_NAME), lambda pod: _matches_pod(pod, pattern), excludes)
    return _make_filter(_KINDS[kind], lambda value: _matches_text(value, pattern), excludes)


def _make_filter(
    columns: tuple[Column, ...], matches: Callable[[Value], bool], excludes: bool
) -> Filter:
    """Return a filter of which one column must match."""
    return Filter(columns, lambda values: any(map(matches, values)), excludes)


def _matches_pod(pod: Sequence[Value], pattern: str) -> bool:
    namespace, name = pod
    return name is not None and fnmatchcase(f"{namespace or ''}/{name}", pattern)


def _matches_text(value: Value, pattern: str) -> bool:
    return value is not None and fnmatchcase(str(value), pattern)


def _make_number_test(text: str, pattern: str) -> Callable[[Value], bool]:
    if not (pattern.isascii() and pattern.isdigit()):
        raise ValueError(f"{text!r} is not a selector: {pattern!r} is not a number")
    number = int(pattern)
    return lambda value: value == number


def _make_remote_test(text: str, pattern: str) -> Callable[[Value], bool]:
    try:
        prefix = parse_prefix(pattern)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a selector: {error}") from error

    def matches(value: Value) -> bool:
        try:
            address = ip_address(str(value)).packed
        except ValueError:  # no address, or none that this host could have written
            return False
        is_of_family = len(address) == prefix.size
        return is_of_family and prefix.start <= int.from_bytes(address) < prefix.end

    return matches
