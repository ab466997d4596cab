"""What a sink is.

A sink type is a name, the settings that its table in the configuration takes, and a factory. A
sink is opened once, gets each window's records in order from one task, and is closed once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Meta

from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every `[[sinks]]` table takes; a sink's own settings are a subclass."""

    type: str
    name: str | None = None
    """How logs and stats call it; the type where absent."""
    queue_windows: Annotated[int, Meta(ge=1)] = 64
    """How many windows may wait for it."""
    when_full: Literal["coalesce", "drop_oldest", "block"] = "coalesce"
    """Then: merge the oldest waiting windows, drop the oldest, or make the pipeline wait."""
    retry_initial: Annotated[float, Meta(gt=0)] = 0.5
    """The longest wait before the second try, in seconds; doubles with each further one."""
    retry_max: Annotated[float, Meta(gt=0)] = 30.0
    """The longest wait between any two tries, in seconds."""
    write_timeout: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds after which a write that has not ended counts as failed, and is tried again."""
    spool: Path | None = None
    """A folder of its own in which its windows wait until they are delivered."""
    spool_mib: Annotated[int, Meta(ge=1)] = 256
    """How much the spool may hold."""

    def __repr__(self) -> str:
        """Tell which sink's settings these are; any value may be a secret, so none is shown."""
        return f"<{type(self).__name__} of the sink {self.name or self.type}>"


class Sink(Protocol):
    """Takes records somewhere."""

    async def open(self) -> None:
        """Get ready to write.

        Raises ConfigurationError for what no retry can mend (the run does not start), OSError or
        DeliveryError for what may pass (it is called again).
        """

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver one window's records. Other sinks get them too: only read.

        Raises OSError or DeliveryError to get the same records again later (or, of DeliveryError,
        only those that it names), RefusedError to have them counted as dropped, OutputClosedError
        to end the run. It may be cancelled; it is not called again before it has returned.
        """

    async def close(self) -> None:
        """Release everything; called once, also after a failed open."""


@runtime_checkable
class Reopenable(Protocol):
    """A sink that lets go of its files and opens them anew on SIGHUP."""

    async def reopen(self) -> None:
        """Close and open again under the same name."""


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


# Covariant although `create` and `check` take it: whoever holds a SinkType[SinkSettings] gives them
# only what was decoded as `settings`.
S_co = TypeVar("S_co", bound=SinkSettings, covariant=True)


@dataclass(frozen=True, slots=True)
class SinkType(Generic[S_co]):
    """A kind of sink that the configuration can name."""

    name: str
    """What `type` says in a `[[sinks]]` table."""
    settings: type[S_co]
    """A msgspec.Struct: the keys of that table with their types, bounds and defaults."""
    create: Callable[[S_co], Sink]
    """Makes the sink; it does no I/O, that is for `open`."""
    check: Callable[[S_co], Iterable[SettingProblem]] = _find_nothing
    """What is wrong with settings beyond their types, such as a file that is not there; it may look
    at files, not at the network. `hogpipe check` and the start of a run tell it."""
