"""Reads and caches the attributes of processes: names, user, control group, container, pod.

In: the identity of a process (pid and start time). Out: a `Process`, or None if the process exited
before it was read.

A process is read once and cached, also after its exit. The user is the real user: a set-uid program
is reported with its own name and the user who started it.

Changes
-------
exec and changes of user or control group keep the identity, so a cached process is read again:
- at once, if its stat shows that it has executed another program;
- if its command differs: at once after the first reading of a program (many programs name
  themselves when they start), otherwise `_CHANGED_SECONDS` after the last reading;
- `_UNCHANGED_SECONDS` after it in any case.
`check` also compares the control group. It is called for processes in use (`process_refresh`), and
`recall` returns what the latest reading found, so that a cached attribution needs no lookup to have
the current description. A process that has exited keeps the description from before.

Known limits: without permission to see where the stack of a process begins, exec is noticed by the
command only. A changed user is noticed after `_UNCHANGED_SECONDS`.

Ancestors
---------
The ancestors are those of the first reading, be it that they have exited since: `parent_pid` is
theirs, too, and not that of the process to which the kernel has given an orphan.

Processes that exited unread
----------------------------
What is known of them is what the kernel recorded. The rest is taken from other processes, where
these agree:
- `usual_name`: the name of the executable, by the command;
- the control group: what /proc/PID/cgroup names for the processes in the same group of the v2
  tree.
  Where cgroup v1 is in use, the path in the v2 tree alone may be meaningless (`parse_v2_path`).
"""

import math
import os
import pwd
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from hogpipe.enrichment.ancestors import AncestorReader
from hogpipe.enrichment.cgroup_paths import (
    CgroupNames,
    has_only_cgroup_v2,
    parse_cgroup,
    parse_v2_of,
    parse_v2_path,
)
from hogpipe.enrichment.container_names import ContainerNameReader
from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs, decode_text
from hogpipe.model import Process
from hogpipe.protocols import NANOSECONDS

_MAX_USERS = 4096
_MAX_LEARNT = 4096
_FIRST_PROCESS = 1
_UNCHANGED_SECONDS = 10.0
_UNKNOWN_STACK = -1
_CHANGED_SECONDS = 1.0  # some programs show their progress in their name, and change it often


