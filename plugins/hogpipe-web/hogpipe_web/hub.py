"""Sends the live windows to the pages that are open.

In: windows (`publish`) and subscriptions. Out: for each subscriber the bytes of its events, in
order: a `snapshot` first, then a `window` for each further window.

Each subscriber has a queue of at most `MOST_QUEUED` windows. One that reads slower loses what is
queued: the number is counted, and it gets a `gap` event with it and a snapshot instead, which has
the lost windows too. Subscribers with the same question share its view and the bytes of its events.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import msgspec

from hogpipe_web.messages import Query
from hogpipe_web.ring import Ring, WindowSums
from hogpipe_web.views import View

MOST_QUEUED = 8
"""The most windows in the queue of a subscriber."""
ALIVE_SECONDS = 15.0
"""The longest silence of a stream."""


class TooManyError(Exception):
    """There are as many subscribers as there may be."""


class Subscriber:
    """One page that is open."""

    def __init__(self, channel: "_Channel") -> None:
        self.channel = channel
        self.lost = 0
        """Windows that were dropped because it read too slowly, since it subscribed."""
        self._queue: deque[bytes] = deque()
        self._needs_snapshot = True
        self._newly_lost = 0
        self._closed = False
        self._wake = asyncio.Event()
        self._wake.set()

    def offer(self, event: bytes | None) -> int:
        """Queue an event, None for one that only a snapshot describes; return how many are lost."""
        if self._needs_snapshot:  # one that never read anything yet loses nothing
            lost = 1 if self._newly_lost else 0
        elif event is not None and len(self._queue) < MOST_QUEUED:
            self._queue.append(event)
            lost = 0
        else:
            lost = len(self._queue) + 1 if event is not None else 0
            self._queue.clear()
            self._needs_snapshot = True
        self._newly_lost += lost
        self.lost += lost
        self._wake.set()
        return lost

    async def next_event(self) -> bytes | None:
        """Return what to send next; None once it is closed."""
        while not self._closed:
            if self._needs_snapshot:
                gap = encode_event("gap", {"lost": self._newly_lost}) if self._newly_lost else b""
                self._needs_snapshot, self._newly_lost = False, 0
                return gap + self.channel.snapshot()
            if self._queue:
                return self._queue.popleft()
            self._wake.clear()
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                return encode_event("alive", {})
        return None

    def close(self) -> None:
        """End its stream."""
        self._closed = True
        self._wake.set()


@dataclass(slots=True)
class _Channel:
    """The subscribers with one question."""

    view: View
    subscribers: set[Subscriber] = field(default_factory=set)
    _snapshot: bytes | None = None

    def snapshot(self) -> bytes:
        """Return the event of the whole picture, which is encoded once a window."""
        if self._snapshot is None:
            self._snapshot = encode_event("snapshot", self.view.snapshot())
        return self._snapshot

    def invalidate(self) -> None:
        """Invalidate the snapshot: there is a newer window."""
        self._snapshot = None


class Hub:
    """The live windows, and who reads them."""

    def __init__(self, ring: Ring, most_subscribers: int) -> None:
        self.ring = ring
        self._most = most_subscribers
        self._channels: dict[Query, _Channel] = {}
        self.lost = 0
        """Windows that subscribers lost, since the start."""
        self.refused = 0
        """Subscriptions refused because there were too many, since the start."""

    def __len__(self) -> int:
        """Return how many subscribers there are."""
        return sum(len(channel.subscribers) for channel in self._channels.values())

    def publish(self, sums: WindowSums) -> None:
        """Add a window, and queue it for each subscriber."""
        update = self.ring.add(sums)
        for channel in self._channels.values():
            change = channel.view.advance(update)
            channel.invalidate()
            event = None if change is None else encode_event("window", change)
            for subscriber in channel.subscribers:
                self.lost += subscriber.offer(event)

    def subscribe(self, query: Query) -> Subscriber:
        """Return a new subscriber; raises TooManyError."""
        if len(self) >= self._most:
            self.refused += 1
            raise TooManyError
        channel = self._channels.get(query)
        if channel is None:
            channel = self._channels[query] = _Channel(View(self.ring, query))
        subscriber = Subscriber(channel)
        channel.subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, and its view if it was the last one of it."""
        subscriber.channel.subscribers.discard(subscriber)
        for query, channel in list(self._channels.items()):
            if not channel.subscribers:
                del self._channels[query]

    def close(self) -> None:
        """End all streams."""
        for channel in self._channels.values():
            for subscriber in channel.subscribers:
                subscriber.close()


def encode_event(name: str, content: object) -> bytes:
    """Return a server-sent event; JSON has no line breaks."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(content))
