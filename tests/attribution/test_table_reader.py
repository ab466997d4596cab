"""Which way the socket tables of a batch are read, on this host and elsewhere."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.fake_proc import FakeProc, format_row
from support.namespaces import namespace, require

from hogpipe.attribution import sock_diag
from hogpipe.attribution.matching import SocketIndex
from hogpipe.attribution.procfs import Procfs
from hogpipe.attribution.resolver import ProcfsResolver
from hogpipe.attribution.table_reader import SocketTable, TableReader, shows_own_sockets
from hogpipe.errors import ConfigurationError
from hogpipe.model import FlowKey, Quality

PROC = Path("/proc")
HERE = bytes([127, 0, 0, 1])


@contextmanager
def connections(number: int) -> Iterator[list[FlowKey]]:
    """Open so many connections, and give the flows of their clients."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        clients = []
        for _ in range(number):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            stack.enter_context(server.accept()[0])
        yield [FlowKey(6, HERE, made.getsockname()[1], HERE, port, "lo") for made in clients]


def make_reader(socket_table: SocketTable, root: Path = PROC) -> TableReader:
    return TableReader(root, Procfs(root), socket_table)


def inodes(reader: TableReader, flows: list[FlowKey]) -> list[set[int]]:
    index = SocketIndex(reader.read(flows))
    return [{row.inode for row in index.match(flow).rows} for flow in flows]


@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag", "auto"])
def test_a_resolver_names_the_owner_by_every_way(socket_table: SocketTable) -> None:
    resolver = ProcfsResolver(PROC, socket_table=socket_table)
    with connections(3) as flows:
        for _ in range(8):  # auto has then read both ways
            found = resolver.resolve(flows).values()
            assert {answer.quality for answer in found} == {Quality.EXACT}
            assert {answer.process and answer.process.pid for answer in found} == {os.getpid()}


def test_each_way_is_counted_by_itself() -> None:
    procfs, netlink = make_reader("procfs"), make_reader("sock_diag")
    with connections(300) as flows:
        assert inodes(procfs, flows) == inodes(netlink, flows)
    assert (procfs.counts.procfs, procfs.counts.sock_diag, procfs.reads) == (2, 0, 2)
    assert (netlink.counts.procfs, netlink.counts.sock_diag, netlink.reads) == (0, 2, 2)


def test_the_dump_is_spared_once_asking_for_each_tuple_costs_less() -> None:
    reader = make_reader("sock_diag")
    with connections(40) as flows:
        expected = inodes(make_reader("procfs"), flows)
        assert inodes(reader, flows) == expected  # the first reads are dumps: their cost is unknown
        assert reader.counts.look_ups == 0
        reader._look_up_cost = 0.0
        assert inodes(reader, flows) == expected
    assert reader.counts.look_ups == 40
    assert reader.counts.sock_diag == 2


def test_what_is_not_found_by_its_tuple_is_left_to_the_dump() -> None:
    reader = make_reader("sock_diag")
    with connections(2) as flows:
        port = flows[0].remote_port
        inbound = FlowKey(6, HERE, port, HERE, 1, "lo")  # only the listening socket fits
        asked = [*flows, inbound]
        expected = inodes(make_reader("procfs"), asked)
        assert inodes(reader, asked) == expected
        reader._look_up_cost = 0.0
        assert inodes(reader, asked) == expected
    assert reader.counts.look_ups == 3
    assert reader.counts.sock_diag == 4


def test_auto_begins_with_proc_and_tries_the_other_way_after_a_few_reads() -> None:
    reader = make_reader("auto")
    with connections(1) as flows:
        for _ in range(4):
            inodes(reader, flows)
        assert (reader.counts.procfs, reader.counts.sock_diag) == (8, 0)
        inodes(reader, flows)
    assert (reader.counts.procfs, reader.counts.sock_diag) == (8, 2)


def test_raw_sockets_are_always_read_from_proc() -> None:
    reader = make_reader("sock_diag")
    reader.read([FlowKey(47, HERE, 0, HERE, 0, "lo")])
    assert (reader.counts.procfs, reader.counts.sock_diag) == (1, 0)


def test_what_the_kernel_refuses_is_read_from_proc_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sock_diag._PROTOCOLS, "tcp", 200)  # no kernel has a diagnosis of this one
    reader = make_reader("sock_diag")
    with connections(1) as flows, caplog.at_level(logging.WARNING):
        expected = inodes(make_reader("procfs"), flows)
        for _ in range(40):
            assert inodes(reader, flows) == expected
    assert (reader.counts.procfs, reader.counts.sock_diag) == (80, 0)
    assert reader.counts.refused == 4  # two tables, in the first and in the 34th reading
    assert sorted(record.args[0] for record in caplog.records if record.args) == ["tcp", "tcp6"]


def test_a_recorded_proc_is_never_mixed_with_this_hosts_sockets(tmp_path: Path) -> None:
    fake = FakeProc(tmp_path / "proc")
    fake.table("tcp", format_row((HERE, 4000), (HERE, 80), inode=100))
    reader = make_reader("auto", fake.root)
    for _ in range(40):
        assert inodes(reader, [FlowKey(6, HERE, 4000, HERE, 80, "lo")]) == [{100}]
    assert (reader.counts.procfs, reader.counts.sock_diag) == (40, 0)
    with pytest.raises(ConfigurationError, match=r"attribution\.socket_table: .*recorded"):
        make_reader("sock_diag", fake.root)


def test_another_network_namespace_than_that_of_proc_is_noticed() -> None:
    require("ip")
    assert shows_own_sockets(PROC)
    with namespace() as room:  # /proc/net is that of the main thread, which stays outside
        assert not room.call(lambda: shows_own_sockets(PROC))
