"""The threads of a run that have rights of their own: capture, lookup, refresh, and their events.

Each is an executor with one thread. `plain` makes threads that have the rights of whoever uses them
first, as a library needs it; `start_threads` starts them with what their role takes.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from hogpipe.linux.credentials import limit_capabilities
from hogpipe.linux.seccomp import deny_calls
from hogpipe.security.denied_calls import list_denied
from hogpipe.security.rights import Need, Role, select_capabilities
from hogpipe.threads import SerialExecutor


@dataclass(frozen=True, slots=True)
class RunThreads:
    """The executors of a run."""

    limit: Mapping[Role, Callable[[], None]]
    """What a thread of a role calls once it has what only the start takes."""
    capture: SerialExecutor = field(default_factory=lambda: _make_executor(Role.CAPTURE))
    lookup: SerialExecutor = field(default_factory=lambda: _make_executor(Role.LOOKUP))
    refresh: SerialExecutor = field(default_factory=lambda: _make_executor(Role.REFRESH))

    @classmethod
    def plain(cls) -> "RunThreads":
        """Return threads of which none drops anything."""
        return cls(dict.fromkeys(Role, _keep_all))

    @property
    def executors(self) -> Mapping[Role, SerialExecutor]:
        """The executors by role."""
        return {Role.CAPTURE: self.capture, Role.LOOKUP: self.lookup, Role.REFRESH: self.refresh}

    async def confine(self) -> None:
        """Drop what only the start took; the source is open."""
        loop = asyncio.get_running_loop()
        for role, executor in self.executors.items():
            await loop.run_in_executor(executor, self.limit[role])

    def shut_down(self) -> None:
        """End the threads once their work under way is done."""
        for executor in self.executors.values():
            executor.shutdown(wait=False)


def start_threads(needs: list[Need], *, has_filters: bool) -> RunThreads:
    """Start the threads; the calling thread has all capabilities that it may pass on.

    They are denied system calls after the start if it `has_filters`. Raises OSError.
    """

    def limit(role: Role, *, after_start: bool) -> None:
        kept = select_capabilities(needs, role, after_start=after_start)
        limit_capabilities(kept)
        if after_start and has_filters:
            deny_calls(list_denied(kept))

    threads = RunThreads({role: partial(limit, role, after_start=True) for role in Role})
    for role, executor in threads.executors.items():
        executor.submit(limit, role, after_start=False).result()
    return threads


def _make_executor(role: Role) -> SerialExecutor:
    return SerialExecutor(str(role))


def _keep_all() -> None:
    """Drop nothing."""
