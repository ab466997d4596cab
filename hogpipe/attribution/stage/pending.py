"""PURE: the flows that wait for an owner, in the order in which they came and by when they are due.

Flows that were never looked for come first: their sockets are the likeliest to be still there.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import count, groupby, islice
from operator import itemgetter

import msgspec

from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey, Span

_FIRST_PAUSE = 0.05
_MOST_PIECES = 8  # between two look-ups


class Waiting(msgspec.Struct, eq=False, gc=False):
    """A pending flow. A connection that takes over its five-tuple makes a new one of these.

    What it moved is kept in pieces, as it came, for they may be of several owners.
    """

    delta: FlowDelta
    """The sum."""
    since: float
    pause: float = _FIRST_PAUSE
    """How long to wait before the next try, in seconds."""
    fallback: Attribution = UNATTRIBUTED
    """What is known of it should no owner be found."""
    answered: bool = False
    """Whether a look-up has told anything of it yet."""
    gone: bool = False
    """Whether a look has shown that it has no socket any more: another would be in vain."""
    pieces: list[FlowDelta] = msgspec.field(default_factory=list)
    """In order; empty while there is but one."""
    asked: int = 0
    """How many of the pieces the last look-up was asked about."""

    @property
    def is_opening(self) -> bool:
        """Whether nothing but SYNs has passed: one that follows is sent again, not anew."""
        delta = self.delta
        return delta.opened and not (delta.transmit_packets and delta.receive_packets)

    def add(self, delta: FlowDelta) -> None:
        """Add what came later."""
        if not self.pieces:
            self.pieces.append(copy(self.delta))
        if len(self.pieces) - self.asked < _MOST_PIECES:
            self.pieces.append(copy(delta))
        else:
            self.pieces[-1].add(delta)
        self.delta.add(delta)

    def ask(self) -> Sequence[Span]:
        """Return when the pieces passed, for a look-up; nothing where that is not known."""
        if not self.pieces:
            self.asked = 1
            span = self.delta.span
            return () if span is None else (span,)
        self.asked = len(self.pieces)
        spans = [span for piece in self.pieces if (span := piece.span) is not None]
        return spans if len(spans) == self.asked else ()

    def all_pieces(self) -> Sequence[FlowDelta]:
        """Return all that it moved, in order."""
        return self.pieces or (self.delta,)

    def split(self) -> tuple[Sequence[FlowDelta], Sequence[FlowDelta]]:
        """Return the pieces that were asked about, and those that came since."""
        if not self.pieces:
            return (self.delta,), ()
        return self.pieces[: self.asked], self.pieces[self.asked :]


def sum_runs(
    pieces: Sequence[FlowDelta], answers: Sequence[Attribution]
) -> Iterator[tuple[FlowDelta, Attribution]]:
    """Yield the sum of all pieces in a row that have the same answer, with that; in order."""
    for answer, run in groupby(zip(answers, pieces, strict=True), key=itemgetter(0)):
        total = FlowDelta()
        for _answer, piece in run:
            total.add(piece)
        yield total, answer


class PendingFlows:
    """Each flow is pending until `pop`, and due once until `put_off` makes it so again."""

    def __init__(self) -> None:
        self._flows: dict[FlowKey, Waiting] = {}
        self._fresh: dict[FlowKey, Waiting] = {}
        self._again: list[tuple[float, int, FlowKey, Waiting]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._flows)

    def items(self) -> Iterator[tuple[FlowKey, Waiting]]:
        """Yield all, the one that came first at the head."""
        return iter(self._flows.items())

    def get(self, flow: FlowKey) -> Waiting | None:
        """Return how a flow waits, None if it does not."""
        return self._flows.get(flow)

    def add(self, flow: FlowKey, waiting: Waiting) -> None:
        """Let a flow wait that does not yet; it is due at once."""
        self._flows[flow] = self._fresh[flow] = waiting

    def pop(self, flow: FlowKey) -> None:
        """Let a flow wait no longer."""
        del self._flows[flow]
        self._fresh.pop(flow, None)

    def put_off(self, flow: FlowKey, waiting: Waiting, due: float) -> None:
        """Make a flow that was taken due again, at this time."""
        heapq.heappush(self._again, (due, next(self._serial), flow, waiting))

    def next_due(self) -> float:
        """Return when something is due: minus infinity for at once, infinity for never."""
        if self._fresh:
            return -math.inf
        return self._again[0][0] if self._again else math.inf

    def take_due(self, now: float, most: int) -> dict[FlowKey, Waiting]:
        """Return what is due, at most so many; it is not due any more."""
        taken: dict[FlowKey, Waiting] = {}
        for flow in list(islice(self._fresh, most)):
            taken[flow] = self._fresh.pop(flow)
        while self._again and self._again[0][0] <= now and len(taken) < most:
            _due, _serial, flow, waiting = heapq.heappop(self._again)
            if self._flows.get(flow) is waiting:  # else it waits no longer
                taken[flow] = waiting
        return taken
