"""Network namespaces by inode and by cookie."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.namespaces import Namespace, require

from hogpipe.linux.netns.cookies import read_cookie, read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.model import OWN_NAMESPACE


def test_the_inode_of_a_cookie_is_found_while_a_process_is_inside(netns: Namespace) -> None:
    require("ip")
    namespaces = NetworkNamespaces(Path("/proc"))
    cookie = netns.call(read_own_cookie)
    assert namespaces.find_inode(cookie, 0.0) is None
    with process_inside(netns):
        assert namespaces.find_inode(cookie, 0.5) is None  # processes were listed just now
        assert namespaces.find_inode(cookie, 2.0) == inode_of(netns)


def test_the_cookie_of_an_inode_is_found_through_a_process_and_kept_after_it(
    netns: Namespace,
) -> None:
    require("ip")
    namespaces = NetworkNamespaces(Path("/proc"))
    inode, cookie = inode_of(netns), netns.call(read_own_cookie)
    assert namespaces.find_cookies({inode}, 0.0) == {}
    with process_inside(netns):
        assert namespaces.find_cookies({inode}, 0.1) == {inode: cookie}
    assert namespaces.find_cookies({inode}, 0.2) == {inode: cookie}
    assert namespaces.find_cookies({inode}, 5.0) == {inode: cookie}


def test_the_own_namespace_has_both_without_a_process() -> None:
    namespaces = NetworkNamespaces(Path("/proc"))
    assert namespaces.own_cookie == read_own_cookie()
    assert namespaces.find_inode(namespaces.own_cookie, 0.0) == OWN_NAMESPACE
    assert namespaces.find_cookies({OWN_NAMESPACE}, 0.0) == {OWN_NAMESPACE: read_own_cookie()}


def test_a_function_is_called_in_each_other_namespace_that_has_a_process(netns: Namespace) -> None:
    require("ip")
    namespaces = NetworkNamespaces(Path("/proc"))
    cookie = netns.call(read_own_cookie)
    with process_inside(netns):
        found = list(namespaces.call_in_others(read_own_cookie, 0.0))
        assert found.count(cookie) == 1
        assert read_own_cookie() not in found
        assert namespaces.find_inode(cookie, 0.0) == inode_of(netns)


def inode_of(netns: Namespace) -> int:
    return Path(f"/run/netns/{netns.name}").stat().st_ino


@contextmanager
def process_inside(netns: Namespace) -> Iterator[None]:
    with netns.popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        print("here", file=inside.stdin, flush=True)
        assert inside.stdout.readline() == "here\n"
        yield
        inside.stdin.close()


@contextmanager
def process_in_a_new_namespace() -> Iterator[tuple[int, int]]:
    """Give the pid of a process and the inode of its namespace, which ends with the process."""
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


def make_reused_inode(
    stack: ExitStack, find: Callable[[NetworkNamespaces, int, int], None]
) -> tuple[NetworkNamespaces, int, int, int]:
    """Let `find` look up a namespace, end that, and make another one with the same inode.

    Return what was given to `find`: the namespaces, cookie and inode; and the process in the other
    namespace. The kernel reuses the lowest free number, and not for namespaces alone: namespaces
    with other inodes are kept, so that those numbers are taken at the next attempt.
    """
    for _attempt in range(20):
        namespaces = NetworkNamespaces(Path("/proc"))
        with process_in_a_new_namespace() as (pid, inode):
            cookie = read_cookie(pid, inode)
            assert cookie is not None
            find(namespaces, cookie, inode)
        for _other in range(6):
            time.sleep(0.1)  # the kernel removes a namespace a little later
            other, number = stack.enter_context(process_in_a_new_namespace())
            if number == inode:
                return namespaces, cookie, inode, other
    pytest.fail("no inode was reused")


def find_by_cookie(namespaces: NetworkNamespaces, cookie: int, inode: int) -> None:
    assert namespaces.find_inode(cookie, 0.0) == inode
    assert namespaces.call_in(cookie, read_own_cookie, 0.0) == cookie


def find_by_inode(namespaces: NetworkNamespaces, cookie: int, inode: int) -> None:
    assert namespaces.find_cookies({inode}, 0.0) == {inode: cookie}


def test_a_cookie_does_not_lead_to_a_later_namespace_with_the_same_inode() -> None:
    with ExitStack() as stack:
        namespaces, cookie, inode, other = make_reused_inode(stack, find_by_cookie)
        assert namespaces.call_in(cookie, read_own_cookie, 0.5) is None
        assert namespaces.find_inode(cookie, 1.5) is None
        others_cookie = read_cookie(other, inode)
        assert others_cookie is not None
        assert namespaces.find_inode(others_cookie, 3.0) == inode
        assert namespaces.find_inode(cookie, 3.0) is None


def test_an_inode_that_was_reused_has_the_cookie_of_the_later_namespace() -> None:
    with ExitStack() as stack:
        namespaces, cookie, inode, other = make_reused_inode(stack, find_by_inode)
        others_cookie = read_cookie(other, inode)
        assert others_cookie not in (None, cookie)
        assert namespaces.find_cookies({inode}, 0.5) == {inode: others_cookie}
