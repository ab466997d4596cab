"""Links into other network namespaces: when they are opened, kept and closed."""

import errno
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_proc import FakeProc
from support.namespaces import Namespace, namespace, require
from support.running import inhabitant

from hogpipe.linux.netns.cookies import read_cookie
from hogpipe.linux.netns.namespace_links import NamespaceLinks, make_open_inside
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.linux.sock_diag import open_link

OWN, RED, BLUE, GREEN = 1, 2, 3, 4
PROC = Path("/proc")


class Links(NamespaceLinks):
    """Links at a time `now` that are local sockets, into the namespaces of a fake tree."""

    def __init__(self, proc: FakeProc, max_links: int = 16) -> None:
        self.now = 0.0
        self.opened: list[tuple[int, int]] = []
        """Each link by the pid and the namespace for which it was opened."""
        self.error: OSError | None = None
        self.processes = NamespaceProcesses(proc.root, OWN)
        self.processes.refresh(0.0)
        super().__init__(self.processes, self._open_one, lambda: self.now, max_links=max_links)

    def _open_one(self, pid: int, inode: int) -> socket.socket | None:
        if self.error is not None:
            raise self.error
        self.opened.append((pid, inode))
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def look_into(self, inode: int) -> socket.socket:
        with self.use(inode) as link:
            assert link.fileno() >= 0
            return link


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    made = FakeProc(tmp_path / "proc")
    for pid, inode in {1: OWN, 20: RED, 30: BLUE, 40: GREEN}.items():
        made.process(pid)
        made.enter(pid, inode)
    return made


@pytest.fixture
def links(proc: FakeProc) -> Iterator[Links]:
    made = Links(proc)
    yield made
    made.close()


def is_closed(link: socket.socket) -> bool:
    return link.fileno() == -1


def test_a_link_is_opened_once_for_many_uses(links: Links) -> None:
    first = links.look_into(RED)
    for _ in range(5):
        links.now += 0.9
        assert links.look_into(RED) is first
    assert links.opened == [(20, RED)]


def test_a_link_is_closed_when_it_was_not_used_for_a_second(links: Links) -> None:
    red, blue = links.look_into(RED), links.look_into(BLUE)
    links.now = 0.9
    links.look_into(BLUE)
    links.now = 1.0
    links.close_unused()
    assert (is_closed(red), is_closed(blue), len(links)) == (True, False, 1)


def test_a_thread_closes_unused_links_and_ends(proc: FakeProc) -> None:
    processes = NamespaceProcesses(proc.root, OWN)
    processes.refresh(0.0)
    opened: list[socket.socket] = []

    def open_one(_pid: int, _inode: int) -> socket.socket:
        opened.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        return opened[-1]

    links = NamespaceLinks(processes, open_one, unused_seconds=0.01)
    for number in (1, 2):  # the second time another thread does
        with links.use(RED):
            closer = links._closer
        assert closer is not None
        closer.join(60.0)
        assert not closer.is_alive()
        assert (len(opened), is_closed(opened[-1]), len(links)) == (number, True, 0)


def test_a_namespace_without_a_process_has_no_link(links: Links, proc: FakeProc) -> None:
    with pytest.raises(ProcessLookupError), links.use(99):
        pass
    proc.enter(20, BLUE)
    with pytest.raises(ProcessLookupError), links.use(RED):
        pass
    assert links.opened == []


def test_a_link_outlives_its_process_while_another_one_is_in_the_namespace(
    links: Links, proc: FakeProc
) -> None:
    proc.process(21)
    proc.enter(21, RED)
    links.processes.refresh(0.0)
    link = links.look_into(RED)
    proc.enter(20, BLUE)
    for links.now in (0.6, 1.2):  # the second time after a second, when the process is checked
        assert links.look_into(RED) is link
    assert links.is_present(RED)


def test_a_link_is_closed_within_a_second_after_the_last_process_has_left(
    links: Links, proc: FakeProc
) -> None:
    link = links.look_into(RED)
    proc.enter(20, BLUE)
    links.now = 0.9
    assert links.look_into(RED) is link
    assert links.is_present(RED), "as of the last check"
    links.now = 1.0
    assert not links.is_present(RED)
    with pytest.raises(ProcessLookupError), links.use(RED):
        pass
    assert is_closed(link)


def test_a_link_with_an_error_is_not_used_again(links: Links) -> None:
    with pytest.raises(TimeoutError), links.use(RED) as first:
        raise TimeoutError
    assert is_closed(first)
    assert links.look_into(RED) is not first


def test_a_namespace_that_may_not_be_entered_is_an_error_and_leaves_nothing(links: Links) -> None:
    links.error = PermissionError(errno.EPERM, "setns")
    with pytest.raises(PermissionError), links.use(RED):
        pass
    assert len(links) == 0
    links.error = None
    links.look_into(RED)


def test_the_number_of_links_is_bounded_and_the_least_recently_used_is_closed(
    proc: FakeProc,
) -> None:
    links = Links(proc, max_links=2)
    red, blue = links.look_into(RED), links.look_into(BLUE)
    links.look_into(RED)
    green = links.look_into(GREEN)
    assert [is_closed(one) for one in (red, blue, green)] == [False, True, False]
    assert len(links) == 2
    links.close()
    assert is_closed(red)
    assert is_closed(green)


def test_after_close_a_link_is_opened_again(links: Links) -> None:
    link = links.look_into(RED)
    links.close()
    assert is_closed(link)
    assert links.look_into(RED) is not link


@pytest.fixture
def here() -> NamespaceLinks:
    """Links into the namespaces of this host, which nothing closes but a test."""
    require("ip")
    processes = NamespaceProcesses(PROC, read_own_namespace())
    opening = make_open_inside(PROC, open_link)
    return NamespaceLinks(processes, opening, lambda: 0.0, unused_seconds=3600.0)


def inode_of(made: Namespace) -> int:
    return Path(f"/run/netns/{made.name}").stat().st_ino


def test_a_link_keeps_a_removed_namespace_until_it_is_closed(here: NamespaceLinks) -> None:
    with namespace() as made, inhabitant(made):
        inode = inode_of(made)
        here._processes.refresh(0.0)
        made.ip("link", "add", "kept", "type", "veth", "peer", "name", "peer", "netns", "1")
        subprocess.run(["ip", "link", "set", "peer", "name", f"hp{made.name[-6:]}"], check=True)
        with here.use(inode):
            pass
    peer = Path("/sys/class/net") / f"hp{made.name[-6:]}"
    assert peer.exists(), "the interfaces of the namespace are still there"
    here.close()
    gone = threading.Event()
    while peer.exists():  # the kernel removes a namespace in the background
        gone.wait(0.01)


def test_a_namespace_with_a_reused_inode_gets_a_link_of_its_own(here: NamespaceLinks) -> None:
    """The kernel gives the lowest free inode, which nothing has while no link is open."""

    def cookie_inside(inode: int) -> int | None:
        here._processes.refresh(0.0)
        pid = here._processes.find_process(inode)
        assert pid is not None
        with here.use(inode) as link:
            inside = int.from_bytes(link.getsockopt(socket.SOL_SOCKET, 71, 8), "little")
        assert inside == read_cookie(pid, inode)
        return inside

    cookies = set()
    for _ in range(3):
        with namespace() as made, inhabitant(made):
            cookies.add(cookie_inside(inode_of(made)))
        here.close()
    assert len(cookies) == 3
