"""Loads programs of the BPF object and attaches them at the root of the control group tree.

Each attachment is a bpf_link: it stands beside what others attached, and the kernel takes it away
when the process that holds it is gone, however that ended. Nothing stays half attached: whatever
fails, all links are dropped.
"""

import ctypes
import errno
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.obstacles import KERNEL_NEEDED, BpfUnavailableError, Obstacle
from hogpipe.linux.capabilities import is_root_of_host, name_missing, parse_effective, read_status

log = logging.getLogger(__name__)

_NO_ROOM = {errno.ENOMEM, errno.E2BIG, errno.ENOSPC}
_NOT_PERMITTED = {errno.EPERM}
# include/uapi/linux/capability.h
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12}
_SYS_ADMIN = 21


class AttachedPrograms:
    """Programs that run until `close`. For one thread at a time.

    `programs` are names of functions in the object, the others are not loaded; `tables` says how
    many entries (for a ring: bytes) tables have whose size is not that of the source, 0 for those
    that are not needed. Raises BpfUnavailableError.
    """

    def __init__(
        self,
        path: Path,
        programs: Sequence[str],
        cgroup_root: Path,
        *,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        self.names = tuple(programs)
        self._library = load_library()
        self._links: list[int] = []
        self._object: int | None = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise BpfUnavailableError(
                Obstacle.OBJECT,
                f"eBPF: {path} cannot be opened ({_reason(ctypes.get_errno())}); "
                "install hogpipe anew, built with clang",
            )
        try:
            self._choose(programs, tables or {})
            self._load(path)
            self._attach(programs, cgroup_root)
        except BaseException:
            self.close()
            raise

    def table(self, name: str) -> int:
        """Return the file descriptor of a table; it ends with `close`. Raises KeyError."""
        return int(self._library.bpf_map__fd(self._find_table(name)))

    def close(self) -> None:
        """Detach and unload. May be called again."""
        while self._links:
            self._library.bpf_link__destroy(self._links.pop())
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None

    def _choose(self, programs: Sequence[str], tables: Mapping[str, int]) -> None:
        library = self._library
        program = library.bpf_object__next_program(self._object, None)
        while program:
            if library.bpf_program__name(program).decode() not in programs:
                library.bpf_program__set_autoload(program, False)
            program = library.bpf_object__next_program(self._object, program)
        for name, entries in tables.items():
            found = self._find_table(name)
            if entries:
                library.bpf_map__set_max_entries(found, entries)
            else:
                library.bpf_map__set_autocreate(found, False)

    def _find_table(self, name: str) -> int:
        found = self._object and self._library.bpf_object__find_map_by_name(
            self._object, name.encode()
        )
        if not found:
            raise KeyError(name)
        return int(found)

    def _load(self, path: Path) -> None:
        code = -self._library.bpf_object__load(self._object)
        if code == 0:
            return
        # Without CAP_PERFMON the kernel lets programs load, but has not all helpers for them.
        missing = read_missing_capabilities()
        if missing or code in _NOT_PERMITTED:
            raise BpfUnavailableError(
                Obstacle.PRIVILEGES, f"eBPF: not permitted to load programs{_remedy(missing)}"
            )
        if code in _NO_ROOM:
            raise BpfUnavailableError(
                Obstacle.LIMITS,
                f"eBPF: the kernel has no room for the tables ({_reason(code)}); raise the memory "
                "limit of hogpipe's control group",
            )
        raise BpfUnavailableError(
            Obstacle.KERNEL,
            f"eBPF: this kernel refuses the programs of {path.name} ({_reason(code)}); "
            f"{KERNEL_NEEDED}; the verifier's reasons are in the log at level debug",
        )

    def _attach(self, programs: Sequence[str], cgroup_root: Path) -> None:
        try:
            folder = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BpfUnavailableError(
                Obstacle.CGROUP, f"eBPF: {cgroup_root} cannot be opened ({error.strerror})"
            ) from error
        try:
            for name in programs:
                self._links.append(self._attach_one(name, folder, cgroup_root))
        finally:
            os.close(folder)

    def _attach_one(self, name: str, folder: int, cgroup_root: Path) -> int:
        library = self._library
        program = library.bpf_object__find_program_by_name(self._object, name.encode())
        if not program:
            raise BpfUnavailableError(
                Obstacle.OBJECT,
                f"eBPF: the object has no program {name}; install hogpipe anew, built with clang",
            )
        link = library.bpf_program__attach_cgroup(program, folder)
        if link:
            return int(link)
        code = ctypes.get_errno()
        if code in _NOT_PERMITTED:
            raise BpfUnavailableError(
                Obstacle.PRIVILEGES,
                f"eBPF: not permitted to attach {name} at {cgroup_root}: CAP_NET_ADMIN is missing, "
                "or another program holds that place alone (bpftool cgroup tree shows it)",
            )
        if code in {errno.EBADF, errno.ENOTDIR}:
            raise BpfUnavailableError(
                Obstacle.CGROUP,
                f"eBPF: {cgroup_root} is no control group (v2); mount one: "
                "mount -t cgroup2 none /sys/fs/cgroup/unified",
            )
        raise BpfUnavailableError(
            Obstacle.KERNEL, f"eBPF: {name} cannot be attached at {cgroup_root} ({_reason(code)})"
        )


def attach_first(
    path: Path,
    choices: Sequence[Sequence[str]],
    cgroup_root: Path,
    *,
    tables: Mapping[str, int] | None = None,
) -> AttachedPrograms:
    """Attach the first of these sets of programs that the kernel does not refuse.

    The arguments are else those of `AttachedPrograms`. Raises BpfUnavailableError, of the last one
    if the kernel refuses all.
    """
    *better, last = choices
    for programs in better:
        try:
            return AttachedPrograms(path, programs, cgroup_root, tables=tables)
        except BpfUnavailableError as error:
            if error.obstacle is not Obstacle.KERNEL:
                raise
            log.debug("without %s: %s", ", ".join({*programs} - {*last}), error)
    return AttachedPrograms(path, last, cgroup_root, tables=tables)


def parse_missing_capabilities(status: bytes) -> list[str]:
    """Return what a process lacks to load the programs, by its /proc/PID/status (proc(5))."""
    effective = parse_effective(status)
    if effective is None or effective >> _SYS_ADMIN & 1:
        return []
    return name_missing(effective, _CAPABILITIES)


def read_missing_capabilities() -> list[str]:
    """Return what this process lacks to load the programs; nothing where that is not told."""
    try:
        return parse_missing_capabilities(read_status())
    except (HogpipeError, OSError):
        return []


def _remedy(missing: Sequence[str]) -> str:
    """Return what to do where programs may not be loaded for want of these, or for another reason.

    What grants CAP_BPF in a namespace of users (capable(), kernel/bpf/syscall.c) grants it nowhere
    else, so that there is nothing missing in /proc there.
    """
    if not is_root_of_host():
        needed = ", ".join(_CAPABILITIES)
        return (
            f": {needed} are needed on the host, and those of this user namespace do not count; "
            "run outside of it (in a container: one that is not rootless)"
        )
    if missing:
        return f"; grant {', '.join(missing)}, or run as root"
    return (
        " with all capabilities that this takes: something forbids bpf(2); allow it in the "
        "container's seccomp profile, the security module (dmesg tells) or the kernel's lockdown"
    )


def _reason(code: int) -> str:
    return os.strerror(code)
