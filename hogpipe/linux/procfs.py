"""The one reader of /proc.

Everything is read through a root that is an argument, so that a container can look at /host/proc
and a test at a tree of its own. A process that is gone is ordinary, and so is one that is hidden
(hidepid): what belongs to it reads as None. Only for the fds of a process is it an error that they
may not be read. What is malformed is counted and reads as None. All text comes out as valid UTF-8
(`decode_text`).

Formats: proc(5) and Documentation/filesystems/proc.rst of the kernel.
"""

import errno
import logging
import os
from pathlib import Path

import msgspec

from hogpipe.errors import ConfigurationError
from hogpipe.linux.netns.namespace_processes import is_own_namespace

log = logging.getLogger(__name__)

_SOCKET = b"socket:["
_DELETED = b" (deleted)"
_COMMAND_LINE_LIMIT = 4096
# ENOTDIR: in a tree that only looks like /proc, a number may be the name of a file.
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


class ProcessIdentity(msgspec.Struct, frozen=True, gc=False):
    """A process for all time: a pid alone may be another one tomorrow."""

    pid: int
    start: int


class ProcessStat(msgspec.Struct, frozen=True):
    """What /proc/PID/stat tells; `start` is in clock ticks since boot."""

    command: str
    parent_pid: int
    start: int


class FdFolder(msgspec.Struct, frozen=True, gc=False):
    """What stat(2) tells of /proc/PID/fd.

    `node` is another one for each process, also where a pid was given away anew (the kernel makes
    the inode when the process is first looked at). `count` is the number of open fds where
    `Procfs.counts_fds`. In procfs `changed_ns` never changes; in a tree that only looks like one
    it is the sign of a change. `user_id` is the effective user, or root (proc(5), "dumpable").
    """

    node: int
    count: int
    changed_ns: int
    user_id: int


