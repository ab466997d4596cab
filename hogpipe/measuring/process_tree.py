"""PURE: which pids belong to a process and its descendants, and when.

In: the processes to begin with, then forks in their order. Out: for a pid and a moment, whether the
process that had the pid then is a member.

A descendant stays a member when its parent exits. A pid is reused: once a process that is no member
forks a child with the pid of a member, the member has ended by then. Until then it counts as one,
because its sockets may go on after its exit.

At most `max_pids` are known; beyond that, those that `is_alive` does not know are evicted.
"""

from collections.abc import Callable, Iterable

from hogpipe.linux.fork_messages import Fork

_MAX_PIDS = 1 << 16
_FOREVER = 1 << 63


class ProcessTree:
    """Processes, and with `children` what they fork. For one thread at a time."""

    def __init__(
        self,
        pids: Iterable[int],
        *,
        children: bool,
        is_alive: Callable[[int], bool],
        max_pids: int = _MAX_PIDS,
    ) -> None:
        self._children = children
        self._is_alive = is_alive
        self._max_pids = max_pids
        self._spans: dict[int, list[tuple[int, int]]] = {}
        """When each pid is that of a member: begin and end, nanoseconds since boot."""
        for pid in pids:
            self.add(pid)

    @property
    def pids(self) -> list[int]:
        """The pids of members, except those that another process has by now."""
        return [pid for pid, spans in self._spans.items() if spans[-1][1] == _FOREVER]

    def knows(self, pid: int) -> bool:
        """Return whether a pid is or was that of a member."""
        return pid in self._spans

    def add(self, pid: int, boot_ns: int = 0) -> None:
        """Add the process that has a pid from a moment on."""
        spans = self._spans.setdefault(pid, [])
        if not spans or spans[-1][1] != _FOREVER:
            spans.append((boot_ns, _FOREVER))

    def ingest(self, fork: Fork) -> None:
        """Add a child of a member; end the membership of a pid that is reused."""
        is_member = self._children and self.includes(fork.parent_pid, fork.boot_ns)
        spans = self._spans.get(fork.child_pid)
        if spans and spans[-1][0] < fork.boot_ns < spans[-1][1]:
            spans[-1] = spans[-1][0], fork.boot_ns
        if is_member:
            self.add(fork.child_pid, fork.boot_ns)
            if len(self._spans) > self._max_pids:
                self._evict()

    def includes(self, pid: int, boot_ns: int) -> bool:
        """Return whether a pid was that of a member at a moment, nanoseconds since boot."""
        spans = self._spans.get(pid)
        return spans is not None and any(begin <= boot_ns < end for begin, end in spans)

    def _evict(self) -> None:
        self._spans = {pid: spans for pid, spans in self._spans.items() if self._is_alive(pid)}
