"""Network namespaces by the cookies that the kernel tells."""

import subprocess
from pathlib import Path

from support.namespaces import Namespace, require

from hogpipe.counting.spaces import NamespaceInodes
from hogpipe.ledger.cookies import read_own_cookie
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
