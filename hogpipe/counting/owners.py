"""The processes that the kernel named: looked at while they live, and remembered when gone."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hogpipe.attribution.kinship import Identity
from hogpipe.attribution.processes import ProcessReader
from hogpipe.attribution.procfs import ProcessStat, Procfs
from hogpipe.bpf.entries import Holder, ProcessSeen
from hogpipe.ledger.contract import Owner
from hogpipe.ledger.identities import ProcessStarts
from hogpipe.model import Attribution, Process, Quality

_NANOSECONDS = 1_000_000_000


class _Known(msgspec.Struct, frozen=True):
    """A process of this turn."""

    start_ns: int
    by_quality: dict[Quality, Attribution]


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
        self._tick_ns = _NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._gone: dict[tuple[int, str, int], _Known] = {}
        self._stats: dict[int, ProcessStat | None] = {}

    def begin_turn(self) -> None:
        """Look at processes anew from now on: they may have changed."""
        self._known = {}
        self._gone = {}
        self._stats = {}

    def look_at(self, seen: Iterable[ProcessSeen]) -> None:
        """Read processes that were seen just now, before they end."""
        now = self._clock()
        for one in seen:
            start = self._starts.identify(one.pid, one.boot_ns, now).start
            if start is not None:
                self._processes.find(Identity(one.pid, start), now)

    def attribute(self, holder: Holder, quality: Quality) -> Attribution:
        """Return whose something is that the kernel's note tells; equal answers are one object."""
        known = self._known.get(holder.pid)
        if known is None or known.start_ns > holder.boot_ns:
            known = self._find(holder)
        return known.by_quality[quality]

    def name(self, holder: Holder) -> Owner:
        """Return who a note tells of, without a look at what else is to be told of it."""
        now = self._clock()
        start = self._starts.identify(holder.pid, holder.boot_ns, now).start
        path = self._path_of(holder.cgroup)
        return Owner(
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

    def _find(self, holder: Holder) -> _Known:
        now = self._clock()
        start = self._starts.identify(holder.pid, holder.boot_ns, now).start
        if start is None:
            return self._find_gone(holder)
        process = self._processes.find(Identity(holder.pid, start), now, self._stat)
        if process is None:
            process = self._describe(holder, start)
        known = self._known[holder.pid] = _Known(start * self._tick_ns, _attributions(process))
        return known

    def _stat(self, pid: int) -> ProcessStat | None:
        if pid not in self._stats:
            self._stats[pid] = self._procfs.stat(pid)
        return self._stats[pid]

    def _find_gone(self, holder: Holder) -> _Known:
        key = (holder.pid, holder.command, holder.user_id)
        known = self._gone.get(key)
        if known is None:
            known = self._gone[key] = _Known(0, _attributions(self._describe(holder, None)))
        return known

    def _describe(self, holder: Holder, start: int | None) -> Process:
        path = self._path_of(holder.cgroup)
        return self._processes.describe_gone(
            holder.pid, start, holder.command, holder.user_id, path
        )


def _attributions(process: Process) -> dict[Quality, Attribution]:
    return {quality: Attribution(quality, process) for quality in (Quality.EXACT, Quality.LISTENER)}
