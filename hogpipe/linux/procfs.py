"""The reader of a procfs: socket tables, and the files of each process.

In: the root of a procfs. It is an argument, so that a container can read /host/proc and a test a
tree of its own. Out: bytes of socket tables, and parsed values of processes. All text is valid
UTF-8 (`decode_text`).

Socket tables are read up to a deadline of the caller, by `clock`: a table that takes longer is
returned as far as it was read, and counted.

What may fail: a process that has exited, or that is hidden (hidepid), is ordinary; its files read
as None. A malformed file is counted and reads as None. Only the fds of a process raise
PermissionError, because the caller must distinguish a refusal from a process without sockets.

Threads: files of a thread are read like those of a process, with the thread's id for the pid. The
kernel shows /proc/TID but does not list it; a recorded tree does not have it.

Formats: proc(5) and Documentation/filesystems/proc.rst of the kernel.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hogpipe.errors import ConfigurationError
from hogpipe.linux.kcmp import compare_fd_tables
from hogpipe.linux.netns.namespace_processes import is_own_namespace
from hogpipe.linux.socket_table import READ_BYTES, TableText, join_reads
from hogpipe.text import printable

log = logging.getLogger(__name__)

_SOCKET = b"socket:["
_DELETED = b" (deleted)"
_COMMAND_LINE_LIMIT = 4096
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
# ENOTDIR: in a recorded tree a number may be the name of a file.
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


class ProcessIdentity(msgspec.Struct, frozen=True, gc=False):
    """A pid and its start time: a pid alone is reused."""

    pid: int
    start: int


class ProcessStat(msgspec.Struct, frozen=True, gc=False):
    """The fields of /proc/PID/stat (proc(5)) that hogpipe uses."""

    command: str
    parent_pid: int
    start: int
    """Clock ticks since boot."""
    flags: int
    """PF_* of include/linux/sched.h."""
    has_exited: bool
    """Whether the first thread of the process has exited (states Z and X)."""
    threads: int
    """The number of threads, with a first thread that has exited."""
    stack_start: int = 0
    """Where the stack begins, which the kernel randomizes with each exec; 0 if it is hidden."""

    @property
    def has_exited_leader(self) -> bool:
        """Whether the first thread has exited while others live: they have the open fds."""
        return self.has_exited and self.threads > 1

    @property
    def can_open_fds(self) -> bool:
        """Whether the process may open fds: it lives, and is not a thread of the kernel's."""
        return not self.is_kernel_thread and (not self.has_exited or self.threads > 1)

    @property
    def is_kernel_thread(self) -> bool:
        """Whether the process is a thread of the kernel's."""
        return bool(self.flags & _PF_KTHREAD)


class FdDirectory(msgspec.Struct, frozen=True, gc=False):
    """The result of stat(2) on /proc/PID/fd.

    `inode` differs between processes, also between two with the same pid: the kernel makes the
    inode at the first access to the process. `open_fds` is the number of open fds if
    `Procfs.reports_fd_counts`; 0 if the first thread of the process has exited. `mtime_ns` never
    changes in a procfs; in a recorded tree it shows that the directory changed. `user_id` is the
    effective user, or root (proc(5), "dumpable").
    """

    inode: int
    open_fds: int
    mtime_ns: int
    user_id: int


