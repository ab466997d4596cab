"""Real control groups with names of container runtimes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.enrichment.cgroup_paths import parse_cgroup
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity, Procfs

ID = "0123456789abcdef" * 4
UID = "7a1b90f2-713c-467a-a18a-cbb50a075296"
POD = f"hogpipe-test-{os.getpid()}-pod{UID.replace('-', '_')}.slice"


@pytest.fixture
def scope() -> Iterator[Path]:
    """A group of a container in a pod; its processes must have exited when the test ends."""
    require("unshare")
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("needs a cgroup v2 tree that may be written")
    pod = root / POD
    made = [pod, pod / f"cri-containerd-{ID}.scope", pod / "other"]
    try:
        for group in made:
            group.mkdir()
        yield made[1]
    finally:
        for group in reversed(made):
            if group.exists():
                group.rmdir()


@pytest.fixture
def contained_pid(scope: Path) -> Iterator[int]:
    """A process in that group."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        (scope / "cgroup.procs").write_text(str(process.pid))
        yield process.pid
        process.kill()


def test_container_and_pod_are_found_whatever_the_other_hierarchies(
    contained_pid: int,
) -> None:
    procfs = Procfs(Path("/proc"))
    stat = procfs.read_stat(contained_pid)
    assert stat is not None
    process = ProcessReader(procfs).refresh(ProcessIdentity(contained_pid, stat.start), stat, 0.0)
    assert process is not None
    assert process.cgroup is not None
    assert process.cgroup.endswith(f"/{POD}/cri-containerd-{ID}.scope")
    assert (process.container, process.pod) == (ID, UID)
    assert process.unit == f"cri-containerd-{ID}.scope"


def test_from_inside_a_cgroup_namespace_the_names_are_the_same(
    contained_pid: int, scope: Path
) -> None:
    script = f"echo $$ > {scope.parent}/other/cgroup.procs && exec unshare --cgroup cat {{}}"
    command = ["sh", "-c", script.format(f"/proc/{contained_pid}/cgroup")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = parse_cgroup(text)
    assert names.cgroup == f"/../cri-containerd-{ID}.scope"
    assert names.container == ID
