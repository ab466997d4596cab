"""What is told of a process: identity, names, user, control group.

Nothing is kept from one call to the next, as exec changes the names while the identity stays; the
caller asks once for each process of a batch, and these are few. Names of users are kept.
"""

import os
import pwd
from functools import lru_cache

from hogpipe.attribution.cgroups import container_of, parse_cgroup, unit_of
from hogpipe.attribution.procfs import Procfs, decode_text
from hogpipe.model import Process

_NANOSECONDS = 1_000_000_000
_USERS_KEPT = 4096


class ProcessReader:
    """Reads processes; command lines only when asked to, as they may hold secrets."""

    def __init__(self, procfs: Procfs, *, command_line: bool = False) -> None:
        self._procfs = procfs
        self._command_line = command_line
        self._clock_ticks = os.sysconf("SC_CLK_TCK")
        self.user_name = lru_cache(maxsize=_USERS_KEPT)(_user_name)

    def read(self, pid: int, start: int) -> Process | None:
        """Return the process (pid, start) as it is now, or None where it is gone."""
        procfs = self._procfs
        stat = procfs.stat(pid)
        if stat is None or stat.start != start:
            return None
        user_id = procfs.user_id(pid)
        cgroup = parse_cgroup(procfs.cgroup(pid) or "")
        return Process(
            pid=pid,
            start=start,
            parent_pid=stat.parent_pid,
            created_ns=procfs.boot_time * _NANOSECONDS + start * _NANOSECONDS // self._clock_ticks,
            command=stat.command,
            executable=procfs.executable(pid),
            command_line=procfs.command_line(pid) if self._command_line else None,
            user_id=user_id,
            owner=None if user_id is None else self.user_name(user_id),
            cgroup=cgroup,
            unit=unit_of(cgroup) if cgroup else None,
            container=container_of(cgroup) if cgroup else None,
        )


def _user_name(user_id: int) -> str | None:
    try:
        return decode_text(os.fsencode(pwd.getpwuid(user_id).pw_name))
    except KeyError:
        return None
