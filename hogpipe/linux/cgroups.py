"""The control group tree (cgroup v2): its mount point, and paths of groups by their ids.

Without a visible mount (`ip netns exec` mounts a new /sys over it, containers may have none), the
tree is mounted detached, without a mount point: no other process sees that mount, and it ends with
its last descriptor. Opening the tree raises BpfUnavailableError if neither works.

Sources: proc(5) (mountinfo), cgroup_namespaces(7), fsopen(2), fsmount(2), open_by_handle_at(2), and
fs/kernfs/mount.c for the handle of a control group, which is its id (Linux 5.5).
"""

import ctypes
import os
import struct
from functools import lru_cache
from pathlib import Path

import msgspec

from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle

# PROC_CGROUP_INIT_INO of include/linux/proc_ns.h
_INITIAL_NAMESPACE = 0xEFFFFFFB
_MOUNTINFO = Path("/proc/self/mountinfo")
_NAMESPACE = Path("/proc/self/ns/cgroup")
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
    """Return the mounts of the root of the cgroup v2 tree, the latest last."""
    found = []
    for line in mountinfo.splitlines():
        mount, separator, filesystem = line.partition(b" - ")
        fields = mount.split(b" ")
        if (
            separator
            and filesystem.startswith(b"cgroup2 ")
            and len(fields) > 4
            and fields[3] == b"/"
        ):
            # The kernel writes blanks, tabs, line ends and backslashes as octal escapes.
            raw = fields[4].decode("latin-1").encode("latin-1").decode("unicode_escape")
            major, _, minor = fields[2].partition(b":")
            if major.isdigit() and minor.isdigit():
                device = os.makedev(int(major), int(minor))
                found.append(CgroupMount(os.fsdecode(raw.encode("latin-1")), device))
    return found


def in_initial_cgroup_namespace() -> bool:
    """Return whether this process is in the initial cgroup namespace, the one of the host.

    In any other one, the root of the tree is that of a container.
    """
    try:
        return _NAMESPACE.stat().st_ino == _INITIAL_NAMESPACE
    except OSError:
        return True  # a kernel without cgroup namespaces


class CgroupTree:
    """The tree, open until `close`. Raises BpfUnavailableError. Safe in any thread."""

    def __init__(self) -> None:
        self.mount_point: Path | None
        """None if no mount is visible."""
        self.mount_point, self._root = _open_mounted() or (None, _mount())
        self.path_of = lru_cache(maxsize=_MAX_PATHS)(self._path_of)
        """Return the path of a control group in the tree by its id. None if the group is removed or
        outside of the visible tree, or if CAP_DAC_READ_SEARCH is missing."""

    @property
    def root(self) -> Path:
        """Return a path by which the root can be opened until `close`."""
        return self.mount_point or _DESCRIPTORS / str(self._root)

    def close(self) -> None:
        """Close the tree. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _path_of(self, cgroup: int) -> str | None:
        handle = ctypes.create_string_buffer(_HANDLE.pack(8, _FILEID_KERNFS, cgroup))
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.open_by_handle_at(self._root, handle, os.O_PATH | os.O_CLOEXEC)
        if found < 0:
            return None
        try:
            root, path = _read_link(self._root), _read_link(found)
        finally:
            os.close(found)
        if path == root:
            return "/"
        above = root.rstrip(b"/")
        inside = path.removeprefix(above).decode("utf-8", "backslashreplace")
        return inside if path.startswith(above + b"/") else None


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
    for mount in mounts:
        try:
            root = os.open(mount.mount_point, _OPEN_DIRECTORY)
        except OSError:
            continue  # hidden by another mount, or not permitted: the next mount may work
        if os.fstat(root).st_dev == mount.device:
            return Path(mount.mount_point), root
        os.close(root)
    return None


def _mount() -> int:
    """Return a descriptor of the root of the tree, mounted detached."""
    opened: list[int] = []
    try:
        opened.append(_call(_SYS_FSOPEN, ctypes.c_char_p(b"cgroup2"), _CLOEXEC))
        _call(_SYS_FSCONFIG, opened[0], _CMD_CREATE, None, None, 0)
        opened.append(_call(_SYS_FSMOUNT, opened[0], _CLOEXEC, _ATTRIBUTES))
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


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
