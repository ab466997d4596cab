"""PURE: the selectors of `only`, which choose the owners whose traffic gets records of its own.

A selector is written `kind:pattern`. Patterns are case-sensitive shell globs (`*`, `?`, `[…]`), in
which `*` also matches slashes. A pid is compared as a number, and so is a user that is one.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Literal, get_args

import msgspec

from hogpipe.model import Attribution, Process

_Kind = Literal["pid", "exe", "unit", "container", "pod", "user", "cgroup"]
_ID_DIGITS = 10  # pids and user ids have 32 bits


class Selector(msgspec.Struct, frozen=True):
    """One entry of `only`."""

    kind: _Kind
    pattern: str

    def matches(self, attribution: Attribution) -> bool:
        """Return whether the owner is selected; an unknown property matches no pattern."""
        if self.kind == "user":
            return _matches_user(self.pattern, attribution)
        process = attribution.process
        return process is not None and _PROCESS_TESTS[self.kind](self.pattern, process)


def parse_selector(text: str) -> Selector:
    """Return the selector that is written `text`, such as `exe:nginx*`.

    Raises ValueError with a message for the user.
    """
    prefix, _, pattern = text.partition(":")
    kind = next((known for known in get_args(_Kind) if known == prefix), None)
    if kind is None or not pattern:
        kinds = ", ".join(get_args(_Kind))
        raise ValueError(f"{text!r} is not a selector: write kind:pattern, kind one of {kinds}")
    if kind == "pid" and not _is_number(pattern):
        raise ValueError(f"{text!r} is not a selector: a pid is a number, as in pid:4242")
    return Selector(kind, pattern)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS


def _matches_user(pattern: str, attribution: Attribution) -> bool:
    if (process := attribution.process) is not None:
        user_id, name = process.user_id, process.user_name
    elif (user := attribution.user) is not None:
        user_id, name = user.id, user.name
    else:
        return False
    if _is_number(pattern):
        return user_id == int(pattern)
    return _matches_text(pattern, name)


def _matches_pid(pattern: str, process: Process) -> bool:
    return process.pid == int(pattern)


def _matches_executable(pattern: str, process: Process) -> bool:
    """Match the whole path if `pattern` has a slash, otherwise the base name.

    The name of the process is matched instead if the executable is unknown, as that of a kernel
    thread is, and that of a process that exited unread may be.
    """
    path = process.executable
    if path is None or "/" not in pattern:
        return fnmatchcase(process.name, pattern)
    return fnmatchcase(path, pattern)


def _matches_text(pattern: str, text: str | None) -> bool:
    return text is not None and fnmatchcase(text, pattern)


_PROCESS_TESTS: dict[str, Callable[[str, Process], bool]] = {
    "pid": _matches_pid,
    "exe": _matches_executable,
    "unit": lambda pattern, process: _matches_text(pattern, process.unit),
    "container": lambda pattern, process: _matches_text(pattern, process.container),
    "pod": lambda pattern, process: _matches_text(pattern, process.pod),
    "cgroup": lambda pattern, process: _matches_text(pattern, process.cgroup),
}
