"""Where the windows of one sink wait: here in memory, in spooled.py also on disk."""

import asyncio
from collections.abc import Sequence

from hogpipe.delivery.backlog import Backlog, WhenFull
from hogpipe.record import Record, SpoolInfo


class Outbox:
    """Windows in order; one at a time is handed out, by `next`, until `done` is called.

    Counts are in records. `queued` is without what is handed out.
    """

    def __init__(self, limit: int, when_full: WhenFull) -> None:
        self._backlog = Backlog(limit, when_full)
        self._folding: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """How many records wait."""
        return self._backlog.queued

    @property
    def kept(self) -> int:
        """How many outlive the run, handed out or not."""
        return 0

    @property
    def dropped(self) -> int:
        """How many had to give way, or could not be read any more."""
        return self._backlog.dropped

    @property
    def coalesced(self) -> int:
        """How many went up in another one."""
        return self._backlog.coalesced

    @property
    def full(self) -> bool:
        """Whether another window would be one too many."""
        return self._backlog.full

    @property
    def ready(self) -> bool:
        """Whether `next` has a window to give."""
        return self._backlog.queued > 0

    async def open(self) -> None:
        """Get ready; raises ConfigurationError where that will never be possible."""

    def offer(self, records: Sequence[Record]) -> None:
        """Let a window wait."""
        self._backlog.push(records)
        if self._backlog.excess and (self._folding is None or self._folding.done()):
            self._folding = asyncio.create_task(self._fold())

    async def keep_up(self) -> None:
        """Wait until memory is within its bounds, or nearly so."""
        if self._backlog.swamped and self._folding is not None:
            await asyncio.wait({self._folding})

    async def next(self) -> Sequence[Record]:
        """Hand out the oldest window; empty if none is ready. Raises OSError."""
        return self._backlog.pop()

    async def done(self) -> None:
        """Forget what is handed out: it is delivered or dropped."""

    def abandon(self, handed_out: int) -> int:
        """Drop what would be lost with the run; return how many records, of `handed_out` too."""
        lost = self.count_lost(handed_out)
        while self._backlog.pop():
            pass
        return lost

    def count_lost(self, handed_out: int) -> int:
        """Return how many records end with the run, given how many are still handed out."""
        return self._backlog.queued + handed_out

    async def close(self) -> None:
        """Let go of everything; nothing is offered any more."""
        if self._folding is not None:
            self._folding.cancel()

    def describe(self) -> SpoolInfo | None:
        """Return how the disk stands, where one is used."""
        return None

    async def _fold(self) -> None:
        """Bring what waits in memory within its bounds, with turns for the rest of the loop."""
        for _ in self._backlog.fold():
            await asyncio.sleep(0)
