"""Keeps what is known of this host's listening ports current, where records depend on it.

In: a function that reads them. Out: calls with `ServicePorts`, whenever they have changed.

They are read once a second, in an executor: about a tenth of a millisecond with the listening
sockets of an ordinary host, however many connections there are (linux/listening_ports.py).

A port counts as listening for a minute after its listener has closed: its connections may last, and
a service that restarts keeps its port.

Known limit: a flow to a port that has begun to listen since the last reading may be counted at its
other port if both ports are ephemeral, or none is.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress

from hogpipe.model import ServicePorts

_INTERVAL = 1.0
_RETENTION = 60.0


class ServicePortRefresher:
    """Calls `read` in `executor`, and passes what has changed to `on_change`."""

    def __init__(
        self,
        read: Callable[[], ServicePorts],
        executor: Executor,
        on_change: Callable[[ServicePorts], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._executor = executor
        self._on_change = on_change
        self._clock = clock
        self._listened: dict[int, float] = {}
        """When a socket was last seen to listen on each port."""
        self._latest: ServicePorts | None = None

    async def refresh(self) -> None:
        """Read once."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # descriptors are short: what was known stays, the next round reads
            latest = self._retain(await loop.run_in_executor(self._executor, self._read))
            if latest != self._latest:
                self._latest = latest
                self._on_change(latest)

    def _retain(self, ports: ServicePorts) -> ServicePorts:
        """Return `ports` with those on which a socket listened a moment ago."""
        if ports.listening is None:
            return ports
        now = self._clock()
        self._listened.update(dict.fromkeys(ports.listening, now))
        for port, seen_at in list(self._listened.items()):
            if now - seen_at > _RETENTION:
                del self._listened[port]
        return ServicePorts(frozenset(self._listened), ports.ephemeral)

    async def run(self, is_needed: Callable[[], bool]) -> None:
        """Read at intervals while `is_needed` returns true, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            if is_needed():
                await self.refresh()
