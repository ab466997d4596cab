"""Network namespaces by their cookies."""

import os
from pathlib import Path

from support.namespaces import Namespace

from hogpipe.linux.netns.cookies import NamespaceCookies, read_cookie, read_own_cookie
from hogpipe.linux.netns.scan import read_own_namespace


def test_each_namespace_has_a_cookie_of_its_own(netns: Namespace) -> None:
    inside = netns.call(read_own_cookie)
    assert inside != read_own_cookie()
    assert inside == netns.call(read_own_cookie)


def test_the_cookie_of_another_namespace_is_read_through_a_process_there(netns: Namespace) -> None:
    sleeper = netns.popen("sleep", "60")
    try:
        inode = Path(f"/run/netns/{netns.name}").stat().st_ino
        own = read_own_namespace()
        assert own is not None
        cookies = NamespaceCookies(own)
        wait_until_inside(sleeper.pid, inode)
        assert cookies.cookie_of(own, None) == read_own_cookie()
        assert cookies.cookie_of(inode, None) is None
        assert cookies.cookie_of(inode, sleeper.pid) == netns.call(read_own_cookie)
        assert cookies.cookie_of(inode, None) == netns.call(read_own_cookie)
        cookies.keep(set())
        assert cookies.cookie_of(inode, None) == netns.call(read_own_cookie)
        assert cookies.cookie_of(inode, os.getpid()) is None
        assert read_cookie(os.getpid(), inode) is None
    finally:
        sleeper.kill()
        sleeper.wait()


def wait_until_inside(pid: int, inode: int) -> None:
    while Path(f"/proc/{pid}/ns/net").stat().st_ino != inode:
        pass
