"""For tests of BPF programs: the object, changed objects, control groups, attached programs."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from build_bpf import compile_object, list_sources

from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.cgroups import CgroupTree

from .namespaces import require
from .running import wait_until

# enum bpf_attach_type of include/uapi/linux/bpf.h
ATTACH_TYPES = {
    "ledger_create": 2,
    "ledger_sockops": 3,
    "ledger_connect4": 10,
    "ledger_connect6": 11,
    "ledger_bind4": 12,
    "ledger_bind6": 13,
    "ledger_sendmsg4": 14,
    "ledger_sendmsg6": 15,
    "ledger_release": 34,
}
_OF_PACKETS = (0, 1)


def find_cgroup_root() -> Path:
    """Return where the root of the control group tree is mounted."""
    tree = CgroupTree()
    tree.close()
    assert tree.mount_point is not None, "no control group tree (cgroup v2) is mounted here"
    return tree.mount_point


def require_bpf() -> Path:
    """Return the object; without root, skip the test, or fail it in CI."""
    require("ip")
    return object_path()


def compile_changed(folder: Path, pattern: str, new: str, *, with_assertions: bool = False) -> Path:
    """Return an object compiled from sources in which a pattern is replaced."""
    replaced = 0
    for source in list_sources():
        text, number = re.subn(pattern, new, source.read_text())
        (folder / source.name).write_text(text)
        replaced += number
    assert replaced
    compiled = folder / "hogpipe.bpf.o"
    options = [] if with_assertions else ["-D_Static_assert(condition, text)="]
    compile_object(folder / "hogpipe.bpf.c", compiled, options)
    return compiled


def attached(folder: Path, attach_type: int) -> set[int]:
    """Return the ids of the programs that are attached to a control group itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
        flags = ctypes.c_uint32()
        code = load_library().bpf_prog_query(
            descriptor, attach_type, 0, ctypes.byref(flags), ids, ctypes.byref(count)
        )
        assert code == 0, os.strerror(-code)
        return set(ids[: count.value])
    finally:
        os.close(descriptor)


def all_attached(folder: Path) -> set[int]:
    """Return the ids of all programs of the kinds that hogpipe uses."""
    kinds = (*_OF_PACKETS, *ATTACH_TYPES.values())
    return set().union(*(attached(folder, kind) for kind in kinds))


def attached_by(pid: int) -> set[int]:
    """Return the ids of the programs that a process holds attached (proc(5), fdinfo)."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except FileNotFoundError:  # closed meanwhile; a link stays open as long as the run
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if "link_id" in fields:
            found.add(int(fields["prog_id"]))
    return found


def read_orphans() -> set[int]:
    """Return the ids of the programs at the root that no process holds: theirs has ended.

    Other runs on this host may attach and detach programs meanwhile.
    """
    root = find_cgroup_root()
    before = all_attached(root)
    held: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        # The process has ended; or may not be read even by root, and is none of a test's.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            held |= attached_by(int(folder.name))
    return (before & all_attached(root)) - held


@contextmanager
def nothing_stays_attached() -> Iterator[None]:
    """Assert that the body leaves no program at the root without a process."""
    before = read_orphans()
    yield
    wait_until(lambda: read_orphans() <= before)  # once the last reader of the kernel (RCU) is gone


@contextmanager
def control_group(parent: Path | None = None) -> Iterator[Path]:
    """Make an empty control group, below the root if not in `parent`, and remove it."""
    folder = (parent or find_cgroup_root()) / f"hogpipe-test-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


@contextmanager
def deep_control_group() -> Iterator[int]:
    """Make control groups inside one another, with hostile names; give a descriptor of the last.

    Its path is longer than a path may be, so it is reached from one group to the next.
    """
    opened, name = [os.open(find_cgroup_root(), os.O_RDONLY)], b"\x1b[2J\xff)(".ljust(250, b"d")
    try:
        for _ in range(17):
            os.mkdir(name, dir_fd=opened[-1])
            opened.append(os.open(name, os.O_RDONLY, dir_fd=opened[-1]))
        yield opened[-1]
    finally:
        for inner, outer in zip(opened[:0:-1], opened[-2::-1], strict=True):
            os.close(inner)
            os.rmdir(name, dir_fd=outer)
        os.close(opened[0])
