"""The tree of control groups (v2): where it is, whether all of it is seen, and what is in it.

Where it is mounted nowhere in sight (`ip netns exec` puts a new /sys over it, containers may have
none) it is mounted anew, without a place: such a mount is seen by nobody, and is gone with the last
descriptor of it.

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

# PROC_CGROUP_INIT_INO of include/linux/proc_ns.h: the host's own namespace of control groups.
_HOST_NAMESPACE = 0xEFFFFFFB
_MOUNTINFO = Path("/proc/self/mountinfo")
_NAMESPACE = Path("/proc/self/ns/cgroup")
_DESCRIPTORS = Path("/proc/self/fd")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# include/uapi/asm-generic/unistd.h: the numbers are the same on every machine but Alpha.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
# include/uapi/linux/mount.h
_CLOEXEC, _CMD_CREATE = 1, 6
_ATTRIBUTES = 0x1 | 0x2 | 0x4 | 0x8  # read-only, no set-uid, no devices, no programs

_HANDLE = struct.Struct("=IiQ")  # struct file_handle: bytes, type, and the id
_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
_PATHS_KEPT = 4096


class CgroupMount(msgspec.Struct, frozen=True):
    """Where the root of a tree is mounted, and on which device (st_dev) files there are."""

    place: str
    device: int


def parse_cgroup_mounts(mountinfo: bytes) -> list[CgroupMount]:
    """Return where the root of the cgroup v2 tree is mounted, the last one mounted last."""
    found = []
    for line in mountinfo.splitlines():
        place, separator, kind = line.partition(b" - ")
        fields = place.split(b" ")
        if separator and kind.startswith(b"cgroup2 ") and len(fields) > 4 and fields[3] == b"/":
            # Blanks, tabs, line ends and backslashes are written as octal escapes.
            raw = fields[4].decode("latin-1").encode("latin-1").decode("unicode_escape")
            major, _, minor = fields[2].partition(b":")
            if major.isdigit() and minor.isdigit():
                device = os.makedev(int(major), int(minor))
                found.append(CgroupMount(os.fsdecode(raw.encode("latin-1")), device))
    return found


def sees_whole_host() -> bool:
    """Return whether the root of the tree is the host's, and not that of a container."""
    try:
        return _NAMESPACE.stat().st_ino == _HOST_NAMESPACE
    except OSError:
        return True  # a kernel without such namespaces


class CgroupTree:
    """The tree, opened until `close`. Raises BpfUnavailableError. For any thread."""

    def __init__(self) -> None:
        self.place: Path | None
        """Where it is mounted, None where that is nowhere in sight."""
        self.place, self._root = _open_mounted() or (None, _mount())
        self.path_of = lru_cache(maxsize=_PATHS_KEPT)(self._path_of)
        """Return the path of a control group in the tree by its id, None where that is not known:
        it is gone, or outside of what is seen here, or CAP_DAC_READ_SEARCH is missing."""

    @property
    def root(self) -> Path:
        """Return by which path the root can be opened until `close`."""
        return self.place or _DESCRIPTORS / str(self._root)

    def close(self) -> None:
        """Let go of the tree. May be called again."""
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
    """Return a place where the tree is mounted, and it opened; None where it is not in sight."""
    try:
        mounts = parse_cgroup_mounts(_MOUNTINFO.read_bytes())
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.CGROUP, f"eBPF: {_MOUNTINFO} cannot be read ({error.strerror}); mount /proc"
        ) from error
    for mount in mounts:
        try:
            root = os.open(mount.place, _FOLDER)
        except OSError:
            continue  # hidden by another mount, or not for us: another one may be in sight
        if os.fstat(root).st_dev == mount.device:
            return Path(mount.place), root
        os.close(root)
    return None


def _mount() -> int:
    """Return a descriptor of the root of the tree, mounted for nobody else."""
    opened: list[int] = []
    try:
        opened.append(_call(_SYS_FSOPEN, ctypes.c_char_p(b"cgroup2"), _CLOEXEC))
        _call(_SYS_FSCONFIG, opened[0], _CMD_CREATE, None, None, 0)
        opened.append(_call(_SYS_FSMOUNT, opened[0], _CLOEXEC, _ATTRIBUTES))
        # What fsmount gives is a bare place (O_PATH), which no file can be opened from by handle.
        return os.open(_DESCRIPTORS / str(opened[1]), _FOLDER)
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.CGROUP,
            "eBPF: no control group tree (cgroup v2) is mounted in sight, and none can be mounted "
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
