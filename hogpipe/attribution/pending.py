"""PURE: the flows that wait for an owner, in the order in which they came and by when they are due.

Flows that were never looked for come first: their sockets are the likeliest to be still there.
"""

import heapq
import math
from collections.abc import Iterator
from itertools import count, islice

import msgspec

from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey

_FIRST_PAUSE = 0.05


class Waiting(msgspec.Struct, eq=False, gc=False):
    """A pending flow. A connection that takes over its five-tuple makes a new one of these."""

    delta: FlowDelta
    since: float
    pause: float = _FIRST_PAUSE
    """How long to wait before the next try, in seconds."""
    fallback: Attribution = UNATTRIBUTED
    """What is known of it should no owner be found."""
    answered: bool = False
    """Whether a look-up has told anything of it yet."""
    gone: bool = False
    """Whether a look has shown that it has no socket any more: another would be in vain."""


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
