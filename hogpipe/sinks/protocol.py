"""What a sink is.

A sink type is a name, the settings that its table in the configuration takes, and a factory. A
sink is opened once, gets each window's records in order from one task, and is closed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from hogpipe.record import Record


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every `[[sinks]]` table takes; a sink's own settings are a subclass."""

    type: str
    name: str | None = None
    """How logs and stats call it; the type where absent."""
    queue_windows: int = 64
    """How many windows may wait for it."""
    when_full: Literal["coalesce", "drop_oldest", "block"] = "coalesce"
    retry_initial: float = 0.5
    """Seconds to wait before the second try; doubles with each further one."""
    retry_max: float = 30.0
    """The longest wait between two tries, in seconds."""


class Sink(Protocol):
    """Takes records somewhere."""

    async def open(self) -> None:
        """Get ready to write.

        Raises ConfigurationError for what no retry can mend (the run does not start), OSError or
        DeliveryError for what may pass (it is retried).
        """

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver one window's records, all of them or none.

        Raises OSError or DeliveryError to get the same records again later, RefusedError to have
        them counted as dropped, OutputClosedError to end the run.
        """

    async def close(self) -> None:
        """Release everything; called once, also after a failed open."""


@runtime_checkable
class Reopenable(Protocol):
    """A sink that lets go of its files and opens them anew on SIGHUP."""

    async def reopen(self) -> None:
        """Close and open again under the same name."""


S = TypeVar("S", bound=SinkSettings)


@dataclass(frozen=True, slots=True)
class SinkType(Generic[S]):
    """A kind of sink that the configuration can name."""

    name: str
    settings: type[S]
    create: Callable[[S], Sink]
