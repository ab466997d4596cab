"""PURE: the problems of a configuration, collected so that one error reports them all.

A key path is the way to a value, `("sinks", 1, "port")`, and is written `sinks[1].port`.
Every line is printable, whatever the file held. A value from a reference
(`{env = ...}`, `{file = ...}`) may be a secret: a problem that quotes its value therefore has a
second text, `redacted`, which is used instead when the value is marked as secret.
"""

import difflib
import re
from collections.abc import Collection, Sequence

from hogpipe.text import printable

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_QUOTE = 200


class Problems:
    """Problems by key path.

    One mistake often causes several problems, so only the first is kept of those that concern the
    same value, a table around it or a value inside it.
    """

    def __init__(self) -> None:
        self._problems: list[tuple[KeyPath, str]] = []
        self._wrong: set[KeyPath] = set()
        self._wrong_or_above: set[KeyPath] = set()
        self._secret_or_above: set[KeyPath] = set()

    def mark_secret(self, key_path: KeyPath) -> None:
        """Forbid quoting the value at `key_path`; call it before adding a problem there."""
        self._secret_or_above.update(_prefixes(key_path))

    def add(self, key_path: KeyPath, text: str, *, redacted: str | None = None) -> None:
        """Record the problem `text` of the value at `key_path`.

        `redacted` is the same problem without the value. It is recorded instead of `text` if the
        value is, or contains, a secret. Without it `text` must not quote the value.
        """
        if self.has_problem(key_path):
            return
        if redacted is not None and self.is_secret(key_path):
            text = redacted
        self._problems.append((key_path, text))
        self._wrong.add(key_path)
        self._wrong_or_above.update(_prefixes(key_path))

    def has_problem(self, key_path: KeyPath) -> bool:
        """Return whether the value at `key_path`, one inside it or one around it is wrong."""
        return key_path in self._wrong_or_above or not self._wrong.isdisjoint(_prefixes(key_path))

    def is_secret(self, key_path: KeyPath) -> bool:
        """Return whether the value at `key_path` is, or contains, a secret."""
        return key_path in self._secret_or_above

    def format_lines(self, source: str) -> list[str]:
        """Return one line for each problem of the file `source`, in the order of recording."""
        return [
            printable(f"{source}: {format_key_path(key_path)}: {text}")
            for key_path, text in self._problems
        ]


def _prefixes(key_path: KeyPath) -> list[KeyPath]:
    """Return the paths of all tables and arrays around `key_path`, and itself."""
    return [key_path[:length] for length in range(len(key_path) + 1)]


def format_key_path(key_path: KeyPath) -> str:
    """Return `key_path` as the documentation writes it; keys that are not bare are quoted."""
    text = ""
    for step in key_path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _BARE_KEY.fullmatch(step) else quote(step))
    return text


def shorten(text: str) -> str:
    """Return `text`, or only its beginning and end if it is long."""
    half = _LONGEST_QUOTE // 2
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:half]}…{text[-half:]}"


def quote(text: object) -> str:
    """Return `text` in quotes, shortened if it is long."""
    return f'"{shorten(str(text))}"'


def format_value(value: object) -> str:
    """Return `value`, shortened if it is long and in quotes if it is a string."""
    return quote(value) if isinstance(value, str) else shorten(str(value))


def suggest(word: str, known: Collection[str]) -> str:
    """Return the end of a line about an unknown `word`: a similar one of `known`, or all."""
    near = difflib.get_close_matches(word[:_LONGEST_QUOTE], known, n=1)
    return f"; did you mean {quote(near[0])}?" if near else list_known(known)


def list_known(known: Collection[str]) -> str:
    """Return the end of a line that lists all of `known`."""
    return f"; known: {', '.join(known) or 'none'}"


def list_choices(choices: Sequence[object]) -> str:
    """Return `choices` as a phrase: `"a", "b" or "c"`."""
    *most, last = map(format_value, choices)
    return f"{', '.join(most)} or {last}" if most else last
