"""Where the sinks of a run may write to and connect to, by Landlock, and what a reload may add.

In: sinks with their settings. Out: `WriteBounds`. The folder of each path in the settings of a sink
counts, or the nearest one that exists: files are rotated, created and made anew beside the one that
is named. Folders for temporary files count too.

Landlock cannot be loosened. So a configuration that names a place outside of these folders while a
run goes on is refused, and takes a restart.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from hogpipe.config.settings import ConfiguredSink
from hogpipe.errors import ConfigurationError
from hogpipe.linux.landlock import restrict_thread
from hogpipe.ownership import resolve_output
from hogpipe.sinks import builtin
from hogpipe.sinks.tcp.endpoints import parse_endpoint
from hogpipe.sinks.tcp.tcp_sink import TcpSettings
from hogpipe.text import printable

_BUILT_IN = frozenset(one.name for one in builtin.hogpipe_sinks())
_NULL = Path(os.devnull)
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - where libraries such as SQLite go
_NAME_SERVICE = 53  # over TCP, for long answers


class WriteBounds(msgspec.Struct, frozen=True):
    """What the threads of sinks may write below, and which TCP ports they may connect to."""

    folders: tuple[Path, ...]
    ports: frozenset[int] | None
    """None for all of them."""

    def enforce(self) -> None:
        """Restrict this thread, and those that it starts later. Raises OSError."""
        restrict_thread([*self.folders, _NULL], self.ports)

    def check(self, sinks: Sequence[ConfiguredSink]) -> None:
        """Raise ConfigurationError if other sinks need more."""
        problems = []
        for index, sink in enumerate(sinks):
            problems += [
                f"sinks[{index}]: {printable(str(folder))} is outside of the folders that sinks "
                "could write to when the run began; restart it"
                for folder in _find_folders(sink)
                if not any(folder.is_relative_to(allowed) for allowed in self.folders)
            ]
            ports = _find_ports(sink) if self.ports is not None else frozenset()
            if ports is None or ports - (self.ports or ports):
                problems.append(
                    f"sinks[{index}]: it connects to ports that no sink named when the run began; "
                    "restart it"
                )
        if problems:
            raise ConfigurationError(problems)


def find_bounds(
    sinks: Sequence[ConfiguredSink], outputs: Sequence[Path] = (), *, bounds_ports: bool
) -> WriteBounds:
    """Return what these sinks and other outputs need; ports only if each sink is a built-in one."""
    named = [folder for sink in sinks for folder in _find_folders(sink)]
    named += [_find_existing_folder(path) for one in outputs for path in _with_target(one)]
    temporary = Path(os.environ.get("TMPDIR", _TEMPORARY[0]))  # which need not exist
    folders = dict.fromkeys([*named, temporary, *_TEMPORARY])
    found = [_find_ports(sink) for sink in sinks]
    ports = frozenset({_NAME_SERVICE}).union(*(one for one in found if one is not None))
    return WriteBounds(tuple(folders), ports if bounds_ports and None not in found else None)


def _find_folders(sink: ConfiguredSink) -> Iterator[Path]:
    for value in msgspec.structs.asdict(sink.settings).values():
        if isinstance(value, Path) or (isinstance(value, str) and value.startswith(os.sep)):
            for path in _with_target(Path(value)):
                yield _find_existing_folder(path)


def _with_target(path: Path) -> Collection[Path]:
    """Return the path, and where it leads if that is elsewhere."""
    with suppress(OSError, ValueError):  # who opens it reports that
        return {path.absolute(), resolve_output(path)}
    return {path.absolute()}


def _find_existing_folder(path: Path) -> Path:
    for folder in (path, *path.parents):
        with suppress(OSError):
            if folder.is_dir():
                return folder
    return Path("/")


def _find_ports(sink: ConfiguredSink) -> frozenset[int] | None:
    """Return the ports that a sink connects to; None if that is not known."""
    settings = sink.settings
    if sink.type.name not in _BUILT_IN:
        return None
    if not isinstance(settings, TcpSettings):
        return frozenset()
    ports = {parse_endpoint(text).port for text in settings.endpoints}
    return frozenset(ports | ({settings.port} if settings.port else set()))
