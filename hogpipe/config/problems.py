"""PURE: what is wrong with a configuration, gathered until all of it can be told at once.

A place is the way to a value, `("sinks", 1, "port")`, and is written `sinks[1].port`. Each line is
printable whatever the file held. A value that came from a reference may be a secret: a problem
that quotes its value has a second wording for that case.
"""

import difflib
import re
from collections.abc import Collection, Sequence

from hogpipe.text import printable

Place = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_QUOTE = 200


class Report:
    """Problems by place. Of problems at, inside or around one place, only the first is kept."""

    def __init__(self) -> None:
        self._problems: list[tuple[Place, str]] = []
        self._wrong: set[Place] = set()
        self._around_wrong: set[Place] = set()
        self._around_secret: set[Place] = set()

    def add_secret(self, place: Place) -> None:
        """Note that the value at `place` must not be told; before any problem there is added."""
        self._around_secret.update(_around(place))

    def add(self, place: Place, text: str, *, discreet: str | None = None) -> None:
        """Note that `text` is wrong at `place`.

        `discreet` says it without quoting the value, in case that one is a secret or holds one.
        """
        if not self.is_wrong(place):
            if discreet is not None and self.is_secret(place):
                text = discreet
            self._problems.append((place, text))
            self._wrong.add(place)
            self._around_wrong.update(_around(place))

    def is_wrong(self, place: Place) -> bool:
        """Return whether there is a problem at, inside or around `place`."""
        return place in self._around_wrong or not self._wrong.isdisjoint(_around(place))

    def is_secret(self, place: Place) -> bool:
        """Return whether the value at `place` must not be told, or holds one that must not."""
        return place in self._around_secret

    def lines(self, source: str) -> list[str]:
        """Return one line for each problem of the file `source`, in the order they were found."""
        return [
            printable(f"{source}: {write_place(place)}: {text}") for place, text in self._problems
        ]


def _around(place: Place) -> list[Place]:
    return [place[:length] for length in range(len(place) + 1)]


def write_place(place: Place) -> str:
    """Return `place` as the documentation writes it; odd keys are quoted."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _BARE_KEY.fullmatch(step) else quote(step))
    return text


def shorten(text: str) -> str:
    """Return `text`, or its two ends if it is long."""
    half = _LONGEST_QUOTE // 2
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:half]}…{text[-half:]}"


def quote(text: object) -> str:
    """Return a text shortly, in quotes."""
    return f'"{shorten(str(text))}"'


def show(value: object) -> str:
    """Return a value shortly, in quotes if it is a string."""
    return quote(value) if isinstance(value, str) else shorten(str(value))


def suggest(word: str, known: Collection[str]) -> str:
    """Return the end of a line about the unknown `word`: the near one of the `known`, or all."""
    near = difflib.get_close_matches(word[:_LONGEST_QUOTE], known, n=1)
    return f"; did you mean {quote(near[0])}?" if near else list_known(known)


def list_known(known: Collection[str]) -> str:
    """Return the end of a line that names all that would have been known."""
    return f"; known: {', '.join(known) or 'none'}"


def list_choices(choices: Sequence[object]) -> str:
    """Return `choices` in words: `"a", "b" or "c"`."""
    *most, last = map(show, choices)
    return f"{', '.join(most)} or {last}" if most else last
