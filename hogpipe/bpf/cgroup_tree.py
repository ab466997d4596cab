"""Where the tree of control groups (v2) is mounted, and whether all of it is seen.

Formats: proc(5) (mountinfo), cgroup_namespaces(7).
"""

import os
from pathlib import Path

from hogpipe.bpf.obstacles import BpfUnavailableError, Obstacle

# PROC_CGROUP_INIT_INO of include/linux/proc_ns.h: the host's own namespace of control groups.
_HOST_NAMESPACE = 0xEFFFFFFB
_MOUNTINFO = Path("/proc/self/mountinfo")
_NAMESPACE = Path("/proc/self/ns/cgroup")


def parse_cgroup_mount(mountinfo: bytes) -> str | None:
    """Return where the root of a cgroup v2 tree is mounted, None where it is nowhere."""
    for line in mountinfo.splitlines():
        place, separator, kind = line.partition(b" - ")
        fields = place.split(b" ")
        if separator and kind.startswith(b"cgroup2 ") and len(fields) > 4 and fields[3] == b"/":
            # Blanks, tabs, line ends and backslashes are written as octal escapes.
            raw = fields[4].decode("latin-1").encode("latin-1").decode("unicode_escape")
            return os.fsdecode(raw.encode("latin-1"))
    return None


def find_cgroup_root() -> Path:
    """Return the root of the tree, to attach to. Raises BpfUnavailableError."""
    try:
        mount = parse_cgroup_mount(_MOUNTINFO.read_bytes())
    except OSError as error:
        raise BpfUnavailableError(
            Obstacle.CGROUP, f"eBPF: {_MOUNTINFO} cannot be read ({error.strerror}); mount /proc"
        ) from error
    if mount is None:
        raise BpfUnavailableError(
            Obstacle.CGROUP,
            "eBPF: no control group tree (cgroup v2) is mounted; mount one: "
            "mount -t cgroup2 none /sys/fs/cgroup/unified",
        )
    return Path(mount)


def sees_whole_host() -> bool:
    """Return whether the root of the tree is the host's, and not that of a container."""
    try:
        return _NAMESPACE.stat().st_ino == _HOST_NAMESPACE
    except OSError:
        return True  # a kernel without such namespaces
