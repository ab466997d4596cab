"""Identifies the processes that socket events name.

In: events, soon after they happened. Out: the owner of each, with the start time of its process
(/proc/PID/stat) and the path of its control group, as long as /proc and the tree still show them.
"""

from pathlib import Path

from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.linux.cgroups import CgroupTree
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.model import SocketOwner

_MAX_OWNERS = 8192

_OwnerKey = tuple[int, int | None, int, str, int]


class EventOwners:
    """The owners that events named; equal owners are one object. For one thread at a time.

    `procfs` must show the pids of the host. Raises BpfUnavailableError without a control group
    tree, and OSError if descriptors are short.
    """

    def __init__(self, procfs: Path) -> None:
        self.starts = ProcessStarts(procfs)
        """The starts of the processes that events name."""
        self._tree = CgroupTree()
        self._owners: dict[_OwnerKey, SocketOwner] = {}

    @property
    def unidentified(self) -> int:
        """Return how many processes had exited before their start time could be read."""
        return self.starts.missed

    def find(self, event: SocketEvent, now: float) -> SocketOwner | None:
        """Return the process that an event names, None if it names none that owns sockets.

        `now` is in seconds.
        """
        if not event.pid:
            return None
        stat = self.starts.find(event.pid, event.boot_ns, now)
        if stat is not None and stat.is_kernel_thread and event.kind is EventKind.RELEASED:
            return None  # the kernel releases some sockets on its own account
        start = None if stat is None else stat.start
        key = (event.pid, start, event.user_id, event.command, event.cgroup)
        owner = self._owners.get(key)
        if owner is None:
            if len(self._owners) >= _MAX_OWNERS:
                self._owners.clear()
            path = self._tree.path_of(event.cgroup)
            owner = self._owners[key] = SocketOwner(*key, cgroup_path=path)
        return owner

    def close(self) -> None:
        """Close the control group tree. May be called again."""
        self._tree.close()
