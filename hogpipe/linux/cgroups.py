"""The control group tree (cgroup v2): its mount point, and paths of groups by their ids.

Of several mounts, the one that covers the host is used: a container may have its own part of the
tree and, mounted from the host, the whole one. Without a visible mount (`ip netns exec` mounts a
new /sys over it, containers may have none), the tree is mounted detached, without a mount point: no
other process sees that mount, and it ends with its last descriptor. Opening the tree raises
BpfUnavailableError if neither works.

Sources: proc(5) (mountinfo), cgroup_namespaces(7), fsopen(2), fsmount(2), open_by_handle_at(2), and
fs/kernfs/mount.c for the handle of a control group, which is its id (Linux 5.5).
"""

import ctypes
import os
import re
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.system_calls import call_kernel

_HOST_ROOT = 1  # the id, and so the inode number, of the root of the host's tree
# What mountinfo shows as the root of a mount: that of this cgroup namespace, or one above it.
_ROOTS = re.compile(rb"/|(?:/\.\.)+")
_DEVICE = re.compile(rb"([0-9]{1,9}):([0-9]{1,9})")
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
_MOUNTINFO = Path("/proc/self/mountinfo")
_DESCRIPTORS = Path("/proc/self/fd")
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# include/uapi/asm-generic/unistd.h: the numbers are the same on every architecture but Alpha.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
# include/uapi/linux/mount.h
_CLOEXEC, _CMD_CREATE = 1, 6
_ATTRIBUTES = 0x1 | 0x2 | 0x4 | 0x8  # read-only, no set-uid, no devices, no programs

_HANDLE = struct.Struct("=IiQ")  # struct file_handle: size, type, and the id
_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
_MAX_PATHS = 4096


class CgroupMount(msgspec.Struct, frozen=True):
    """A mount of the root of a tree, with the device (st_dev) of its files."""

    mount_point: str
    device: int


def parse_cgroup_mounts(mountinfo: bytes) -> list[CgroupMount]:
    """Return the mounts of the root of the cgroup v2 tree, the latest last.

    In a cgroup namespace these are the mounts of its root and of groups above it.
    """
    found = []
    for line in mountinfo.split(b"\n"):  # the kernel escapes no other line end in a path
        mount, separator, filesystem = line.partition(b" - ")
        fields = mount.split(b" ")
        if (
            separator
            and filesystem.startswith(b"cgroup2 ")
            and len(fields) > 4
            and _ROOTS.fullmatch(fields[3])
        ):
            # The kernel writes blanks, tabs, line ends and backslashes as octal escapes.
            raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            if (numbers := _DEVICE.fullmatch(fields[2])) is not None:
                device = os.makedev(int(numbers[1]), int(numbers[2]))
                found.append(CgroupMount(os.fsdecode(raw), device))
    return found


class CgroupTree:
    """The tree, open until `close`. Raises BpfUnavailableError. Safe in any thread."""

    def __init__(self) -> None:
        self.mount_point: Path | None
        """None if no mount is visible."""
        self.mount_point, self._root = _open_mounted() or (None, _mount())
        self.path_of = lru_cache(maxsize=_MAX_PATHS)(self._path_of)
        """Return the path of a control group in the tree by its id. None if the group is removed or
        outside of the visible tree, if its path is longer than 4 kB, or if CAP_DAC_READ_SEARCH is
        missing."""

    @property
    def root(self) -> Path:
        """Return a path by which the root can be opened until `close`."""
        return self.mount_point or _DESCRIPTORS / str(self._root)

    def has_group(self, path: str) -> bool:
        """Return whether there is a control group with this path in the tree."""
        return self._folder_of(path).is_dir()

    def list_groups(self, path: str) -> list[int]:
        """Return the ids of a group and of those below it, none if it is gone."""
        found = []
        for folder, _below, _files in os.walk(self._folder_of(path)):
            with suppress(OSError):  # removed meanwhile
                found.append(Path(folder).stat().st_ino)
        return found

    def list_processes(self, path: str) -> list[int]:
        """Return the pids of the processes in a group and in those below it, none if it is gone."""
        found: set[int] = set()
        for folder, _below, _files in os.walk(self._folder_of(path)):
            # A group may be removed meanwhile, or have only threads, which cannot be read so.
            with suppress(OSError):
                found |= set(map(int, (Path(folder) / "cgroup.procs").read_bytes().split()))
        return sorted(found)

    def close(self) -> None:
        """Close the tree. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _folder_of(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _path_of(self, cgroup: int) -> str | None:
        handle = ctypes.create_string_buffer(_HANDLE.pack(8, _FILEID_KERNFS, cgroup))
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.open_by_handle_at(self._root, handle, os.O_PATH | os.O_CLOEXEC)
        if found < 0:
            return None
        try:
            root, path = _read_link(self._root), _read_link(found)
        except OSError:  # its path is longer than a page (ENAMETOOLONG), or no /proc is mounted
            return None
        finally:
            os.close(found)
        if path == root:
            return "/"
        above = root.rstrip(b"/")
        inside = path.removeprefix(above).decode("utf-8", "backslashreplace")
        return inside if path.startswith(above + b"/") else None


def covers_host() -> bool:
    """Return whether CgroupTree opens the tree of the host, instead of a container's part of it.

    False if no tree can be opened.
    """
    try:
        tree = CgroupTree()
    except BpfUnavailableError:
        return False  # who opens the tree reports the obstacle
    try:
        return tree.root.stat().st_ino == _HOST_ROOT
    finally:
        tree.close()


def _read_link(descriptor: int) -> bytes:
    return os.readlink(os.fsencode(_DESCRIPTORS / str(descriptor)))  # noqa: PTH115 (bytes)


def _open_mounted() -> tuple[Path, int] | None:
    """Return a mount point of the tree and a descriptor of it; None if no mount is visible."""
    try:
        mounts = parse_cgroup_mounts(_MOUNTINFO.read_bytes())
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.CGROUP, f"eBPF: {_MOUNTINFO} cannot be read ({error.strerror}); mount /proc"
        ) from error
    found: tuple[Path, int] | None = None
    for mount in mounts:
        try:
            root = os.open(mount.mount_point, _OPEN_DIRECTORY)
        except OSError:
            continue  # hidden by another mount, or not permitted: the next mount may work
        status = os.fstat(root)
        is_better = found is None or status.st_ino == _HOST_ROOT
        if status.st_dev != mount.device or not is_better:
            os.close(root)
            continue
        if found is not None:
            os.close(found[1])
        found = Path(mount.mount_point), root
        if status.st_ino == _HOST_ROOT:
            break
    return found


def _mount() -> int:
    """Return a descriptor of the root of the tree, mounted detached."""
    opened: list[int] = []
    try:
        opened.append(call_kernel(_SYS_FSOPEN, ctypes.c_char_p(b"cgroup2"), _CLOEXEC))
        call_kernel(_SYS_FSCONFIG, opened[0], _CMD_CREATE, None, None, 0)
        opened.append(call_kernel(_SYS_FSMOUNT, opened[0], _CLOEXEC, _ATTRIBUTES))
        # fsmount returns an O_PATH descriptor, with which no file can be opened by handle.
        return os.open(_DESCRIPTORS / str(opened[1]), _OPEN_DIRECTORY)
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.CGROUP,
            "eBPF: no control group tree (cgroup v2) is visible, and none can be mounted "
            f"({error.strerror}); grant CAP_SYS_ADMIN, or mount one: mount -t cgroup2 none "
            "/sys/fs/cgroup",
        ) from error
    finally:
        for one in opened:
            os.close(one)
