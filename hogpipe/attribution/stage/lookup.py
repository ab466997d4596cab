"""Looking owners up: in an executor, one at a time, with cost and failures counted."""

import asyncio
import logging
import threading
import time
from concurrent.futures import Executor
from contextlib import suppress
from copy import copy

import msgspec

from hogpipe.attribution.resolver import (
    FlowSpans,
    Resolution,
    Resolver,
)
from hogpipe.model import (
    FlowKey,
    ResolverCounts,
)
from hogpipe.text import describe_error

log = logging.getLogger(__name__)


class LookupCounts(msgspec.Struct):
    """What look-ups did since the last time that was asked."""

    batches: int = 0
    failed: int = 0
    seconds: float = 0.0
    """CPU time of the executor's thread."""
    resolver: ResolverCounts = msgspec.field(default_factory=ResolverCounts)


class LookupRunner:
    """Calls `resolver` in `executor`; a call that was cancelled ends before the next begins."""

    def __init__(self, resolver: Resolver, executor: Executor) -> None:
        self._resolver = resolver
        self._executor = executor
        self._one_at_a_time = threading.Lock()
        self._failing = False
        self._counts = LookupCounts()
        self._resolver_now = copy(resolver.counts())
        self._resolver_before = self._resolver_now

    async def prepare(self) -> None:
        """Let the resolver read ahead; that /proc fails will show again in the first look-up.

        Raises HogpipeError where the resolver cannot do what was asked for.
        """
        with suppress(OSError):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._resolver.prepare)
        self._resolver_now = copy(self._resolver.counts())

    async def find(self, flows: FlowSpans) -> tuple[dict[FlowKey, Resolution], float]:
        """Return what one look-up found, nothing if it failed, and the CPU seconds it took."""
        loop = asyncio.get_running_loop()
        found, error, counts, seconds = await loop.run_in_executor(
            self._executor, self._call, flows
        )
        if error is not None:
            self._note_failure(error)
        self._failing = error is not None
        self._resolver_now = counts
        self._counts.batches += 1
        self._counts.seconds += seconds
        return found, seconds

    def drain_counts(self) -> LookupCounts:
        """Return what was done since the last time."""
        counts, self._counts = self._counts, LookupCounts()
        counts.resolver = self._resolver_now.since(self._resolver_before)
        self._resolver_before = self._resolver_now
        return counts

    def _note_failure(self, error: Exception) -> None:
        self._counts.failed += 1
        if not self._failing:
            reason = describe_error(error)
            log.warning("owners of traffic cannot be looked up, trying on: %s", reason)
            log.debug("where the look-up failed", exc_info=error)

    def _call(
        self, flows: FlowSpans
    ) -> tuple[dict[FlowKey, Resolution], Exception | None, ResolverCounts, float]:
        with self._one_at_a_time:
            found: dict[FlowKey, Resolution] = {}
            failure: Exception | None = None
            before = time.thread_time()
            try:
                found = self._resolver.resolve(flows)
            except Exception as error:  # noqa: BLE001 - no failed look-up may end the run
                failure = error
            seconds = time.thread_time() - before
            return found, failure, copy(self._resolver.counts()), seconds
