"""The processes that the kernel named: looked at while they live, and remembered when gone."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.bpf.traffic_rows import ProcessEvent, RowOwner
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs
from hogpipe.model import (
    Attribution,
    Process,
    Quality,
    SocketOwner,
)
from hogpipe.protocols import NANOSECONDS


class Owners:
    """Reads a procfs, in which pids must be those of the host. For one thread at a time.

    `path_of` gives the path of a control group (v2) by its id, `clock` seconds.
    """

    def __init__(
        self,
        procfs: Path,
        path_of: Callable[[int], str | None],
        *,
        command_line: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs = Procfs(procfs)
        self._processes = ProcessReader(self._procfs, command_line=command_line)
        self._path_of = path_of
        self._starts = ProcessStarts(procfs)
        self._tick_ns = NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._clock = clock
        self._known: dict[ProcessIdentity, dict[Quality, Attribution]] = {}
        self._gone: dict[tuple[int, str, int], dict[Quality, Attribution]] = {}
        self._stats: dict[int, ProcessStat | None] = {}

    def begin_turn(self) -> None:
        """Look at processes anew from now on: they may have changed."""
        self._known = {}
        self._gone = {}
        self._stats = {}

    def look_at(self, seen: Iterable[ProcessEvent]) -> None:
        """Read processes that were seen just now, before they end."""
        now = self._clock()
        for one in seen:
            stat = self._starts.find(one.pid, one.boot_ns, now)
            if stat is not None:
                self._processes.find(ProcessIdentity(one.pid, stat.start), now)

    def attribute(self, holder: RowOwner, quality: Quality) -> Attribution:
        """Return whose something is that the kernel's note tells; equal answers are one object."""
        start = self._start_of(holder)
        if start is None:
            return self._find_gone(holder)[quality]
        return self._find(holder, ProcessIdentity(holder.pid, start))[quality]

    def name(self, holder: RowOwner) -> SocketOwner:
        """Return who a note tells of, without a look at what else is to be told of it."""
        path = self._path_of(holder.cgroup)
        start = self._start_of(holder)
        return SocketOwner(
            holder.pid, start, holder.user_id, holder.command, holder.cgroup, cgroup_path=path
        )

    def started_ns(self, pid: int) -> int | None:
        """Return when the process that has a pid now was started, nanoseconds since boot.

        None where there is none. It is looked at once a turn.
        """
        stat = self._stat(pid)
        return None if stat is None else stat.start * self._tick_ns

    @property
    def missed(self) -> int:
        """Return how many processes were gone before they could be looked at, so far."""
        return self._starts.missed

    def _start_of(self, holder: RowOwner) -> int | None:
        """Return when the process that a note tells of was started; None if that is not known."""
        # This keeps it in mind for when the process is gone, but looks at it only once a second.
        known = self._starts.find(holder.pid, holder.boot_ns, self._clock())
        stat = self._stat(holder.pid)
        if stat is not None and stat.start * self._tick_ns <= holder.boot_ns:
            return stat.start
        return None if known is None else known.start

    def _find(self, holder: RowOwner, identity: ProcessIdentity) -> dict[Quality, Attribution]:
        known = self._known.get(identity)
        if known is None:
            process = self._processes.find(identity, self._clock(), self._stat)
            if process is None:
                process = self._describe(holder, identity.start)
            known = self._known[identity] = _attributions(process)
        return known

    def _stat(self, pid: int) -> ProcessStat | None:
        if pid not in self._stats:
            self._stats[pid] = self._procfs.read_stat(pid)
        return self._stats[pid]

    def _find_gone(self, holder: RowOwner) -> dict[Quality, Attribution]:
        key = (holder.pid, holder.command, holder.user_id)
        known = self._gone.get(key)
        if known is None:
            known = self._gone[key] = _attributions(self._describe(holder, None))
        return known

    def _describe(self, holder: RowOwner, start: int | None) -> Process:
        path = self._path_of(holder.cgroup)
        return self._processes.describe_exited(
            holder.pid, start, holder.command, holder.user_id, path
        )


def _attributions(process: Process) -> dict[Quality, Attribution]:
    return {quality: Attribution(quality, process) for quality in (Quality.EXACT, Quality.LISTENER)}