def decode_text(raw: bytes) -> str:
    r"""Return what the kernel hands on from strangers as text; invalid UTF-8 becomes `\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def parse_stat(data: bytes) -> ProcessStat:
    """Parse /proc/PID/stat. The command may hold anything, `)` and blanks too; the rest cannot.

    Raises ValueError where it is malformed.
    """
    opening, closing = data.index(b"("), data.rindex(b")")
    fields = data[closing + 1 :].split()
    if len(fields) < 20:
        raise ValueError("too few fields")
    return ProcessStat(
        command=decode_text(data[opening + 1 : closing]),
        parent_pid=int(fields[1]),
        start=int(fields[19]),
    )


def shows_live_processes(procfs: Path) -> bool:
    """Return whether `procfs` is mounted and shows this process, unlike a recorded tree."""
    return (procfs / "self").exists()


class Procfs:
    """A mounted procfs.

    The socket tables are those of `net`, the network namespace of the reader, which is also the one
    whose packets it captures. Where `net` leads nowhere (a recorded tree, or the procfs of another
    pid namespace, which does not know the reader), they are those of process 1; unless it is or may
    be in another network namespace, for its sockets would then be taken for those of the reader:
    then there are none.

    Raises ConfigurationError where `root` is no procfs.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self.boot_time = _read_boot_time(root)
        """Seconds since the epoch, as the kernel tells it now."""
        tables = next(
            (path for path in (root / "net", root / "1" / "net") if _is_folder(path)), None
        )
        if tables is None:
            raise ConfigurationError(
                f"attribution.procfs: {root} shows no socket tables (neither net nor 1/net); "
                "name a procfs that is mounted whole"
            )
        self._tables = tables if tables == root / "net" or _may_be_ours(root / "1") else None
        if self._tables is None:
            log.warning(
                "attribution.procfs: %s shows no sockets of the network namespace that hogpipe "
                "runs in, so none of them will have an owner; name a procfs that knows hogpipe",
                root,
            )
        self.counts_fds = False
        """Whether the kernel tells how many fds a process has (Linux 6.2), seen on the first."""
        self.malformed = 0
        """Files of processes that made no sense; the number only grows."""
        self.hidden = 0
        """Times that nothing of a process was shown but its pid; the number only grows."""

    def table(self, name: str) -> bytes | None:
        """Return a table of sockets, or None where the kernel has no such protocol.

        Raises OSError where the procfs is there no more.
        """
        if self._tables is None:
            return None
        try:
            return (self._tables / name).read_bytes()
        except FileNotFoundError:
            if not _is_folder(self._tables):
                raise
            return None

    def table_seen_by(self, pid: int, name: str) -> bytes | None:
        """Return a table of the namespace that a process is in, None where either is not there."""
        try:
            return self._read(pid, b"net/" + name.encode())
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # seq_open_net in fs/proc/proc_net.c: the process has just ended

    def pids(self) -> set[int]:
        """Return the ids of the processes that are there now."""
        names = os.listdir(self._root)  # noqa: PTH208 (bytes, and no Path for each of thousands)
        return {int(name) for name in names if name.isdigit()}

    def stat(self, pid: int) -> ProcessStat | None:
        """Return identity and name of a process, or None."""
        data = self._read(pid, b"stat")
        try:
            return parse_stat(data) if data else None
        except ValueError:
            self.malformed += 1
            return None

    def user_id(self, pid: int) -> int | None:
        """Return the real user of a process (`Uid:` of status), or None."""
        for line in (self._read(pid, b"status") or b"").split(b"\n"):
            if line.startswith(b"Uid:"):
                try:
                    return int(line.split()[1])
                except (ValueError, IndexError):
                    self.malformed += 1
        return None

    def cgroup(self, pid: int) -> str | None:
        """Return the text of /proc/PID/cgroup, or None where there is none."""
        data = self._read(pid, b"cgroup")
        return None if data is None else decode_text(data)

    def command_line(self, pid: int) -> tuple[str, ...] | None:
        """Return the arguments of a process, 4 KiB at most; None for a kernel thread."""
        data = self._read(pid, b"cmdline", _COMMAND_LINE_LIMIT)
        # A process that renamed itself leaves a tail of zeroes.
        text = (data or b"").rstrip(b"\0")
        return tuple(decode_text(part) for part in text.split(b"\0")) if text else None

    def executable(self, pid: int) -> str | None:
        """Return the program file, or None for a kernel thread and where it may not be seen."""
        try:
            path = self._read_link(pid, b"exe")
        except PermissionError:
            return None  # the rest of what is told of the process is worth having all the same
        return decode_text(path.removesuffix(_DELETED)) if path else None

    def fd_folder(self, pid: int) -> FdFolder | None:
        """Return the state of the folder of fds, or None where the process is gone or hidden."""
        try:
            status = os.stat(self._path(pid, b"fd"))  # noqa: PTH116 (as in `pids`)
        except _GONE:
            return None
        except PermissionError:
            self.hidden += 1
            return None
        self.counts_fds |= status.st_size > 0
        return FdFolder(status.st_ino, status.st_size, status.st_mtime_ns, status.st_uid)

    def fds(self, pid: int) -> list[int]:
        """Return the open fds of a process; none where it is gone. Raises PermissionError."""
        try:
            names = os.listdir(self._path(pid, b"fd"))  # noqa: PTH208 (as in `pids`)
        except _GONE:
            return []
        return [int(name) for name in names if name.isdigit()]

    def socket_inode(self, pid: int, fd: int) -> int | None:
        """Return the inode of the socket at `fd`, 0 if it is no socket, None if it is not open.

        Raises PermissionError.
        """
        target = self._read_link(pid, b"fd/%d" % fd)
        if target is None or not target.startswith(_SOCKET):
            return None if target is None else 0
        inode = target[len(_SOCKET) : -1]
        if inode.isdigit():
            return int(inode)
        self.malformed += 1
        return 0

    def _path(self, pid: int, name: bytes) -> bytes:
        return b"%b/%d/%b" % (self._root, pid, name)

    def _read(self, pid: int, name: bytes, limit: int = -1) -> bytes | None:
        try:
            with open(self._path(pid, name), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                return file.read(limit)
        except (*_GONE, PermissionError):
            return None

    def _read_link(self, pid: int, name: bytes) -> bytes | None:
        """Return where a link leads, empty where that has too long a name (4096 and more)."""
        try:
            return os.readlink(self._path(pid, name))  # noqa: PTH115 (bytes)
        except _GONE:
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return b""  # anyone can open such a file: it may harm nobody else's look-ups


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _may_be_ours(process: Path) -> bool:
    """Tell whether a process is in this thread's network namespace, or of a recorded tree."""
    try:
        return is_own_namespace(process / "ns" / "net")
    except FileNotFoundError:
        return True
    except OSError:
        return False  # it may not be seen


def _read_boot_time(root: Path) -> int:
    try:
        lines = (root / "stat").read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"attribution.procfs: {root}/stat cannot be read ({error.strerror}); "
            "name the place where a procfs is mounted"
        ) from error
    for line in lines:
        if line.startswith(b"btime ") and line[len(b"btime ") :].isdigit():
            return int(line[len(b"btime ") :])
    raise ConfigurationError(
        f"attribution.procfs: {root} is no procfs (its stat has no boot time); "
        "name the place where one is mounted"
    )