class ProcessReader:
    """Reads processes, and caches the `max_cached` that were used last.

    Unchanged processes are returned as the same object. Command lines are read only with
    `command_line`, because they may contain secrets; of the ancestors the parent is read, and
    `ancestors` more. `containers` reads the names of containers, of which there are none without
    it. `set_details` changes all this for later readings, and `recall` removes what is no longer
    asked for. Safe from any thread.
    """

    def __init__(
        self,
        procfs: Procfs,
        *,
        command_line: bool = False,
        ancestors: int = 0,
        containers: ContainerNameReader | None = None,
        max_cached: int = 4096,
    ) -> None:
        self._procfs = procfs
        self._command_line = command_line
        self._ancestors = AncestorReader(procfs)
        self._most_ancestors = 1 + ancestors
        self._containers = containers
        self._max_cached = max_cached
        self._cache: OrderedDict[ProcessIdentity, _CachedProcess] = OrderedDict()
        """The process that was used last comes last."""
        self._lock = threading.Lock()
        self._usual_names = _Agreement[str, str]()
        """Names of executables by command."""
        self._cgroup_names = _Agreement[str, CgroupNames]()
        """By the path in the v2 tree."""
        self._only_cgroup_v2 = has_only_cgroup_v2(procfs.read_cgroup(_FIRST_PROCESS) or "")
        self._clock_ticks = os.sysconf("SC_CLK_TCK")
        self._user_names: dict[int, str | None] = {}
        self.naming: int | None = None
        """The user whose name is being read, None if there is none."""
        self.changes = 0
        """How often a process was found to have changed; the number only grows."""

    def set_details(self, *, command_line: bool, ancestors: int, container_names: bool) -> None:
        """Read other details from now on; cached processes are due for a reading."""
        if self._containers is not None:
            self._containers.is_on = container_names
        self._command_line, self._most_ancestors = command_line, 1 + ancestors
        with self._lock:
            for cached in self._cache.values():
                cached.read_at = -math.inf

    def recent(self, owner: ProcessIdentity, now: float) -> Process | None:
        """Return a cached process that needs no check of its command yet, or None."""
        cached = self._cache.get(owner)
        if cached is None or now - cached.read_at >= _CHANGED_SECONDS:
            return None
        return self._name_user(cached).process

    def refresh(
        self, owner: ProcessIdentity, stat: ProcessStat | None, now: float
    ) -> Process | None:
        """Return a process, read again if that is due; None if it has exited and is not cached.

        `stat` is the current stat of its pid, `now` the caller's clock in seconds.
        """
        cached = self._cache.get(owner)
        if stat is None or stat.start != owner.start:
            return None if cached is None else self._store(owner, self._name_user(cached))
        if cached is not None and not cached.is_due(stat, now):
            return self._store(owner, self._name_user(cached))
        return self._read_again(owner, stat, now)

    def check(self, owner: ProcessIdentity, now: float) -> bool:
        """Read a process again if it has changed; return whether it lives.

        An unchanged process costs two short files.
        """
        stat = self._procfs.read_stat(owner.pid)
        if stat is None or stat.start != owner.start:
            return False
        if stat.has_exited:  # a zombie, or a process that only `refresh` reads by another thread
            return stat.has_exited_leader
        cached = self._cache.get(owner)
        if cached is None or cached.is_due(stat, now) or self._has_moved(owner, cached):
            self._read_again(owner, stat, now)
        return True

    def recall(self, process: Process) -> Process:
        """Return a process as it was described last, without reading /proc; safe from any thread.

        The same object if nothing newer is known, and it has no details that it must not have.
        """
        latest = None
        if process.start is not None:
            latest = self.cached(ProcessIdentity(process.pid, process.start))
        latest = latest or process
        if latest.command_line is not None and not self._command_line:
            latest = msgspec.structs.replace(latest, command_line=None)
        if latest.container_names is not None and not self._reads_container_names():
            latest = msgspec.structs.replace(latest, container_names=None)
        if len(latest.ancestors) > self._most_ancestors:
            kept = latest.ancestors[: self._most_ancestors]
            latest = msgspec.structs.replace(latest, ancestors=kept)
        return latest

    def _reads_container_names(self) -> bool:
        return self._containers is not None and self._containers.is_on

    def read_new(self, pid: int, now: float) -> ProcessStat | None:
        """Read and cache a process that may soon exit; return its stat, None if it has exited.

        The name of its user is left for the next call that returns the process: this call never
        blocks.
        """
        executable = self._procfs.read_executable(pid)  # an exiting process loses it first
        text = self._procfs.read_cgroup(pid)
        stat = self._procfs.read_stat(pid)
        if stat is None:
            return None
        stack_start = stat.stack_start
        if self._procfs.read_executable(pid) not in {None, executable}:
            stack_start = _UNKNOWN_STACK  # exec in between: the next check reads it again
        thread = pid
        if stat.has_exited_leader:
            thread = self._procfs.find_living_thread(pid) or pid
            executable = self._procfs.read_executable(thread)  # those of the first one are empty
            text = self._procfs.read_cgroup(thread)
        user_id = self._procfs.read_user_id(thread)
        owner = ProcessIdentity(pid, stat.start)
        known = self.cached(owner)
        process = self._complete(owner, stat, executable, text, user_id, thread=thread)
        process = _keep_ancestors(process, known)
        self._learn(process, text)
        if process == known:
            process = known
        if known is None or not _is_ending(process, known):
            lacks_user_name = user_id is not None and user_id not in self._user_names
            cached = _CachedProcess(process, now, stack_start, hash(text), lacks_user_name)
            self._store(owner, cached)
        return stat

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

    def read_last_fork(self, pid: int) -> int | None:
        """Return when the youngest living child of a process started, nanoseconds since boot.

        None without a child. Only the children of the first thread are read.
        """
        child = self._procfs.read_youngest_child(pid)
        return None if child is None else child.start * NANOSECONDS // self._clock_ticks

    def read_user_name(self, user_id: int) -> str | None:
        """Return the name of a user, or None.

        May block: the host may query a directory service over the network.
        """
        if user_id not in self._user_names:
            self.naming = user_id
            name = _user_name(user_id)
            self.naming = None
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
        if cgroup_path is not None and names.cgroup is None:
            names = self._cgroup_names.get(cgroup_path) or names
        containers = self._containers
        return Process(
            pid=pid,
            start=start,
            created_ns=None if start is None else self._created_ns(start),
            command=command,
            usual_name=self._usual_names.get(command),
            user_id=user_id,
            user_name=self.read_user_name(user_id) if may_block else self._user_names.get(user_id),
            cgroup=names.cgroup,
            unit=names.unit,
            container=names.container,
            pod=names.pod,
            container_names=None if containers is None else containers.recall(names),
        )

    def _read_again(self, owner: ProcessIdentity, stat: ProcessStat, now: float) -> Process:
        """Read a process and cache it; an unchanged one stays the same object."""
        cached = self._cache.get(owner)
        known = None if cached is None else self._name_user(cached).process
        if cached is not None and stat.has_exited and not stat.has_exited_leader:
            return self._store(owner, cached)  # a zombie has lost most of its attributes
        reading = self._read(owner, stat)
        if reading is None:
            # It exited during the reads; its stat is still valid.
            return known or self._describe(owner, stat)
        process, cgroup_hash = reading
        process = _keep_ancestors(process, known)
        if known is not None and (process == known or _is_ending(process, known)):
            process = known
        is_first = cached is None or cached.stack_start != stat.stack_start
        read = _CachedProcess(process, now, stat.stack_start, cgroup_hash, is_first=is_first)
        return self._store(owner, read)

    def _has_moved(self, owner: ProcessIdentity, cached: "_CachedProcess") -> bool:
        """Read whether a process is in another control group than when it was read."""
        text = self._procfs.read_cgroup(owner.pid)
        return text is not None and hash(text) != cached.cgroup_hash

    def _store(self, owner: ProcessIdentity, cached: "_CachedProcess") -> Process:
        with self._lock:
            before = self._cache.pop(owner, None)
            self._cache[owner] = cached
            if len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
            self.changes += before is not None and before.process != cached.process
        return cached.process

    def _name_user(self, cached: "_CachedProcess") -> "_CachedProcess":
        """Add the name of the user, where `read_new` left it out."""
        if cached.lacks_user_name and cached.process.user_id is not None:
            name = self.read_user_name(cached.process.user_id)
            cached.process = msgspec.structs.replace(cached.process, user_name=name)
            cached.lacks_user_name = False
        return cached

    def _read(self, owner: ProcessIdentity, stat: ProcessStat) -> tuple[Process, int] | None:
        """Return all attributes of a process, and the hash of its control groups.

        None if it exited before the last read.
        """
        procfs, pid = self._procfs, owner.pid
        if stat.has_exited_leader:  # the files of the first thread are empty
            pid = procfs.find_living_thread(pid) or pid
        executable, text = procfs.read_executable(pid), procfs.read_cgroup(pid)
        user_id = procfs.read_user_id(pid)
        if user_id is not None:
            self.read_user_name(user_id)
        process = self._complete(owner, stat, executable, text, user_id, thread=pid)
        after = procfs.read_stat(owner.pid)
        if after is None or after.start != owner.start:
            return None
        self._learn(process, text)
        return process, hash(text)

    def _complete(
        self,
        owner: ProcessIdentity,
        stat: ProcessStat,
        executable: str | None,
        cgroup_text: str | None,
        user_id: int | None,
        *,
        thread: int,
    ) -> Process:
        """Return a process of these attributes, with the command line that a thread of it shows."""
        names = parse_cgroup(cgroup_text or "")
        command_line = self._procfs.read_command_line(thread) if self._command_line else None
        described = self._describe(owner, stat)
        return msgspec.structs.replace(
            described,
            executable=executable,
            usual_name=described.usual_name if executable is None else None,
            ancestors=self._ancestors.read(stat.parent_pid, stat.start, self._most_ancestors),
            command_line=command_line,
            user_id=user_id,
            user_name=None if user_id is None else self._user_names.get(user_id),
            cgroup=names.cgroup,
            unit=names.unit,
            container=names.container,
            pod=names.pod,
            container_names=None if self._containers is None else self._containers.find(names),
        )

    def _learn(self, process: Process, cgroup_text: str | None) -> None:
        """Add what holds for other processes, too."""
        if process.executable is not None and process.command is not None:
            self._usual_names.add(process.command, process.name)
        path = parse_v2_of(cgroup_text or "")
        if path is not None and path != "/":  # where v2 is not in use, all are in its root
            names = CgroupNames(process.cgroup, process.unit, process.container, process.pod)
            self._cgroup_names.add(path, names)

    def _describe(self, owner: ProcessIdentity, stat: ProcessStat) -> Process:
        return Process(
            pid=owner.pid,
            start=owner.start,
            parent_pid=stat.parent_pid,
            created_ns=self._created_ns(owner.start),
            command=stat.command,
            usual_name=None if stat.is_kernel_thread else self._usual_names.get(stat.command),
        )

    def _created_ns(self, start: int) -> int:
        return self._procfs.boot_time * NANOSECONDS + start * NANOSECONDS // self._clock_ticks


