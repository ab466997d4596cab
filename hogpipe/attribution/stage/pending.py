"""PURE: the table of pending flows, by arrival and by the time when each is due.

New flows are due at once and come first: their sockets are the most likely to be open still. Of
more than a lookup takes, the newest come first: the oldest would be given up before they are
answered, and each lookup would be too late for its flows. A flow that a lookup left undecided is
due again at the time that its `PendingResolution` names. A flow without a socket is due at its
deadline, or at that of one which was deferred before. In a flood these are the most, so they need
no place in a heap.

Bounds: `max_flows` flows, each for `hold` seconds.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator
from copy import copy
from itertools import count, islice, takewhile

from hogpipe.attribution.stage.flow_cache import CachedFlow
from hogpipe.attribution.stage.pending_resolution import PendingResolution
from hogpipe.model import FlowDelta, FlowKey

_MIN_COMPACTED = 1024  # flows: smaller dicts are not worth the work


class PendingFlows:
    """A flow is pending from `start` to `pop`, and due once after `start` and each `defer`."""

    def __init__(self, max_flows: int, hold: float) -> None:
        self._max_flows = max_flows
        self._hold = hold
        self._flows: dict[FlowKey, PendingResolution] = {}
        """In the order of their arrival."""
        self._new: dict[FlowKey, PendingResolution] = {}
        """Those that no lookup was asked about."""
        self._deferred: list[tuple[float, int, PendingResolution]] = []
        """A heap by due time; flows that are no longer pending remain until they are due."""
        self._without_socket: deque[PendingResolution] = deque()
        """Deferred flows without a socket, in the order of `defer`; likewise."""
        self._serial = count()
        self._most_flows = 0
        """The most flows at the end of a window since the dicts were made."""

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[PendingResolution]:
        return iter(self._flows.values())

    @property
    def new_flows(self) -> int:
        """How many flows no lookup was asked about."""
        return len(self._new)

    @property
    def room(self) -> int:
        """How many further flows can be added."""
        return self._max_flows - len(self._flows)

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions."""
        return sum(pending.total.total_bytes for pending in self)

    def get(self, flow: FlowKey) -> PendingResolution | None:
        """Return a pending flow, None if the flow is not pending."""
        return self._flows.get(flow)

    def start(
        self, flow: FlowKey, delta: FlowDelta, now: float, known: CachedFlow | None = None
    ) -> PendingResolution:
        """Make a flow pending that is not; `delta` is copied.

        `known` is the attribution that a lookup is compared with, if the flow has one.
        """
        pending = PendingResolution(
            flow, copy(delta), now, self._hold, known=known, is_answered=known is not None
        )
        self._flows[flow] = self._new[flow] = pending
        return pending

    def pop(self, flow: FlowKey) -> None:
        """Remove a pending flow."""
        del self._flows[flow]
        self._new.pop(flow, None)

    def defer(self, pending: PendingResolution, due: float) -> None:
        """Make a flow that `take_due` returned due again at `due`."""
        if pending.has_no_socket:
            self._without_socket.append(pending)
        else:
            heapq.heappush(self._deferred, (due, next(self._serial), pending))

    def next_due(self) -> float:
        """Return when a flow is due: minus infinity for at once, infinity for never."""
        if self._new:
            return -math.inf
        due = self._deferred[0][0] if self._deferred else math.inf
        return min(due, self._without_socket[0].deadline) if self._without_socket else due

    def take_due(self, now: float, max_flows: int) -> list[PendingResolution]:
        """Return at most `max_flows` flows that are due; they are not due any more."""
        taken = list(islice(reversed(self._new.values()), max_flows))[::-1]
        for pending in taken:
            del self._new[pending.flow]
        while self._deferred and self._deferred[0][0] <= now and len(taken) < max_flows:
            _due, _serial, pending = heapq.heappop(self._deferred)
            if self._is_pending(pending):
                taken.append(pending)
        without_socket = self._without_socket
        while without_socket and without_socket[0].deadline <= now and len(taken) < max_flows:
            pending = without_socket.popleft()
            if self._is_pending(pending):
                taken.append(pending)
        return taken

    def expired(self, now: float, max_flows: int) -> list[PendingResolution]:
        """Return at most `max_flows` flows whose deadline has passed, the oldest first."""
        return list(takewhile(lambda pending: pending.deadline <= now, self.oldest(max_flows)))

    def oldest(self, max_flows: int) -> list[PendingResolution]:
        """Return at most `max_flows` flows, the oldest first."""
        return list(islice(self._flows.values(), max_flows))

    def compact(self) -> None:
        """Release the memory of flows that are no longer pending: a dict never shrinks."""
        while self._deferred and not self._is_pending(self._deferred[0][2]):
            heapq.heappop(self._deferred)
        while self._without_socket and not self._is_pending(self._without_socket[0]):
            self._without_socket.popleft()
        self._most_flows = max(self._most_flows, len(self._flows))
        if self._most_flows > max(4 * len(self._flows), _MIN_COMPACTED):
            self._flows, self._new = dict(self._flows), dict(self._new)
            self._most_flows = len(self._flows)

    def _is_pending(self, pending: PendingResolution) -> bool:
        return self._flows.get(pending.flow) is pending
