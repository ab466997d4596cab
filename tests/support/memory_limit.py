"""A control group whose processes may not use more than so much memory."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class MemoryLimit:
    """A group with a limit; `enter` moves the calling process into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def enter(self) -> None:
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        self._folder.rmdir()


@contextmanager
def memory_limit(mib: int) -> Iterator[MemoryLimit]:
    """Make a group until the context ends, in either version of control groups."""
    parent, name = _find_controller()
    folder = parent / f"hogpipe-test-{uuid.uuid4().hex}"
    folder.mkdir()
    made = MemoryLimit(folder)
    try:
        (folder / name).write_text(str(mib << 20))
        yield made
    finally:
        made.remove()


def _find_controller() -> tuple[Path, str]:
    """Return the group of this process that may limit memory, and the file with the limit."""
    groups = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, described = line.partition(" - ")
        mount_point, (kind, _source, options) = fields.split()[4], described.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(mount_point + groups["memory"]), "memory.limit_in_bytes"
        if kind == "cgroup2":
            for folder in (Path(mount_point + groups[""]), Path(mount_point)):
                control = folder / "cgroup.subtree_control"
                if control.exists() and "memory" in control.read_text().split():
                    return folder, "memory.max"
    pytest.skip("no control group may limit memory here")
