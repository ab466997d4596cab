"""What is told of a process: identity, names, user, control group, container, pod.

It is read once and kept, also when the process is gone; a process that moves bytes all the time
costs no further reading. But identity does not change with exec, nor with a change of user or of
control group, so it is read again from time to time: after `_PAUSE` seconds where stat, which the
caller has read anyway, shows another command, and after `_RECHECK` seconds where it does not. The
user is the real one: a set-uid program is told by its own name, and by the user who started it.
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

_USERS_KEPT = 4096
_FIRST_PROCESS = 1
_RECHECK = 10.0
_PAUSE = 1.0  # some programs tell by their name what they are at, and change it all the time


class ProcessReader:
    """Reads processes, and keeps the `max_kept` that were asked for last.

    Equal answers are the same object. Command lines are read only when asked for, as they may hold
    secrets.
    """

    def __init__(self, procfs: Procfs, *, command_line: bool = False, max_kept: int = 4096) -> None:
        self._procfs = procfs
        self._command_line = command_line
        self._max_kept = max_kept
        self._kept: dict[ProcessIdentity, _Kept] = {}
        """The one that was asked for last comes last."""
        self._has_one_tree = has_only_cgroup_v2(procfs.read_cgroup(_FIRST_PROCESS) or "")
        self._clock_ticks = os.sysconf("SC_CLK_TCK")
        self._user_names: dict[int, str | None] = {}

    def recall(self, owner: ProcessIdentity, now: float) -> Process | None:
        """Return the process `owner` if it was read so lately that no look is needed."""
        kept = self._kept.get(owner)
        return kept.process if kept is not None and now - kept.read_at < _PAUSE else None

    def refresh(
        self, owner: ProcessIdentity, stat: ProcessStat | None, now: float
    ) -> Process | None:
        """Return the process `owner`, or None if it is gone and was not known.

        `stat` is what its pid has shown in this look, `now` the caller's clock in seconds.
        """
        kept = self._kept.pop(owner, None)
        if stat is None or stat.start != owner.start:
            return None if kept is None else self._keep(owner, kept)
        if kept is not None and not kept.is_due(stat, now):
            return self._keep(owner, kept)
        known = None if kept is None else kept.process
        process = self._read(owner, stat)
        if process is None:
            # Gone while it was being read: what stat told is still true.
            return known or self._describe(owner, stat)
        if known is not None and (process == known or _is_ending(process, known)):
            process = known
        return self._keep(owner, _Kept(process, now))

    def cached(self, owner: ProcessIdentity) -> Process | None:
        """Return the process `owner` as it was read last, without a look; from any thread."""
        kept = self._kept.get(owner)
        return None if kept is None else kept.process

    def find(
        self,
        owner: ProcessIdentity,
        now: float,
        stat: Callable[[int], ProcessStat | None] | None = None,
    ) -> Process | None:
        """Return the process `owner` like `read`, after a look at its pid if one is needed.

        `stat` is how to look; without it /proc is read.
        """
        known = self.recall(owner, now)
        return known or self.refresh(owner, (stat or self._procfs.read_stat)(owner.pid), now)

    def is_alive(self, owner: ProcessIdentity) -> bool:
        """Tell whether the process lives."""
        stat = self._procfs.read_stat(owner.pid)
        return stat is not None and stat.start == owner.start

    def read_user_name(self, user_id: int) -> str | None:
        """Return the name of a user, None if there is none.

        The host may ask a directory in the network for it, and wait for the answer.
        """
        if user_id not in self._user_names:
            name = _user_name(user_id)
            if len(self._user_names) >= _USERS_KEPT:
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
        """Return a process of which nothing is known but these, without a look.

        `cgroup_path` is that of its control group in the v2 tree. Where nobody `waits` for the name
        of its user it is told if it is known; from any thread then.
        """
        place = CgroupNames()
        if cgroup_path is not None:
            place = parse_v2_path(cgroup_path, alone=self._has_one_tree)
        return Process(
            pid=pid,
            start=start,
            created_ns=None if start is None else self._created_ns(start),
            command=command,
            user_id=user_id,
            user_name=self.read_user_name(user_id) if may_block else self._user_names.get(user_id),
            cgroup=place.cgroup,
            unit=place.unit,
            container=place.container,
            pod=place.pod,
        )

    def _keep(self, owner: ProcessIdentity, kept: "_Kept") -> Process:
        self._kept[owner] = kept
        if len(self._kept) > self._max_kept:
            del self._kept[next(iter(self._kept))]
        return kept.process

    def _read(self, owner: ProcessIdentity, stat: ProcessStat) -> Process | None:
        """Return the whole of a process; None if all of this may not be of one and the same."""
        procfs, pid = self._procfs, owner.pid
        user_id = procfs.read_user_id(pid)
        place = parse_cgroup(procfs.read_cgroup(pid) or "")
        process = msgspec.structs.replace(
            self._describe(owner, stat),
            executable=procfs.read_executable(pid),
            command_line=procfs.read_command_line(pid) if self._command_line else None,
            user_id=user_id,
            user_name=None if user_id is None else self.read_user_name(user_id),
            cgroup=place.cgroup,
            unit=place.unit,
            container=place.container,
            pod=place.pod,
        )
        after = procfs.read_stat(pid)
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


class _Kept(msgspec.Struct, eq=False):
    process: Process
    read_at: float

    def is_due(self, stat: ProcessStat, now: float) -> bool:
        age = now - self.read_at
        return age >= (_RECHECK if stat.command == self.process.command else _PAUSE)


def _is_ending(process: Process, known: Process) -> bool:
    """Tell whether a process has let go of its program without taking another: a zombie."""
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
