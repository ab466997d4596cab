"""Names the peers of a run's flows, by answers of DNS that are read meanwhile.

In: an `AnswerSource`; flows, from the threads that count them. Out: the names of their peers, and
counters. With `ReverseLookups`, peers that have no name so are asked about in reverse DNS.

Whenever flows are named, the answers that passed before are read first: so a connection has the
name that its process got just before. In between, `run` reads them in a thread of its own, within
`_CPU_SHARE` of a core, so that little is left to read then.

What may fail: nothing. Without answers there are no names.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Protocol

import msgspec

from hogpipe.enrichment.address_names import AddressNames
from hogpipe.enrichment.flow_names import FlowNames, FlowsToName, make_sums_to_name
from hogpipe.enrichment.reverse_lookups import ReverseLookups
from hogpipe.flows.packet_rows import FlowNaming, FlowSums
from hogpipe.model.peer_names import Answer, NameCounts

_CPU_SHARE = 0.2  # of one core
_MIN_REST = 0.02
_BATCH = 64  # packets: some 10 ms, if all are answers that are decoded
_MAX_CAUGHT_UP = 8192  # more than the kernel queues
_EXPIRE_SECONDS = 10.0


class AnswerSource(Protocol):
    """Where answers of DNS come from. For one thread at a time."""

    is_exhausted: bool
    """Whether the last reading left no packet."""

    def open(self) -> None:
        """Begin to capture; raises NotPermittedError or CaptureError."""

    def fileno(self) -> int:
        """Return the descriptor to wait for packets with; it is open."""

    def read_answers(self, most: int) -> list[Answer]:
        """Return the answers among the packets that passed, of which at most `most` are read."""

    @property
    def counts(self) -> NameCounts:
        """What was read so far."""

    def close(self) -> None:
        """Capture no more. May be called again."""


class PeerNaming:
    """The names of at most `max_flows` flows. `now_ns` is the clock of answers and flows."""

    def __init__(
        self,
        source: AnswerSource,
        max_flows: int,
        executor: Executor,
        now_ns: Callable[[], int] = time.time_ns,
        *,
        lookups: ReverseLookups | None = None,
    ) -> None:
        self._source = source
        self._lookups = lookups
        self._executor = executor
        self._now_ns = now_ns
        self._names = AddressNames()
        self._flows = FlowNames(self._names, max_flows, lookups)
        self._lock = threading.Lock()
        self._counted = NameCounts()

    def open(self) -> None:
        """Begin to capture; see AnswerSource."""
        self._source.open()
        if self._lookups is not None:
            self._lookups.open()

    def name(self, flows: FlowsToName) -> FlowNaming:
        """Return the names of the flows' peers; from any thread."""
        with self._lock:
            # At most what passed until now: in a flood, more comes than is read.
            for _ in range(0, _MAX_CAUGHT_UP, _BATCH):
                self._read()
                if self._source.is_exhausted:
                    break
            naming = self._flows.name(flows, self._now_ns())
        if self._lookups is not None:
            self._lookups.wake()
        return naming

    def name_sums(self, sums: FlowSums) -> FlowSums:
        """Return sums of the flow table with the names of the flows' peers."""
        if not len(sums):
            return sums
        return replace(sums, naming=self.name(make_sums_to_name(sums)))

    async def run(self) -> None:
        """Read answers as they pass, and ask for names if that is wanted, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_continually())
            if self._lookups is not None:
                group.create_task(self._lookups.run())

    async def _read_continually(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        descriptor = self._source.fileno()
        expires_at = loop.time() + _EXPIRE_SECONDS
        while True:
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
            readable.clear()
            cpu_seconds = await loop.run_in_executor(self._executor, self._read_batch)
            if loop.time() >= expires_at:
                expires_at = loop.time() + _EXPIRE_SECONDS
                await loop.run_in_executor(self._executor, self._expire)
            await asyncio.sleep(max(_MIN_REST, cpu_seconds / _CPU_SHARE))

    def take_counts(self) -> NameCounts:
        """Return what passed since the last call."""
        with self._lock:
            now = msgspec.structs.replace(self._source.counts, addresses=len(self._names))
            now.evicted += self._names.evicted
            now.reverse = None if self._lookups is None else self._lookups.counts
            taken, self._counted = now.since(self._counted), now
            return taken

    def close(self) -> None:
        """Read no more."""
        self._executor.shutdown(wait=False)
        with self._lock:
            self._source.close()

    def _read_batch(self) -> float:
        """Read some packets, and return the CPU seconds that it took."""
        started = time.thread_time()
        with self._lock:
            self._read()
        return time.thread_time() - started

    def _read(self) -> None:
        for answer in self._source.read_answers(_BATCH):
            self._names.ingest(answer)

    def _expire(self) -> None:
        with self._lock:
            self._flows.expire(self._now_ns())
