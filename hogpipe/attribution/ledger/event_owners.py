"""Identifies the processes that socket events name.

In: events, soon after they happened. Out: the owner of each, with the start time of its process
(/proc/PID/stat) and the path of its control group, as long as /proc and the tree still show them.
"""

from pathlib import Path

from hogpipe.attribution.ledger.socket_events import (
    EventBlock,
    EventProcess,
    SocketEvent,
    decode_process,
)
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.linux.cgroups import CgroupTree
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.linux.procfs import ProcessStat
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
        """Return the process that an event names; None where none owns the socket.

        `now` is in seconds.
        """
        process = EventProcess(event.cgroup, event.pid, event.user_id, event.command)
        return self._find(process, event.boot_ns, now, is_release=event.kind is EventKind.RELEASED)

    def find_each(self, block: EventBlock, now: float) -> list[SocketOwner | None]:
        """Return the same for each event of a block.

        A process that is the same in all events is identified once.
        """
        named, times = block.processes, block.boot_ns
        if not named:
            return []
        first_ns, last_ns = min(times), max(times)
        owners: dict[bytes, SocketOwner | None] = {}
        each_apart = set[bytes]()
        for key in dict.fromkeys(named):
            process = decode_process(key)
            stat = self._find_stat(process, first_ns, now)
            owners[key] = self._make_owner(process, stat)
            if stat is not self._find_stat(process, last_ns, now) or _is_kernel_thread(stat):
                each_apart.add(key)
        found = list(map(owners.__getitem__, named))
        if each_apart:
            releases = block.find_releases()
            for position, key in enumerate(named):
                if key in each_apart:
                    found[position] = self._find(
                        decode_process(key),
                        times[position],
                        now,
                        is_release=position in releases,
                    )
        return found

    def identify(self, process: EventProcess, boot_ns: int, now: float) -> SocketOwner | None:
        """Return the process that was named at a time, nanoseconds since boot."""
        return self._find(process, boot_ns, now, is_release=False)

    def _find(
        self, process: EventProcess, boot_ns: int, now: float, *, is_release: bool
    ) -> SocketOwner | None:
        stat = self._find_stat(process, boot_ns, now)
        if is_release and _is_kernel_thread(stat):
            return None  # the kernel releases some sockets on its own account
        return self._make_owner(process, stat)

    def _find_stat(self, process: EventProcess, boot_ns: int, now: float) -> ProcessStat | None:
        return self.starts.find(process.pid, boot_ns, now) if process.pid else None

    def _make_owner(self, process: EventProcess, stat: ProcessStat | None) -> SocketOwner | None:
        if not process.pid:
            return None
        start = None if stat is None else stat.start
        key = (process.pid, start, process.user_id, process.command, process.cgroup)
        owner = self._owners.get(key)
        if owner is None:
            if len(self._owners) >= _MAX_OWNERS:
                self._owners.clear()
            path = self._tree.path_of(process.cgroup)
            owner = self._owners[key] = SocketOwner(*key, cgroup_path=path)
        return owner

    def close(self) -> None:
        """Close the control group tree. May be called again."""
        self._tree.close()


def _is_kernel_thread(stat: ProcessStat | None) -> bool:
    return stat is not None and stat.is_kernel_thread