def decode_text(raw: bytes) -> str:
    r"""Return bytes of unknown encoding as text; invalid UTF-8 becomes `\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def parse_stat(data: bytes) -> ProcessStat:
    """Parse /proc/PID/stat; the command may contain any byte, `)` and blanks included.

    Raises ValueError if `data` is malformed.
    """
    opening, closing = data.index(b"("), data.rindex(b")")
    fields = data[closing + 1 :].split()
    if len(fields) < 20:
        raise ValueError("too few fields")
    return ProcessStat(
        command=decode_text(data[opening + 1 : closing]),
        parent_pid=int(fields[1]),
        start=int(fields[19]),
        flags=int(fields[6]),
        has_exited=fields[0] in {b"Z", b"X"},
        threads=int(fields[17]),
        stack_start=int(fields[25]) if len(fields) > 25 else 0,
    )


def shows_live_processes(procfs: Path) -> bool:
    """Return whether `procfs` shows this process; a recorded tree does not."""
    return (procfs / "self").exists()


def _shows_own_pids(procfs: Path) -> bool:
    try:
        return (procfs / "self").readlink().name == str(os.getpid())
    except OSError:
        return False


class Procfs:
    """A mounted procfs, or a recorded tree. Raises ConfigurationError if `root` is neither.

    `clock` returns the seconds that deadlines are in.

    Socket tables come from `net`: the network namespace of the reader, whose packets it captures.
    If `net` does not exist (a recorded tree, or the procfs of a pid namespace that does not include
    the reader), they come from process 1, provided that process 1 is not in another network
    namespace: its sockets would be mistaken for those of the reader. Otherwise there are no tables.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self._root = os.fsencode(root)
        self._clock = clock
        self.boot_time = _read_boot_time(root)
        """Seconds since the epoch, by the kernel's clock when the reader was made."""
        tables = next(
            (path for path in (root / "net", root / "1" / "net") if _is_directory(path)), None
        )
        if tables is None:
            raise ConfigurationError(
                f"attribution.procfs: {root} shows no socket tables (neither net nor 1/net); "
                "name a procfs that is mounted in full"
            )
        self._net = tables if tables == root / "net" or _may_share_namespace(root / "1") else None
        if self._net is None:
            log.warning(
                "attribution.procfs: %s shows no sockets of the network namespace that hogpipe "
                "runs in, so their flows stay unattributed; name a procfs that shows hogpipe",
                root,
            )
        self._shows_own_pids = _shows_own_pids(root)
        self.reports_fd_counts = False
        """Whether the kernel reports numbers of open fds (Linux 6.2); known after the first."""
        self.malformed = 0
        """Malformed files of processes so far."""
        self.hidden = 0
        """How often the fd directory of a process was hidden so far."""
        self.tables_incomplete = 0
        """Socket tables that were not read to their end by the deadline so far."""
        self._last_path = b""

    def read_table(self, name: str, deadline: float) -> TableText | None:
        """Return a socket table, or None if the kernel does not have the protocol.

        Raises OSError if the procfs is no longer mounted.
        """
        if self._net is None:
            return None
        try:
            return self._read_table_file(os.fsencode(self._net / name), deadline)
        except FileNotFoundError:
            if not _is_directory(self._net):
                raise
            return None

    def read_table_of(self, pid: int, name: str, deadline: float) -> TableText | None:
        """Return a socket table of a process's network namespace, or None if there is none."""
        try:
            return self._read_table_file(self._path(pid, b"net/" + name.encode()), deadline)
        except (*_GONE, PermissionError):
            return None
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # seq_open_net in fs/proc/proc_net.c: the process has just exited

    def describe_reading(self) -> str:
        """Return the file that is being read, or was read last; safe from any thread."""
        return printable(decode_text(self._last_path))

    def list_pids(self) -> set[int]:
        """Return the pids of all processes. Raises OSError."""
        names = os.listdir(self._root)  # noqa: PTH208 (bytes, and no Path for each of thousands)
        return {int(name) for name in names if name.isdigit()}

    def read_stat(self, pid: int) -> ProcessStat | None:
        """Return command, parent and start time of a process, or None."""
        data = self._read(pid, b"stat")
        try:
            return parse_stat(data) if data else None
        except ValueError:
            self.malformed += 1
            return None

    def read_youngest_child(self, pid: int) -> ProcessStat | None:
        """Return the stat of the living child that the first thread of a process forked last.

        None without one, if the process has exited, and on a kernel without CONFIG_PROC_CHILDREN.
        """
        children = (self._read(pid, b"task/%d/children" % pid) or b"").split()
        return self.read_stat(int(children[-1])) if children else None

    def count_threads(self, pid: int) -> int:
        """Return the number of threads of a process, at the cost of one stat(2); 0 if it exited."""
        try:
            # Each thread adds a link: proc_task_getattr in fs/proc/base.c.
            return os.stat(self._path(pid, b"task")).st_nlink - 2  # noqa: PTH116 (bytes)
        except (*_GONE, PermissionError):
            return 0

    def list_threads(self, pid: int) -> list[int]:
        """Return the ids of the threads of a process, the pid included; none if it has exited."""
        try:
            names = os.listdir(self._path(pid, b"task"))  # noqa: PTH208 (as in `list_pids`)
        except (*_GONE, PermissionError):
            return []
        return [int(name) for name in names if name.isdigit()]

    def find_living_thread(self, pid: int) -> int | None:
        """Return a thread of a process that has not exited, or None."""
        for thread in self.list_threads(pid):
            stat = self.read_stat(thread)
            if stat is not None and not stat.has_exited:
                return thread
        return None

    def share_fds(self, first: int, second: int) -> bool:
        """Return whether two threads of a process have one table of fds.

        Without kcmp(2), or if this procfs shows the pids of another pid namespace, tables with the
        same number of open fds are taken to be one.
        """
        answer = compare_fd_tables(first, second) if self._shows_own_pids else None
        if answer is None:
            one, other = self.read_fd_directory(first), self.read_fd_directory(second)
            return one is None or other is None or one.open_fds == other.open_fds
        return answer

    def read_user_id(self, pid: int) -> int | None:
        """Return the real user id of a process (`Uid:` of status), or None."""
        for line in (self._read(pid, b"status") or b"").split(b"\n"):
            if line.startswith(b"Uid:"):
                try:
                    return int(line.split()[1])
                except (ValueError, IndexError):
                    self.malformed += 1
        return None

    def read_cgroup(self, pid: int) -> str | None:
        """Return the text of /proc/PID/cgroup, or None."""
        data = self._read(pid, b"cgroup")
        return None if data is None else decode_text(data)

    def read_command_line(self, pid: int) -> tuple[str, ...] | None:
        """Return the arguments of a process, at most 4 KiB of them; None for a kernel thread."""
        data = self._read(pid, b"cmdline", _COMMAND_LINE_LIMIT)
        # A process that overwrites its arguments leaves trailing zeroes.
        text = (data or b"").rstrip(b"\0")
        return tuple(decode_text(part) for part in text.split(b"\0")) if text else None

    def read_executable(self, pid: int) -> str | None:
        """Return the path of the program; None for a kernel thread and if reading is refused."""
        try:
            path = self._read_link(pid, b"exe")
        except PermissionError:
            return None  # the caller still reports what else it knows of the process
        return decode_text(path.removesuffix(_DELETED)) if path else None

    def read_fd_directory(self, pid: int) -> FdDirectory | None:
        """Return the state of /proc/PID/fd, or None if the process has exited or is hidden."""
        try:
            status = os.stat(self._path(pid, b"fd"))  # noqa: PTH116 (as in `list_pids`)
        except _GONE:
            return None
        except PermissionError:
            self.hidden += 1
            return None
        self.reports_fd_counts |= status.st_size > 0
        return FdDirectory(status.st_ino, status.st_size, status.st_mtime_ns, status.st_uid)

    def list_fds(self, pid: int) -> list[int]:
        """Return the open fds of a process; none if it has exited. Raises PermissionError."""
        try:
            names = os.listdir(self._path(pid, b"fd"))  # noqa: PTH208 (as in `list_pids`)
        except _GONE:
            return []
        return [int(name) for name in names if name.isdigit()]

    def read_socket_inode(self, pid: int, fd: int) -> int | None:
        """Return the inode of the socket at `fd`, 0 if not a socket, None if `fd` is not open.

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

    def _read_table_file(self, path: bytes, deadline: float) -> TableText:
        self._last_path = path
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
            reads = iter(lambda: file.read(READ_BYTES), b"")
            table = join_reads(reads, lambda: self._clock() >= deadline)
        self.tables_incomplete += not table.is_complete
        return table

    def _path(self, pid: int, name: bytes) -> bytes:
        self._last_path = path = b"%b/%d/%b" % (self._root, pid, name)
        return path

    def _read(self, pid: int, name: bytes, limit: int = -1) -> bytes | None:
        try:
            with open(self._path(pid, name), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                return file.read(limit)
        except (*_GONE, PermissionError):
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None  # a path of a control group that the kernel cannot show whole

    def _read_link(self, pid: int, name: bytes) -> bytes | None:
        """Return the target of a link, or empty bytes if the target exceeds 4095 bytes."""
        try:
            return os.readlink(self._path(pid, name))  # noqa: PTH115 (bytes)
        except _GONE:
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return b""  # any user can open such a file; it must not break the whole lookup


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _may_share_namespace(process: Path) -> bool:
    """Return whether a process is in this thread's network namespace, or in a recorded tree."""
    try:
        return is_own_namespace(process / "ns" / "net")
    except FileNotFoundError:
        return True
    except OSError:
        return False  # reading is refused


def _read_boot_time(root: Path) -> int:
    try:
        lines = (root / "stat").read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"attribution.procfs: {root}/stat cannot be read ({error.strerror}); "
            "name the mount point of a procfs"
        ) from error
    for line in lines:
        if line.startswith(b"btime ") and line[len(b"btime ") :].isdigit():
            return int(line[len(b"btime ") :])
    raise ConfigurationError(
        f"attribution.procfs: {root} is not a procfs (its stat has no boot time); "
        "name the mount point of a procfs"
    )
