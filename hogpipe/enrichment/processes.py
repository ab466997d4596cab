"""Reads and caches the attributes of processes: names, user, control group, container, pod.

In: the identity of a process (pid and start time). Out: a `Process`, or None if the process exited
before it was read.

A process is read once and cached, also after its exit. exec and changes of user or control group
keep the identity, so a cached process is read again at intervals: after `_CHANGED_SECONDS` if its
command has changed, else after `_UNCHANGED_SECONDS`. The user is the real user: a set-uid program
is reported with its own name and the user who started it.
"""

import os
import pwd
from collections.abc import Callable

import msgspec

from hogpipe.enrichment.cgroup_paths import (
    CgroupNames,
    has_only_cgroup_v2,
    parse_cgroup,
    parse_v2_path,
)
from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs, decode_text
from hogpipe.model import Process
from hogpipe.protocols import NANOSECONDS

_MAX_USERS = 4096
_FIRST_PROCESS = 1
_UNCHANGED_SECONDS = 10.0
_CHANGED_SECONDS = 1.0  # some programs show their progress in their name, and change it often


class ProcessReader:
    """Reads processes, and caches the `max_cached` that were used last.

    Unchanged processes are returned as the same object. Command lines are read only with
    `command_line`, because they may contain secrets. For one thread at a time, except `cached`.
    """

    def __init__(
        self, procfs: Procfs, *, command_line: bool = False, max_cached: int = 4096
    ) -> None:
        self._procfs = procfs
        self._command_line = command_line
        self._max_cached = max_cached
        self._cache: dict[ProcessIdentity, _CachedProcess] = {}
        """The process that was used last comes last."""
        self._only_cgroup_v2 = has_only_cgroup_v2(procfs.read_cgroup(_FIRST_PROCESS) or "")
        self._clock_ticks = os.sysconf("SC_CLK_TCK")
        self._user_names: dict[int, str | None] = {}

    def recent(self, owner: ProcessIdentity, now: float) -> Process | None:
        """Return a cached process that needs no check of its command yet, or None."""
        cached = self._cache.get(owner)
        if cached is None or now - cached.read_at >= _CHANGED_SECONDS:
            return None
        return cached.process

    def refresh(
        self, owner: ProcessIdentity, stat: ProcessStat | None, now: float
    ) -> Process | None:
        """Return a process, read again if that is due; None if it has exited and is not cached.

        `stat` is the current stat of its pid, `now` the caller's clock in seconds.
        """
        cached = self._cache.pop(owner, None)
        if stat is None or stat.start != owner.start:
            return None if cached is None else self._store(owner, cached)
        if cached is not None and not cached.is_due(stat, now):
            return self._store(owner, cached)
        known = None if cached is None else cached.process
        process = self._read(owner, stat)
        if process is None:
            # It exited during the reads; its stat is still valid.
            return known or self._describe(owner, stat)
        if known is not None and (process == known or _is_ending(process, known)):
            process = known
        return self._store(owner, _CachedProcess(process, now))

    def cached(self, owner: ProcessIdentity) -> Process | None:
        """Return the cached process without reading /proc, or None; safe from any thread."""
        cached = self._cache.get(owner)
        return None if cached is None else cached.process

    def find(
        self,
        owner: ProcessIdentity,
        now: float,
        stat: Callable[[int], ProcessStat | None] | None = None,
    ) -> Process | None:
        """Return a process like `refresh`, but read the stat of its pid only if needed.

        `stat` reads the stat of a pid; the default is /proc.
        """
        known = self.recent(owner, now)
        return known or self.refresh(owner, (stat or self._procfs.read_stat)(owner.pid), now)

    def is_alive(self, owner: ProcessIdentity) -> bool:
        """Return whether the process has not exited."""
        stat = self._procfs.read_stat(owner.pid)
        return stat is not None and stat.start == owner.start

    def read_user_name(self, user_id: int) -> str | None:
        """Return the name of a user, or None.

        May block: the host may query a directory service over the network.
        """
        if user_id not in self._user_names:
            name = _user_name(user_id)
            if len(self._user_names) >= _MAX_USERS:
                self._user_names.clear()
            self._user_names[user_id] = name
        return self._user_names[user_id]

    def describe_exited(
        self,
        pid: int,
        start: int | None,
        command: str,
        user_id: int,
        cgroup_path: str | None = None,
        *,
        may_block: bool = True,
    ) -> Process:
        """Return a process of these attributes, without reading /proc.

        `cgroup_path` is the path of its control group in the v2 tree. Without `may_block`, only a
        cached user name is used, and the call is safe from any thread.
        """
        names = CgroupNames()
        if cgroup_path is not None:
            names = parse_v2_path(cgroup_path, only_hierarchy=self._only_cgroup_v2)
        return Process(
            pid=pid,
            start=start,
            created_ns=None if start is None else self._created_ns(start),
            command=command,
            user_id=user_id,
            user_name=self.read_user_name(user_id) if may_block else self._user_names.get(user_id),
            cgroup=names.cgroup,
            unit=names.unit,
            container=names.container,
            pod=names.pod,
        )

    def _store(self, owner: ProcessIdentity, cached: "_CachedProcess") -> Process:
        self._cache[owner] = cached
        if len(self._cache) > self._max_cached:
            del self._cache[next(iter(self._cache))]
        return cached.process

    def _read(self, owner: ProcessIdentity, stat: ProcessStat) -> Process | None:
        """Return all attributes of a process; None if it exited before the last read."""
        procfs, pid = self._procfs, owner.pid
        if stat.has_exited_leader:  # the files of the first thread are empty
            pid = procfs.find_living_thread(pid) or pid
        user_id = procfs.read_user_id(pid)
        names = parse_cgroup(procfs.read_cgroup(pid) or "")
        process = msgspec.structs.replace(
            self._describe(owner, stat),
            executable=procfs.read_executable(pid),
            command_line=procfs.read_command_line(pid) if self._command_line else None,
            user_id=user_id,
            user_name=None if user_id is None else self.read_user_name(user_id),
            cgroup=names.cgroup,
            unit=names.unit,
            container=names.container,
            pod=names.pod,
        )
        after = procfs.read_stat(owner.pid)
        return process if after is not None and after.start == owner.start else None

    def _describe(self, owner: ProcessIdentity, stat: ProcessStat) -> Process:
        return Process(
            pid=owner.pid,
            start=owner.start,
            parent_pid=stat.parent_pid,
            created_ns=self._created_ns(owner.start),
            command=stat.command,
        )

    def _created_ns(self, start: int) -> int:
        return self._procfs.boot_time * NANOSECONDS + start * NANOSECONDS // self._clock_ticks


class _CachedProcess(msgspec.Struct, eq=False):
    process: Process
    read_at: float

    def is_due(self, stat: ProcessStat, now: float) -> bool:
        age = now - self.read_at
        return age >= (
            _UNCHANGED_SECONDS if stat.command == self.process.command else _CHANGED_SECONDS
        )


def _is_ending(process: Process, known: Process) -> bool:
    """Return whether a process has lost its executable without exec: a zombie."""
    return (
        process.executable is None
        and known.executable is not None
        and process.command == known.command
    )


def _user_name(user_id: int) -> str | None:
    try:
        return decode_text(os.fsencode(pwd.getpwuid(user_id).pw_name))
    except KeyError:
        return None
