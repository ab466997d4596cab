"""What a sink is checked with: how to make one, how to read what arrived, how to make trouble."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from hogpipe.records.schema import Record
from hogpipe.sinks.contract import SinkSettings, SinkType

Trouble = Callable[[], AbstractAsyncContextManager[None]]
Document = Mapping[str, object]


class BrokenPromiseError(AssertionError):
    """A sink does not do what sinks promise; a line for each promise, beginning with its name."""


def _everything(_record: Record) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class SinkCase:
    """A sink type and its receiver. Exactly one of `arrived` and `total_bytes` is given.

    The receiver may be used for many checks: each has run ids of its own, and looks at nothing
    else.
    """

    sink_type: SinkType[SinkSettings]
    keys: Mapping[str, object]
    """What its `[[sinks]]` table holds, beside `type`: the receiver is up and takes everything.
    `write_timeout` is 2 seconds where it says nothing else; each check of slowness takes so long.
    """
    arrived: Callable[[], Awaitable[Sequence[Document]]] | None = None
    """Reads all that the receiver has, in the order of its arrival, repeats included. Each is a
    record as it was sent; or, if not `whole`, a mapping with its `run` and `sequence`. Like
    `total_bytes` it is called at any time outside of trouble, and over and over."""
    total_bytes: Callable[[], Awaitable[int]] | None = None
    """For a sink that sends no records but sums: reads the bytes of all traffic, both directions
    together, that have arrived; 0 while there is nothing to read from."""
    outage: Trouble | None = None
    """Breaks the receiver's connections and lets nothing through, until the context is left."""
    stall: Trouble | None = None
    """The receiver keeps its connections and answers nothing, until the context is left."""
    refusal: Callable[[Record], AbstractAsyncContextManager[None]] | None = None
    """Has the receiver refuse this one record for good, and take all others."""
    wrong_keys: Sequence[Mapping[str, object]] = ()
    """Changes to `keys` that make no sense and must be refused, before the run or when it opens;
    None takes a key away."""
    secrets: Sequence[str] = ()
    """Values among `keys` that no error and no log line may hold."""
    wanted: Callable[[Record], bool] = _everything
    """Which records the sink sends on, if it leaves some out by design."""
    whole: bool = True
    """Whether what `arrived` gives are whole records, which must then be as they were sent."""
    ordered: bool = True
    """Whether the receiver keeps the order."""
    exactly_once: bool = False
    """Whether nothing may arrive twice even after a failure."""
    largest_window: int = 50_000
    """How many records the largest window has."""
    patience: float = 20.0
    """Seconds until what should arrive soon counts as lost."""

    def __post_init__(self) -> None:
        if (self.arrived is None) == (self.total_bytes is None):
            raise TypeError("give either arrived or total_bytes")


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found; `kept` and `left_out` are names of promises, in their order."""

    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    """Those that this case has no means to check: it has no such trouble."""
    longest_block: float
    """Seconds for which the sink held up the event loop at the most, in its largest window. A
    measurement, on this machine and in this moment: nothing is said against it."""
