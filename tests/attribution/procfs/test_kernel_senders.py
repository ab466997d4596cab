"""Traffic without a process is named after the part of the kernel that has it, by rules."""

import msgspec
import pytest

from hogpipe.attribution.procfs import kernel_resolution
from hogpipe.attribution.procfs.kernel_resolution import KernelResolution
from hogpipe.attribution.procfs.kernel_senders import KernelSender, KernelSenders, may_be_kernels
from hogpipe.linux.rtnetlink import Link, LinkTable
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import FlowKey, Quality
from hogpipe.protocols import ICMP, TCP, UDP

HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
ESP, GRE = 50, 47
LISTENER, INFERRED = Quality.LISTENER, Quality.INFERRED


def link(kind: str, port: int | None = None) -> Link:
    return Link(9, kind, up=True, loopback=False, hardware=1, kind=kind, tunnel_port=port)


def flow(protocol: int, local: int = 0, remote: int = 0) -> FlowKey:
    return FlowKey(protocol, HERE, local, THERE, remote, "eth0")


def row(port: int, inode: int = 5) -> SocketRow:
    return SocketRow(bytes(4), port, bytes(4), 0, 7, 0, inode)


LINKS = (link("vxlan", 4789), link("geneve", 6081), link("gre"), link("wireguard"))


@pytest.mark.parametrize(
    ("one", "has_socket", "is_unheld", "expected"),
    [
        (flow(UDP, 50000, 4789), False, False, ("vxlan", INFERRED)),
        (flow(UDP, 4789, 50000), True, False, ("vxlan", LISTENER)),
        (flow(UDP, 6081, 50000), True, False, ("geneve", LISTENER)),
        (flow(UDP, 50000, 4789), True, False, None),  # the socket's holder may be found
        (flow(UDP, 51820, 51820), True, True, ("wireguard", INFERRED)),
        (flow(UDP, 51820, 51820), True, False, None),
        (flow(UDP, 51820, 51820), False, False, None),
        (flow(GRE), False, False, ("gre", INFERRED)),
        (flow(GRE), True, False, None),  # a raw socket
        (flow(ESP), False, False, ("esp", INFERRED)),
        (flow(TCP, 700, 2049), True, True, ("nfs", INFERRED)),
        (flow(TCP, 2049, 700), True, True, ("nfs", INFERRED)),
        (flow(TCP, 700, 2049), True, False, None),
        (flow(TCP, 700, 2049), False, False, None),
        (flow(TCP, 700, 80), True, True, None),
    ],
)
def test_the_rules_name_what_no_process_has(
    one: FlowKey, has_socket: bool, is_unheld: bool, expected: tuple[str, Quality] | None
) -> None:
    rows = (row(one.local_port),) if has_socket else ()
    found = KernelSenders(LINKS).find(one, rows, is_unheld=is_unheld)
    assert found == (expected and KernelSender(*expected))


@pytest.mark.parametrize("one", [flow(UDP, 50000, 4789), flow(UDP, 51820, 1), flow(GRE)])
def test_without_a_link_of_its_kind_no_tunnel_is_named(one: FlowKey) -> None:
    assert KernelSenders([link("veth")]).find(one, (), is_unheld=True) is None


def test_the_rules_are_for_our_own_namespace_and_few_protocols() -> None:
    assert may_be_kernels(flow(UDP, 1, 2))
    assert may_be_kernels(flow(TCP, 1, 2049))
    assert not may_be_kernels(flow(TCP, 1, 80))
    assert not may_be_kernels(flow(ICMP))
    assert not may_be_kernels(msgspec.structs.replace(flow(UDP, 1, 2), namespace=7))
    assert not may_be_kernels(msgspec.structs.replace(flow(UDP, 1, 2), namespace=None))


class Fds:
    not_permitted = 0

    def __init__(self) -> None:
        self.held: set[int] = set()

    def are_held(self, inodes: set[int]) -> bool:
        return not self.held.isdisjoint(inodes)


@pytest.fixture
def fds(monkeypatch: pytest.MonkeyPatch) -> Fds:
    monkeypatch.setattr(kernel_resolution, "read_link_table", lambda: LinkTable(LINKS))
    return Fds()


def names(kernels: KernelResolution, now: float) -> list[str]:
    asked = {flow(UDP, 51820, 51820): (row(51820),)}
    return [one.name for one in kernels.find(asked, now).values()]


def test_a_socket_is_the_kernels_once_lookups_find_no_holder_for_long(fds: Fds) -> None:
    kernels = KernelResolution(fds)  # type: ignore[arg-type]
    assert [names(kernels, now) for now in (0.0, 0.9, 1.0)] == [[], [], ["wireguard"]]
    fds.held = {5}
    assert names(kernels, 2.0) == []
    fds.held = set()
    assert [names(kernels, now) for now in (3.0, 3.5, 4.0)] == [[], [], ["wireguard"]]


def test_where_processes_are_hidden_none_of_them_is_taken_for_the_kernel(fds: Fds) -> None:
    kernels = KernelResolution(fds)  # type: ignore[arg-type]
    fds.not_permitted = 1
    assert [names(kernels, now) for now in (0.0, 5.0)] == [[], []]


def test_links_that_cannot_be_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> LinkTable:
        raise PermissionError

    monkeypatch.setattr(kernel_resolution, "read_link_table", refuse)
    kernels = KernelResolution(Fds())  # type: ignore[arg-type]
    assert kernels.find({flow(UDP, 50000, 4789): ()}, 0.0) == {}


def test_the_sockets_that_are_remembered_are_bounded(fds: Fds) -> None:
    kernels = KernelResolution(fds)  # type: ignore[arg-type]
    for inode in range(3000):
        kernels.find({flow(UDP, 51820, 51820): (row(51820, inode + 1),)}, 0.0)
    assert len(kernels._unheld_since) <= 1024
