"""Runs lookups in an executor, one at a time, and counts their cost and their failures.

A lookup that fails returns no resolutions; the first of several failures in a row is logged.

A lookup that does not end (a file of /proc that blocks, or a directory of users over the network)
cannot be ended from outside: no other one begins before it has ended. A line of the log says so
after `_LONG_SECONDS`, with what is being read, and another one once it has ended. Meanwhile flows
are pending no longer than their `hold`, and a stop does not wait.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from copy import copy
from typing import TypeVar, TypeVarTuple

import msgspec

from hogpipe.attribution.resolver import FlowSpans, Resolution, Resolver
from hogpipe.model import FlowKey, ResolverCounts
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

_LONG_SECONDS = 5.0  # of a lookup, of which most take milliseconds


class LookupCounts(msgspec.Struct):
    """The work of the lookups in a window."""

    batches: int = 0
    failed: int = 0
    cpu_seconds: float = 0.0
    """CPU time of the executor's thread."""
    resolver: ResolverCounts = msgspec.field(default_factory=ResolverCounts)


class _Outcome(msgspec.Struct):
    resolutions: dict[FlowKey, Resolution]
    error: Exception | None
    cpu_seconds: float
    counts: ResolverCounts


class LookupRunner:
    """Calls `resolver` in `executor`; a call that was cancelled ends before the next one begins."""

    def __init__(self, resolver: Resolver, executor: Executor) -> None:
        self._resolver = resolver
        self._executor = executor
        self._one_at_a_time = threading.Lock()
        self._is_failing = False
        self._is_blocking = False
        self._counts = LookupCounts()
        self._resolver_counts = copy(resolver.counts())
        self._resolver_counts_drained = self._resolver_counts

    async def prepare(self) -> None:
        """Let the resolver read ahead. Raises HogpipeError where a required source is missing.

        An OSError is not raised: the first lookup meets the same and counts as failed.
        """
        with suppress(OSError):
            await self._call(self._resolver.prepare)
        await self._call(self.take_counts)

    async def resolve(self, flows: FlowSpans) -> tuple[dict[FlowKey, Resolution], float]:
        """Return the resolutions of one lookup, none if it failed, and its CPU seconds."""
        try:
            outcome = await self._call(self._resolve_blocking, flows)
        except (InterruptedError, RuntimeError) as error:  # something ended the call (threads.py)
            outcome = _Outcome({}, error, 0.0, self._resolver_counts)
        if outcome.error is not None:
            self._count_failure(outcome.error)
        self._is_failing = outcome.error is not None
        self._resolver_counts = outcome.counts
        self._counts.batches += 1
        self._counts.cpu_seconds += outcome.cpu_seconds
        return outcome.resolutions, outcome.cpu_seconds

    def take_counts(self) -> None:
        """Take over what the resolver did outside of lookups; none runs."""
        self._resolver_counts = copy(self._resolver.counts())

    def drain_counts(self) -> LookupCounts:
        """Return the work since the last call."""
        counts, self._counts = self._counts, LookupCounts()
        counts.resolver = self._resolver_counts.since(self._resolver_counts_drained)
        self._resolver_counts_drained = self._resolver_counts
        return counts

    async def _call(
        self, work: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Return the result of `work` in the executor; report if that takes long, and its end."""
        loop = asyncio.get_running_loop()
        since, self._is_blocking = loop.time(), False
        reporting = loop.call_later(_LONG_SECONDS, self._report_blocking)
        try:
            result = await loop.run_in_executor(self._executor, work, *arguments)
        finally:
            reporting.cancel()
        if self._is_blocking:
            log.warning("the lookup of owners has ended, after %.0f s", loop.time() - since)
        return result

    def _report_blocking(self) -> None:
        self._is_blocking = True
        log.warning(
            "a lookup of owners has not ended for %.0f s; "
            "new traffic has no owner until it has: it waits for %s",
            _LONG_SECONDS,
            self._resolver.describe_reading(),
        )

    def _count_failure(self, error: Exception) -> None:
        self._counts.failed += 1
        if not self._is_failing:
            reason = describe_error(error)
            log.warning("cannot look up the owners of traffic, will retry: %s", reason)
            log.debug("where the lookup failed", exc_info=error)

    def _resolve_blocking(self, flows: FlowSpans) -> _Outcome:
        with self._one_at_a_time:
            resolutions: dict[FlowKey, Resolution] = {}
            failure: Exception | None = None
            before = time.thread_time()
            try:
                resolutions = self._resolver.resolve(flows)
            except Exception as error:  # noqa: BLE001 - no failed lookup may end the run
                failure = error
            cpu_seconds = time.thread_time() - before
            return _Outcome(resolutions, failure, cpu_seconds, copy(self._resolver.counts()))
