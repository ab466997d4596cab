"""Whether a sink keeps its secrets: none may be in the text of an error, or in what is logged."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from hogpipe.testing.case import BrokenPromiseError


def check_text(text: str, secrets: Collection[str], where: str) -> None:
    """Raise BrokenPromiseError if `text` holds one of `secrets`; it is not repeated."""
    for secret in secrets:
        if secret in text:
            place = text.partition(secret)[0][-40:]
            raise BrokenPromiseError(f"{where} tells a secret, after {place!r}")


@contextmanager
def listening(secrets: Collection[str]) -> Iterator[None]:
    """Raise BrokenPromiseError in the end if a secret was logged, at whichever level.

    Everything is logged meanwhile, as by `hogpipe -vv`.
    """
    if not secrets:
        yield
        return
    ear, root = _Ear(), logging.getLogger()
    level = root.level
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(ear)
    for name, text in ear.lines:
        check_text(text, secrets, f"the log of {name}")


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, self.format(record)))
