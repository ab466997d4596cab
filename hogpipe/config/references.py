"""References: values that a configuration keeps elsewhere, `{env = "NAME"}` or `{file = "PATH"}`.

A table with exactly one key, `env` or `file`, whose value is a string, is a reference. A reference
may stand for any value. It gives text, which may be a secret and is never quoted in a message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hogpipe.config.problems import KeyPath, Problems, quote
from hogpipe.files import read_regular

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class ReferencedText:
    """The text that a reference gave; empty if it could not be read, which is then a problem."""

    text: str = field(default="", repr=False)


class ReferenceReader:
    """Reads environment variables and files in place of the references to them.

    Relative paths start from `folder`. Every reference is marked as secret in `problems`, and one
    that cannot be read is a problem there.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], problems: Problems) -> None:
        self._folder = folder
        self._environ = environ
        self._problems = problems

    def read_references(self, tables: Mapping[str, object]) -> dict[str, object]:
        """Return `tables` with a `ReferencedText` in place of each reference."""
        return {key: self._read_value(value, (key,)) for key, value in tables.items()}

    def _read_value(self, value: object, at: KeyPath) -> object:
        match value:
            case {"env": str(name), **others} if not others:
                return self._read_reference(at, lambda: _read_variable(self._environ, name))
            case {"file": str(name), **others} if not others:
                return self._read_reference(at, lambda: _read_file(self._folder, name))
            case dict():
                return {key: self._read_value(item, (*at, key)) for key, item in value.items()}
            case list():
                return [self._read_value(item, (*at, index)) for index, item in enumerate(value)]
            case _:
                return value

    def _read_reference(self, at: KeyPath, read: Callable[[], str]) -> ReferencedText:
        self._problems.mark_secret(at)
        try:
            return ReferencedText(read())
        except ValueError as error:
            self._problems.add(at, str(error))
            return ReferencedText()


def expand_path(folder: Path, text: str) -> Path:
    """Return `text` as a path: `~` expanded, relative to `folder`; raises ValueError."""
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
        content = read_regular(expand_path(folder, name), _LARGEST_FILE + 1)
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"file {quote(name)} is not UTF-8") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read file {quote(name)}: {reason}") from error
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"file {quote(name)} is larger than {_LARGEST_FILE} bytes")
    return text.removesuffix("\n")
