"""The control group tree: its mounts, and paths of groups by their ids."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bpf import control_group, find_cgroup_root, require_bpf
from support.namespaces import Namespace, require

from hogpipe.linux.cgroups import CgroupMount, CgroupTree, covers_host, parse_cgroup_mounts

HYBRID = b"""\
31 24 0:28 / /sys/fs/cgroup rw,relatime - tmpfs none rw,mode=755
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu
"""
UNIFIED = CgroupMount("/sys/fs/cgroup/unified", os.makedev(0, 38))

# Prints the mount point of the tree, the path of a control group by its id, whether its root can be
# opened, and the number of mounts that remain. Attaches the BPF programs, too.
SCRIPT = """
import sys
from pathlib import Path
from hogpipe.linux.cgroups import CgroupTree
from hogpipe.linux.bpf.programs import attach_ledger_programs
tree = CgroupTree()
print(tree.mount_point, tree.path_of(int(sys.argv[1])), (tree.root / "cgroup.procs").exists())
tree.close()
attach_ledger_programs().close()
print(Path("/proc/self/mountinfo").read_text().count(" - cgroup2 "))
"""


@pytest.mark.parametrize(
    ("mountinfo", "mounts"),
    [
        (HYBRID, [UNIFIED]),
        (
            b"30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n",
            [CgroupMount("/sys/fs/cgroup", 26)],
        ),
        (b"30 24 0:26 / /a\\040b rw - cgroup2 none rw\n", [CgroupMount("/a b", 26)]),
        (b"30 24 0:26 /part /cg rw - cgroup2 none rw\n" + HYBRID, [UNIFIED]),
        (b"30 24 0:26 / /cg rw - cgroup2 none rw\n" + HYBRID, [CgroupMount("/cg", 26), UNIFIED]),
        (b"30 24 0:26 /part /cg rw - cgroup2 none rw\n", []),
        (b"30 24 0:26 /../.. /cg rw - cgroup2 none rw\n", [CgroupMount("/cg", 26)]),
        (b"30 24 0:26 /../part /cg rw - cgroup2 none rw\n", []),
        (b"42 31 0:39 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu\n", []),
        (
            b"30 24 0:26 / /c\xff\\134\\702\\x rw - cgroup2 none rw\n",
            [CgroupMount("/c\udcff\\\\702\\x", 26)],
        ),
        (b"30 24 x:y / /cg rw - cgroup2 none rw\n", []),
        (b"", []),
        (b"cut - cgroup2 x", []),
    ],
)
def test_the_mount_of_the_root_is_chosen(mountinfo: bytes, mounts: list[CgroupMount]) -> None:
    assert parse_cgroup_mounts(mountinfo) == mounts


def test_the_tree_of_this_host_is_found() -> None:
    assert (find_cgroup_root() / "cgroup.procs").exists()


def test_a_control_group_whose_path_is_longer_than_a_page_has_no_path() -> None:
    require_bpf()
    tree, name = CgroupTree(), "d" * 250
    with control_group() as directory, ExitStack() as stack:
        folder = os.open(directory, os.O_DIRECTORY)
        for _ in range(17):
            stack.callback(os.close, folder)
            os.mkdir(name, dir_fd=folder)
            stack.callback(os.rmdir, name, dir_fd=folder)
            folder = os.open(name, os.O_DIRECTORY, dir_fd=folder)
        inode = os.fstat(folder).st_ino
        os.close(folder)
        assert tree.path_of(inode) is None
    tree.close()


def test_control_groups_have_paths_by_their_ids_until_they_are_removed() -> None:
    require_bpf()
    tree = CgroupTree()
    try:
        assert tree.path_of(find_cgroup_root().stat().st_ino) == "/"
        with control_group() as directory:
            inner = directory / "a (deleted)"
            inner.mkdir()
            cgroup_id = inner.stat().st_ino
            name = f"/{directory.name}/a (deleted)"
            assert tree.path_of(cgroup_id) == name
            inner.rmdir()
        assert tree.path_of(cgroup_id) == name, "it is remembered"
        tree.path_of.cache_clear()
        assert tree.path_of(cgroup_id) is None
        assert tree.path_of(0) is None
    finally:
        tree.close()
        tree.close()


def test_the_tree_here_covers_this_host() -> None:
    require_bpf()
    assert covers_host()


def test_in_a_cgroup_namespace_the_tree_of_the_host_is_used_if_it_is_mounted(
    tmp_path: Path,
) -> None:
    require("unshare", "mount", "umount")
    root = find_cgroup_root()
    assert run_in_cgroup_namespace("true") == f"{root} True"
    behind_own = (
        f"mkdir {tmp_path}/a {tmp_path}/b; mount --bind {root} {tmp_path}/a; umount {root}; "
        f"mount -t cgroup2 none {root}; mount --bind {tmp_path}/a {tmp_path}/b; umount {tmp_path}/a"
    )
    assert run_in_cgroup_namespace(behind_own) == f"{tmp_path}/b True"


def test_in_a_cgroup_namespace_without_the_tree_of_the_host_it_does_not_cover_it() -> None:
    require("unshare", "mount", "umount")
    root = find_cgroup_root()
    own = f"umount {root} && mount -t cgroup2 none {root}"
    assert run_in_cgroup_namespace(own) == f"{root} False"
    assert run_in_cgroup_namespace(f"umount {root}") == "None False"


def run_in_cgroup_namespace(preparation: str) -> str:
    """Return the mount point of the tree, and whether it covers the host, in a new namespace."""
    script = (
        "from hogpipe.linux.cgroups import CgroupTree, covers_host;"
        "print(CgroupTree().mount_point, covers_host())"
    )
    with control_group() as directory:
        enter = f"echo $$ > {directory}/cgroup.procs"
        inner = f'exec unshare --cgroup sh -ec \'{preparation}; exec "$@"\' sh "$@"'
        done = subprocess.run(
            [*("unshare", "--mount", "sh", "-ec", f"{enter}; {inner}", "sh"),
             *(sys.executable, "-c", script)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def run_script(*prefix: str) -> tuple[str, str]:
    """Run SCRIPT behind `prefix`, and return what it prints about the tree and a group in it."""
    require_bpf()
    require("unshare", "mount", "umount")
    with control_group() as directory:
        cgroup_id = str(directory.stat().st_ino)
        done = subprocess.run(
            [*prefix, sys.executable, "-c", SCRIPT, cgroup_id],
            capture_output=True,
            text=True,
            check=True,
        )
        mount_point, mounted = done.stdout.splitlines()
        return mount_point.replace(directory.name, "NAME"), mounted


def after(preparation: str) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-ec", f'{preparation}; exec "$@"', "sh")


def test_without_a_mount_the_tree_is_mounted_detached() -> None:
    assert run_script(*after("umount --all --types cgroup2")) == ("None /NAME True", "0")


def test_under_ip_netns_exec_the_tree_is_mounted_detached(netns: Namespace) -> None:
    assert run_script(*netns.command()) == ("None /NAME True", "0")


def test_a_hidden_mount_is_not_used() -> None:
    root = find_cgroup_root()
    hidden = f"mount -t tmpfs none {root}"
    assert run_script(*after(hidden))[0] == "None /NAME True"


def test_a_second_mount_is_used_if_the_first_is_hidden(tmp_path: Path) -> None:
    root = find_cgroup_root()
    moved = f"mount --bind {root} {tmp_path} && umount {root}"
    assert run_script(*after(moved)) == (f"{tmp_path} /NAME True", "1")


def test_without_the_right_to_mount_the_error_names_the_remedy() -> None:
    require_bpf()
    require("unshare", "umount", "setpriv")
    rights = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin"
    done = subprocess.run(
        [*after(f"umount --all --types cgroup2; exec {rights} \"$@\""),
         sys.executable, "-c", SCRIPT, "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "none can be mounted (Operation not permitted); grant CAP_SYS_ADMIN" in done.stderr
