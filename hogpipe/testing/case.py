"""What a check needs: a sink type, its receiver, and the trouble that the receiver can make."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from hogpipe.records.schema import Record
from hogpipe.sinks.contract import SinkSettings, SinkType

Trouble = Callable[[], AbstractAsyncContextManager[None]]
Document = Mapping[str, object]


class BrokenPromiseError(AssertionError):
    """A sink breaks its contract; one line for each broken promise, beginning with its name."""


def _accept_all(_record: Record) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class SinkCase:
    """A sink type and its receiver. Exactly one of `arrived` and `total_bytes` is given.

    One receiver may serve many checks: each has run ids of its own, and looks at these only.
    """

    sink_type: SinkType[SinkSettings]
    keys: Mapping[str, object]
    """Its `[[sinks]]` table, without `type`, for a receiver that is up and takes everything.
    `write_timeout` is 2 seconds if absent; each check of slowness takes so long."""
    arrived: Callable[[], Awaitable[Sequence[Document]]] | None = None
    """Reads all documents that the receiver has, in the order of arrival, repeats included. Each is
    a record as it was sent; or, if not `whole`, a mapping with its `run` and `sequence`. Like
    `total_bytes` it is called repeatedly, at any time without trouble."""
    total_bytes: Callable[[], Awaitable[int]] | None = None
    """For a sink that sends sums instead of records: reads the bytes of all traffic that have
    arrived, both directions together; 0 while there is nothing to read."""
    outage: Trouble | None = None
    """Breaks the receiver's connections and accepts none until the context ends."""
    stall: Trouble | None = None
    """Keeps the receiver's connections and answers nothing until the context ends."""
    refusal: Callable[[Record], AbstractAsyncContextManager[None]] | None = None
    """Makes the receiver refuse this one record for good, and take all others."""
    wrong_keys: Sequence[Mapping[str, object]] = ()
    """Changes to `keys` that must be refused before the run or by `open`; None removes a key."""
    secrets: Sequence[str] = ()
    """Values among `keys` that no error and no log line may contain."""
    wanted: Callable[[Record], bool] = _accept_all
    """Which records the sink sends, if it omits some by design."""
    whole: bool = True
    """Whether `arrived` returns whole records, which must be unchanged."""
    ordered: bool = True
    """Whether the receiver keeps the order."""
    exactly_once: bool = False
    """Whether no record may arrive twice, even after a failure."""
    largest_window: int = 50_000
    """Records in the largest window."""
    patience: float = 20.0
    """Seconds after which a record that has not arrived counts as lost."""

    def __post_init__(self) -> None:
        if (self.arrived is None) == (self.total_bytes is None):
            raise TypeError("give either arrived or total_bytes")


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a check; `kept` and `left_out` are names of promises, in their order."""

    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    """Promises that this case has no means to check, such as an outage."""
    longest_block: float
    """The longest time in seconds for which the sink blocked the event loop, with its largest
    window; a measurement of this machine, which fails no check."""
