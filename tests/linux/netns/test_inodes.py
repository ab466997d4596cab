"""Network namespaces by the cookies that the kernel tells."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.namespaces import Namespace, require

from hogpipe.linux.netns.cookies import read_cookie, read_own_cookie
from hogpipe.linux.netns.inodes import NamespaceInodes
from hogpipe.model import OWN_NAMESPACE


def test_a_namespace_is_found_while_a_process_is_in_it(netns: Namespace) -> None:
    require("ip")
    spaces = NamespaceInodes(Path("/proc"))
    cookie = netns.call(read_own_cookie)
    assert spaces.inode_of(cookie, 0.0) is None
    with netns.popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        print("here", file=inside.stdin, flush=True)
        assert inside.stdout.readline() == "here\n"
        inode = Path(f"/run/netns/{netns.name}").stat().st_ino
        assert spaces.inode_of(cookie, 0.5) is None  # it was looked for just now
        assert spaces.inode_of(cookie, 2.0) == inode
        inside.stdin.close()


def test_our_own_namespace_is_known_as_such() -> None:
    spaces = NamespaceInodes(Path("/proc"))
    assert spaces.inode_of(spaces.own, 0.0) == OWN_NAMESPACE


@contextmanager
def process_in_a_namespace_of_its_own() -> Iterator[tuple[int, int]]:
    """Give the pid of a process and the inode of its namespace, which is gone with it."""
    require("unshare")
    command = ["unshare", "--net", "cat"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        print("here", file=inside.stdin, flush=True)
        assert inside.stdout.readline() == "here\n"
        yield inside.pid, Path(f"/proc/{inside.pid}/ns/net").stat().st_ino
        inside.stdin.close()


def make_namesake(stack: ExitStack) -> tuple[NamespaceInodes, int, int, int]:
    """Find a namespace, and have another one with its inode when it is gone.

    Return what found it, its cookie and inode, and the process in the other one. The kernel gives
    the lowest number that is free, and not to namespaces alone: what was in vain is kept, so that
    there are others the next time.
    """
    for _attempt in range(20):
        spaces = NamespaceInodes(Path("/proc"))
        with process_in_a_namespace_of_its_own() as (pid, inode):
            cookie = read_cookie(pid, inode)
            assert cookie is not None
            assert spaces.inode_of(cookie, 0.0) == inode
            assert spaces.call_in(cookie, read_own_cookie, 0.0) == cookie
        for _other in range(6):
            time.sleep(0.1)  # a namespace is removed a little later
            other, number = stack.enter_context(process_in_a_namespace_of_its_own())
            if number == inode:
                return spaces, cookie, inode, other
    pytest.fail("no inode was given again")


def test_a_namespace_with_the_inode_of_one_that_is_gone_is_not_taken_for_it() -> None:
    with ExitStack() as stack:
        spaces, cookie, inode, other = make_namesake(stack)
        assert spaces.call_in(cookie, read_own_cookie, 0.5) is None
        assert spaces.inode_of(cookie, 1.5) is None
        its_own = read_cookie(other, inode)
        assert its_own is not None
        assert spaces.inode_of(its_own, 3.0) == inode
        assert spaces.inode_of(cookie, 3.0) is None
