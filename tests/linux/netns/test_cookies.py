"""Reading the cookie of a network namespace."""

import os
from pathlib import Path

from support.namespaces import Namespace
from support.running import inhabitant, wait_until

from hogpipe.linux.netns.cookies import read_cookie, read_own_cookie


def test_each_namespace_has_its_own_cookie(netns: Namespace) -> None:
    inside = netns.call(read_own_cookie)
    assert inside != read_own_cookie()
    assert inside == netns.call(read_own_cookie)


def test_the_cookie_of_another_namespace_is_read_through_a_process_inside(netns: Namespace) -> None:
    inode = Path(f"/run/netns/{netns.name}").stat().st_ino
    with inhabitant(netns) as sleeper:
        pid = sleeper.process.pid
        wait_until(lambda: Path(f"/proc/{pid}/ns/net").stat().st_ino == inode)
        assert read_cookie(pid, inode) == netns.call(read_own_cookie)
    assert read_cookie(os.getpid(), inode) is None
