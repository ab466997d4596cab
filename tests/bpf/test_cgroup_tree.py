"""Where the tree of control groups is found."""

import pytest

from hogpipe.bpf.cgroup_tree import find_cgroup_root, parse_cgroup_mount

HYBRID = b"""\
31 24 0:28 / /sys/fs/cgroup rw,relatime - tmpfs none rw,mode=755
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu
"""


@pytest.mark.parametrize(
    ("mountinfo", "place"),
    [
        (HYBRID, "/sys/fs/cgroup/unified"),
        (b"30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"),
        (b"30 24 0:26 / /a\\040b rw - cgroup2 none rw\n", "/a b"),
        (b"30 24 0:26 /part /cg rw - cgroup2 none rw\n" + HYBRID, "/sys/fs/cgroup/unified"),
        (b"30 24 0:26 /part /cg rw - cgroup2 none rw\n", None),
        (b"42 31 0:39 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu\n", None),
        (b"", None),
        (b"cut - cgroup2 x", None),
    ],
)
def test_the_tree_is_where_its_root_is_mounted(mountinfo: bytes, place: str | None) -> None:
    assert parse_cgroup_mount(mountinfo) == place


def test_the_tree_of_this_host_is_found() -> None:
    assert (find_cgroup_root() / "cgroup.procs").exists()
