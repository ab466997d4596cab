"""A sink in the delivery of a run, with its queue and its retries, while its receiver fails.

`check_sink` calls a sink directly; here the windows pass through the queue of a run. What goes in:
the sink, its settings and a context in which the receiver is down. What comes out: the records that
were published, and the counts of the sink.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.records.schema import Record, SinkInfo
from hogpipe.sinks.contract import Sink, SinkSettings
from hogpipe.testing.case import BrokenPromiseError, Trouble
from hogpipe.testing.records import RecordMaker

K = TypeVar("K", bound=Sink)

_LARGEST_WINDOW = 700  # records
_LONGEST_PHASE = 0.2  # seconds, of an outage and between two of them
_DELIVERY_SECONDS = 60.0  # from the last outage to the last delivery


@dataclass(frozen=True, slots=True)
class OutageReport:
    """What a sink was given between outages, and what became of it."""

    records: list[Record]
    """All that were published, in order."""
    counts: SinkInfo
    """The counts of the sink at the end, as a stats record has them."""


@asynccontextmanager
async def opened(sink: K) -> AsyncIterator[K]:
    """Open a sink, and close it when the context ends, also if it could not be opened."""
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def deliver_through_outages(
    sink: Sink, settings: SinkSettings, outage: Trouble, *, rounds: int = 6, windows: int = 8
) -> OutageReport:
    """Publish `windows` windows, then an outage, and so on; return when all is delivered.

    The sizes of windows and the durations are the same in every call. Raises BrokenPromiseError if
    records are still queued a minute after the last outage.
    """
    dispatcher = Dispatcher([(sink, settings)], on_output_closed=lambda: None)
    await dispatcher.open()
    maker, rng = RecordMaker(), random.Random(7)  # noqa: S311 - for a repeatable test
    published: list[Record] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        for _round in range(rounds):
            for _window in range(windows):
                records = maker.window(rng.randrange(1, _LARGEST_WINDOW))
                published += records
                await dispatcher.publish(records)
                await asyncio.sleep(0)
            await asyncio.sleep(rng.random() * _LONGEST_PHASE)
            async with outage():
                await asyncio.sleep(rng.random() * _LONGEST_PHASE)
        with suppress(TimeoutError):  # drain reports what is left
            async with asyncio.timeout(_DELIVERY_SECONDS):
                await dispatcher.idle()
        left = await dispatcher.drain(1)
    if left:
        raise BrokenPromiseError("; ".join(one.text for one in left))
    (counts,) = dispatcher.health()
    return OutageReport(published, counts)
