"""The values that a configuration only points at: `{env = "NAME"}` and `{file = "PATH"}`.

A table with exactly the one key `env` or `file`, whose value is a string, is a reference; it may
stand for any value. What it gives is text, of which nothing is ever told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hogpipe.config.problems import Place, Report, quote

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Referenced:
    """The text that a reference gave; empty where it gave none, and that is reported."""

    text: str = field(default="", repr=False)


class Resolver:
    """Puts what references give in their place. Relative paths start from `folder`."""

    def __init__(self, folder: Path, environ: Mapping[str, str], report: Report) -> None:
        self._folder = folder
        self._environ = environ
        self._report = report

    def resolve(self, tables: Mapping[str, object]) -> dict[str, object]:
        """Return `tables` with a `Referenced` in the place of each reference."""
        return {key: self._value(value, (key,)) for key, value in tables.items()}

    def _value(self, value: object, place: Place) -> object:
        match value:
            case {"env": str(name), **others} if not others:
                return self._reference(place, lambda: _read_variable(self._environ, name))
            case {"file": str(name), **others} if not others:
                return self._reference(place, lambda: _read_file(self._folder, name))
            case dict():
                return {key: self._value(item, (*place, key)) for key, item in value.items()}
            case list():
                return [self._value(item, (*place, index)) for index, item in enumerate(value)]
            case _:
                return value

    def _reference(self, place: Place, read: Callable[[], str]) -> Referenced:
        self._report.add_secret(place)
        try:
            return Referenced(read())
        except ValueError as error:
            self._report.add(place, str(error))
            return Referenced()


def locate(folder: Path, text: str) -> Path:
    """Return the path that `text` names, seen from `folder`; raises ValueError."""
    if not text or "\0" in text:
        raise ValueError("must not hold a NUL character" if text else "must not be empty")
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError("the home folder that ~ stands for is not known") from error


def _read_variable(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name)
    if text is None:
        raise ValueError(f"environment variable {quote(name)} is not set")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"environment variable {quote(name)} is not UTF-8") from None
    return text


def _read_file(folder: Path, name: str) -> str:
    try:
        with locate(folder, name).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"file {quote(name)} is not UTF-8") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read file {quote(name)}: {reason}") from error
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"file {quote(name)} is larger than {_LARGEST_FILE} bytes")
    return text.removesuffix("\n")
