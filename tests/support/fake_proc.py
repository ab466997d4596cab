"""A fake /proc with the processes and sockets that a test needs."""

import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from hogpipe.linux.procfs import parse_stat

BOOT_TIME = 1_700_000_000

ESTABLISHED, TIME_WAIT, CLOSE, LISTEN = 0x01, 0x06, 0x07, 0x0A

End = tuple[bytes, int]
"""An address in network byte order, and a port."""

_HEADER = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"
    b"   uid  timeout inode"
)


def format_row(
    local: End,
    remote: End,
    *,
    inode: int,
    state: int = ESTABLISHED,
    uid: int = 0,
    slot: int = 0,
) -> bytes:
    """Return a row as get_tcp4_sock and get_tcp6_sock print it (`%4d: %08X:%04X %08X:%04X …`)."""
    return b"%4d: %b %b %02X %08X:%08X %02X:%08X %08X %5d %8d %d 1 %016x 20 4 30 10 -1" % (
        *(slot, _format_end(local), _format_end(remote), state),
        *(0, 0, 0, 0, 0, uid, 0, inode, 0),
    )


def format_time_wait(local: End, remote: End, *, slot: int = 0) -> bytes:
    """Return a row as get_timewait4_sock prints it: without an inode, and shorter than others."""
    return b"%4d: %b %b %02X %08X:%08X %02X:%08X %08X %5d %8d %d %d %016x" % (
        *(slot, _format_end(local), _format_end(remote), TIME_WAIT),
        *(0, 0, 3, 5000, 0, 0, 0, 0, 3, 0),
    )


def format_table(rows: Sequence[bytes]) -> bytes:
    """Return a table, each row padded to 149 characters as in the IPv4 tables."""
    return b"".join(line.ljust(149) + b"\n" for line in (_HEADER, *rows))


def _format_end(end: End) -> bytes:
    address, port = end
    # The kernel prints each 32-bit word in the host's byte order.
    words = struct.unpack(f"={len(address) // 4}I", address)
    return b"".join(b"%08X" % word for word in words) + b":%04X" % port


class FakeProc:
    """Writes the tree under `root`; each method replaces what it wrote before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changes = 0
        (root / "net").mkdir(parents=True)
        (root / "stat").write_text(f"cpu  1 2 3 4\nbtime {BOOT_TIME}\nprocesses 7\n")

    def table(self, name: str, *rows: bytes) -> None:
        """Write the socket table `name`."""
        (self.root / "net" / name).write_bytes(format_table(rows))

    def process(
        self,
        pid: int,
        *,
        start: int = 1000,
        parent: int = 0,
        command: bytes = b"program",
        executable: bytes | None = b"/usr/bin/program",
        command_line: Sequence[bytes] = (),
        uid: int = 0,
        cgroup: bytes = b"0::/\n",
        sockets: Mapping[int, int] | None = None,
        stack_start: int = 0,
    ) -> Path:
        """Write a process that holds `sockets` (inode by fd), and return its directory."""
        home = self.root / str(pid)
        self._begin(home, start)
        fields = [b"S", b"%d" % parent, *[b"0"] * 17, b"%d" % start, *[b"0"] * 30]
        fields[25] = b"%d" % stack_start
        (home / "stat").write_bytes(b"%d (%b) %b\n" % (pid, command, b" ".join(fields)))
        (home / "status").write_bytes(b"Name:\tx\nUid:\t%d\t9\t9\t9\nGid:\t8\t8\t8\t8\n" % uid)
        (home / "cgroup").write_bytes(cgroup)
        (home / "cmdline").write_bytes(b"".join(part + b"\0" for part in command_line))
        (home / "exe").unlink(missing_ok=True)
        if executable is not None:
            (home / "exe").symlink_to(os.fsdecode(executable))
        for link in (home / "fd").iterdir():
            link.unlink()
        (home / "fd" / "0").symlink_to("/dev/null")
        for fd, inode in (sockets or {}).items():
            (home / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")
        self.touch(pid)
        return home

    def _begin(self, home: Path, start: int) -> None:
        """Make the fd directory: like the kernel, a new inode for a new process."""
        home.mkdir(exist_ok=True)
        try:
            same = parse_stat((home / "stat").read_bytes()).start == start
        except (FileNotFoundError, ValueError):  # absent, or malformed by a test
            same = False
        if not same:
            (home / "fd.new").mkdir()
            if (home / "fd").exists():
                shutil.rmtree(home / "fd")
            (home / "fd.new").rename(home / "fd")

    def enter(self, pid: int, namespace: int) -> None:
        """Set the network namespace of a process."""
        directory = self.root / str(pid) / "ns"
        directory.mkdir(exist_ok=True)
        (directory / "net").unlink(missing_ok=True)
        (directory / "net").symlink_to(f"net:[{namespace}]")

    def process_table(self, pid: int, name: str, *rows: bytes) -> None:
        """Write the socket table `name` of the network namespace of a process."""
        directory = self.root / str(pid) / "net"
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(format_table(rows))

    def touch(self, pid: int) -> None:
        """Give the fd directory a new modification time, whatever the resolution of the clock."""
        self._changes += 1
        os.utime(self.root / str(pid) / "fd", ns=(0, self._changes))

    def swap(self, pid: int, *sockets: tuple[int, int]) -> None:
        """Replace the sockets at fds (fd, inode) without a change of the fd directory."""
        directory = self.root / str(pid) / "fd"
        before = directory.stat().st_mtime_ns
        for fd, inode in sockets:
            (directory / str(fd)).unlink()
            (directory / str(fd)).symlink_to(f"socket:[{inode}]")
        os.utime(directory, ns=(0, before))
