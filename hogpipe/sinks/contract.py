"""The contract of sinks: types only, but for `raise_problems`.

A sink type has a name, the settings of its `[[sinks]]` table, and a factory. A sink is opened until
that succeeds, gets the records of each window in order from one task, and is closed once. Its
errors are those of the protocol `Sink`; delivery/ turns every other error into a dropped window.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Meta

from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record

DURATION = {"quantity": "duration"}
Seconds = Annotated[float, Meta(extra=DURATION)]
"""The type of a setting that is a duration: seconds, or text such as "500ms", "30s" or "1h30m"."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of every `[[sinks]]` table; the settings of a sink type are a subclass."""

    type: str
    name: str | None = None
    """Its name in logs and stats; the type if absent."""
    queue_windows: Annotated[int, Meta(ge=1)] = 64
    """How many windows its queue holds."""
    when_full: Literal["coalesce", "drop_oldest", "block"] = "coalesce"
    """The overflow policy: merge the oldest windows, drop the oldest, or block the pipeline."""
    stats: Annotated[bool | Annotated[float, Meta(gt=0)], Meta(extra=DURATION)] = True
    """Whether it gets stats records: one a window, none, or one in so many seconds, with the sums
    of all windows since the one before."""
    retry_initial: Annotated[Seconds, Meta(gt=0)] = 0.5
    """The longest wait before the first retry, in seconds; doubles with each further one."""
    retry_max: Annotated[Seconds, Meta(gt=0)] = 30.0
    """The longest wait between any two attempts, in seconds."""
    write_timeout: Annotated[Seconds, Meta(gt=0)] = 30.0
    """Seconds after which a write is cancelled, counts as failed, and is retried."""
    spool: Path | None = None
    """The folder of its queue on disk, its own; without one, the queue is in memory."""
    spool_mib: Annotated[int, Meta(ge=1)] = 256
    """The bound of the spool, in MiB."""

    def __repr__(self) -> str:
        """Name the sink; show no value, as any may be a secret."""
        return f"<{type(self).__name__} of the sink {self.name or self.type}>"


class Sink(Protocol):
    """Delivers records to a receiver."""

    async def open(self) -> None:
        """Prepare for writing.

        Raises ConfigurationError for what no retry can fix (the run does not start), InUseError
        among these for what another sink uses, and OSError or DeliveryError for what may pass (it
        is retried).
        """

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver the records of one window; other sinks read the same objects.

        Raises OSError or DeliveryError to have the records written again (with `undelivered` only
        those), RefusedError to have them dropped and counted, OutputClosedError to end the run. It
        may be cancelled, and is not called again before it has ended.
        """

    async def close(self) -> None:
        """Release everything; called once, also after an open that failed or was not made."""


@runtime_checkable
class Reopenable(Protocol):
    """A sink that reopens its files on SIGHUP."""

    async def reopen(self) -> None:
        """Close the files, and open the same paths."""


@runtime_checkable
class Probeable(Protocol):
    """A sink that reports what it connects to, for `hogpipe check --connect`."""

    async def probe(self) -> str:
        """Return in one line what `open` would find, without a lasting effect.

        Raises what `open` raises. `close` follows, and no other call.
        """


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """A setting that cannot work."""

    key_path: tuple[str | int, ...]
    """The path to it from the sink's table: `("tls", "ca")`, `("endpoints", 1)`."""
    text: str
    """What is wrong, in one line; it may quote the value."""
    redacted: str | None = None
    """The text without the value, which may be a secret; None if `text` quotes no value."""


def raise_problems(problems: Iterable[SettingProblem]) -> None:
    """Raise ConfigurationError with a line for each problem, if there are any."""
    lines = [f"{_format_key_path(problem.key_path)}: {problem.text}" for problem in problems]
    if lines:
        raise ConfigurationError(lines)


def _format_key_path(key_path: tuple[str | int, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in key_path)
    return "".join(steps).removeprefix(".")


def _find_nothing(_settings: SinkSettings) -> Iterable[SettingProblem]:
    return ()


# Covariant although `create` and `check` take it: they are called only with what was decoded as
# `settings`.
S_co = TypeVar("S_co", bound=SinkSettings, covariant=True)


@dataclass(frozen=True, slots=True)
class SinkType(Generic[S_co]):
    """A type of sink that the configuration can name."""

    name: str
    """The value of `type` in a `[[sinks]]` table."""
    settings: type[S_co]
    """A msgspec.Struct: the keys of that table with their types, bounds and defaults."""
    create: Callable[[S_co], Sink]
    """Makes the sink; does no I/O."""
    check: Callable[[S_co], Iterable[SettingProblem]] = _find_nothing
    """Finds problems beyond types and bounds, such as a missing file; may read files, may not use
    the network. `hogpipe check` and the start of a run report them."""