class _CachedProcess(msgspec.Struct, eq=False):
    process: Process
    read_at: float
    stack_start: int = 0
    """`ProcessStat.stack_start` when the process was read."""
    cgroup_hash: int = 0
    """Of the text of its control groups, as read then."""
    lacks_user_name: bool = False
    is_first: bool = True
    """Whether nothing was read before, or what was read before was of another program."""

    def is_due(self, stat: ProcessStat, now: float) -> bool:
        """Return whether the process is to be read again, with this as its current stat."""
        if stat.stack_start not in {0, self.stack_start}:  # 0: hidden, or exited
            return True
        is_same = stat.command == self.process.command
        if self.is_first and not is_same:
            return True
        return now - self.read_at >= (_UNCHANGED_SECONDS if is_same else _CHANGED_SECONDS)


_K = TypeVar("_K")
_V = TypeVar("_V")


class _Agreement(Generic[_K, _V]):
    """The value that all that was added for a key agrees on; keeps the latest `_MAX_LEARNT` keys.

    A key with several values has none, for as long as it is kept. Safe from any thread.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[_K, _V | None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, key: _K, value: _V) -> None:
        with self._lock:
            if self._values.setdefault(key, value) != value:
                self._values[key] = None
            if len(self._values) > _MAX_LEARNT:
                self._values.popitem(last=False)

    def get(self, key: _K) -> _V | None:
        return self._values.get(key)


def _keep_ancestors(process: Process, known: Process | None) -> Process:
    """Return a process with the ancestors that were read first, or with more of them."""
    if known is None or not known.ancestors:
        return process
    if process.ancestors[: len(known.ancestors)] == known.ancestors:
        return process
    return msgspec.structs.replace(process, parent_pid=known.parent_pid, ancestors=known.ancestors)


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
