"""Asks the resolver of this host for the names of addresses, in the background.

In: addresses of peers, from the threads that name flows. Out: their names, and counters.

At most `_AT_ONCE` queries are open, and at most `_A_SECOND` begin in a second. Each ends after
`_SECONDS`, and all of them when `run` is cancelled.

The queries are DNS queries of type PTR to the servers of /etc/resolv.conf, which is read again
after `_CONFIGURATION_SECONDS`; neither /etc/hosts nor search domains are used. Tasks of the event
loop send them, from ordinary sockets that need no capability.

What may fail: each query; its address has no name then for a while.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

import msgspec

from hogpipe.enrichment.address_names import Naming
from hogpipe.enrichment.reverse_names import PointerAnswer, ReverseNames
from hogpipe.model.peer_names import ReverseCounts

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_AT_ONCE = 8
_A_SECOND = 20
_SECONDS = 4.0
_CONFIGURATION_SECONDS = 60.0


class PointerSource(Protocol):
    """Who knows the names of addresses."""

    def open(self) -> None:
        """Prepare what takes long; may block."""

    async def query(self, address: bytes) -> PointerAnswer | None:
        """Return the names of an address, None if that cannot be known now."""


class ReverseLookups:
    """The names of addresses, which `run` asks about; an `AddressLookup` for any thread."""

    def __init__(
        self,
        source: PointerSource,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        pause: float = 1 / _A_SECOND,
    ) -> None:
        self._names = ReverseNames()
        self._lock = threading.Lock()
        self._source = source
        self._now_ns = now_ns
        self._pause = pause
        """Seconds between two queries, at least."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queued = asyncio.Event()

    def open(self) -> None:
        """Prepare what takes long; may block."""
        self._source.open()

    def find(self, address: bytes, now_ns: int) -> Naming:
        """Return the name of an address, which may be asked about after the next `wake`."""
        with self._lock:
            return self._names.find(address, now_ns)

    @property
    def counts(self) -> ReverseCounts:
        """What happened so far."""
        with self._lock:
            return msgspec.structs.replace(self._names.counts)

    def wake(self) -> None:
        """Have `run` look for queued addresses; from any thread, while its event loop runs."""
        loop = self._loop
        if loop is not None and self._names.has_queued:
            loop.call_soon_threadsafe(self._queued.set)

    async def run(self) -> None:
        """Ask, until cancelled."""
        room = asyncio.Semaphore(_AT_ONCE)
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    while not self._names.has_queued:
                        self._queued.clear()
                        await self._queued.wait()
                    with self._lock:
                        address = self._names.take()
                    group.create_task(self._look_up(address, room))
                    await asyncio.sleep(self._pause)
        finally:
            self._loop = None

    async def _look_up(self, address: bytes, room: asyncio.Semaphore) -> None:
        answer = None
        try:
            answer = await self._source.query(address)
        finally:
            with self._lock:
                self._names.ingest(address, answer, self._now_ns())
            room.release()


def read_system_resolver() -> "Resolver":
    """Return a resolver with the servers of /etc/resolv.conf.

    Raises DNSException, OSError, or ValueError where they are malformed.
    """
    from dns.asyncresolver import Resolver

    return Resolver()


class PointerQueries:
    """A `PointerSource` that sends queries. `read_resolver` blocks, and is called by `executor`."""

    def __init__(
        self,
        executor: Executor,
        read_resolver: "Callable[[], Resolver]" = read_system_resolver,
        seconds: float = _SECONDS,
    ) -> None:
        self._executor = executor
        self._read_resolver = read_resolver
        self._seconds = seconds
        self._resolver: Resolver | None = None
        self._read_at = 0.0

    def open(self) -> None:
        """Import dnspython's resolver, which takes long."""
        import dns._asyncio_backend
        import dns.asyncresolver  # noqa: F401

    async def query(self, address: bytes) -> PointerAnswer | None:
        """Return the names of an address; see PointerSource."""
        import dns.asyncbackend
        import dns.exception
        import dns.resolver

        try:
            resolver = await self._update_resolver()
            answer = await resolver.resolve_address(
                str(ip_address(address)),
                search=False,
                raise_on_no_answer=False,
                lifetime=self._seconds,
                backend=dns.asyncbackend.get_backend("asyncio"),
            )
        except dns.resolver.NXDOMAIN:
            return PointerAnswer(frozenset())
        except (dns.exception.DNSException, OSError, ValueError):
            return None  # also of a malformed /etc/resolv.conf; counted as failed
        if answer.rrset is None:
            return PointerAnswer(frozenset())
        names = {record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset}
        return PointerAnswer(frozenset(names - {"."}), answer.rrset.ttl)

    async def _update_resolver(self) -> "Resolver":
        """Return the resolver, read again after a while: a host may get other servers."""
        loop = asyncio.get_running_loop()
        if self._resolver is None or loop.time() - self._read_at >= _CONFIGURATION_SECONDS:
            self._resolver = await loop.run_in_executor(self._executor, self._read_resolver)
            self._read_at = loop.time()
        return self._resolver
