"""The readers of socket tables, on this host and on recorded trees."""

import itertools
import logging
import math
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.fake_proc import FakeProc, format_row
from support.namespaces import namespace, require
from support.resolving import attribute
from support.sockets import IPV6, TCP, UDP, connections, make_flow, make_time_wait, packed

from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint, endpoint_of
from hogpipe.attribution.procfs.matching import TableIndex
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.attribution.procfs.table_reader import SocketTable, TableReader, fixed_reader
from hogpipe.attribution.procfs.table_source import OwnSource
from hogpipe.errors import ConfigurationError
from hogpipe.linux import sock_diag, sock_diag_messages
from hogpipe.linux.netns.namespace_processes import shows_own_namespace
from hogpipe.linux.procfs import Procfs
from hogpipe.model import OWN_NAMESPACE, FlowKey, Quality

PROC = Path("/proc")
HERE = bytes([127, 0, 0, 1])


def make_reader(socket_table: SocketTable, root: Path = PROC) -> TableReader:
    return TableReader(OwnSource(Procfs(root)), fixed_reader(root, socket_table))


def inodes(reader: TableReader, flows: list[FlowKey], now: float = 0.0) -> list[set[int]]:
    reading = reader.read(flows, now, math.inf)
    assert reading.inconclusive == set()
    index = TableIndex(reading.tables)
    return [{row.inode for row in index.match(flow).rows} for flow in flows]


def make_lookups_cheap(reader: TableReader) -> None:
    """Make lookups cost less than a dump, for the next read."""
    reader._tcp_lookup._lookup_cost = 0.0


def local_ports_to(reader: TableReader, endpoints: list[Endpoint]) -> dict[Endpoint, set[int]]:
    """Return the local ports of the sockets to each endpoint."""
    found = reader.read_endpoint_sockets(endpoints)
    return {endpoint: {row.local_port for row in rows} for endpoint, rows in found.items()}


@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag", "auto"])
def test_a_resolver_finds_the_owner_with_every_setting(socket_table: SocketTable) -> None:
    resolver = ProcfsResolver(PROC, socket_table=socket_table)
    with connections(3) as flows:
        for _ in range(8):  # auto has used both readers by then
            found = attribute(resolver, flows).values()
            assert {answer.quality for answer in found} == {Quality.EXACT}
            assert {answer.process and answer.process.pid for answer in found} == {os.getpid()}


def test_each_reader_is_counted_separately() -> None:
    procfs, netlink = make_reader("procfs"), make_reader("sock_diag")
    with connections(300) as flows:
        assert inodes(procfs, flows) == inodes(netlink, flows)
    assert (procfs.counts.procfs, procfs.counts.sock_diag, procfs.counts.tables) == (2, 0, 2)
    assert (netlink.counts.procfs, netlink.counts.sock_diag, netlink.counts.tables) == (0, 1, 1)
    assert (procfs.counts.lookups, netlink.counts.lookups) == (0, 0)


def test_lookups_replace_the_dump_once_they_cost_less() -> None:
    reader = make_reader("sock_diag")
    with connections(40) as flows:
        expected = inodes(make_reader("procfs"), flows)
        assert (
            inodes(reader, flows) == expected
        )  # the first read is a dump: the cost of a dump is unknown
        assert reader.counts.lookups == 0
        make_lookups_cheap(reader)
        assert inodes(reader, flows) == expected
    assert reader.counts.lookups == 40
    assert reader.counts.sock_diag == 1


def test_flows_that_no_lookup_found_match_listeners() -> None:
    reader = make_reader("sock_diag")
    with connections(2) as flows:
        port = flows[0].remote_port
        inbound = FlowKey(6, HERE, port, HERE, 1, "lo")  # only the listening socket matches
        asked = [*flows, inbound]
        expected = inodes(make_reader("procfs"), asked)
        assert inodes(reader, asked) == expected
        make_lookups_cheap(reader)
        assert inodes(reader, asked) == expected
    assert reader.counts.lookups == 3
    assert reader.counts.sock_diag == 2


def test_a_flow_is_inconclusive_until_a_later_dump() -> None:
    require("ip")
    reader = make_reader("sock_diag")

    def read() -> None:
        with connections(1, device="lo") as bound, connections(1) as others:
            hidden = replace(bound[0], interface="elsewhere")
            datagrams = make_flow(UDP, ("127.0.0.1", 1), ("127.0.0.1", 2))
            reader.read(others, 0.0, math.inf)
            make_lookups_cheap(reader)
            between = reader.read([*others, hidden, datagrams], 0.001, math.inf)
            assert between.inconclusive == {hidden}
            assert TableIndex(between.tables).match(others[0]).quality is Quality.EXACT
            make_lookups_cheap(reader)
            later = reader.read([hidden], 1000.0, math.inf)
            assert later.inconclusive == set()
            assert TableIndex(later.tables).match(hidden).quality is Quality.EXACT

    with namespace() as room:
        room.call(read)


def test_proc_leaves_nothing_inconclusive() -> None:
    reader = make_reader("procfs")
    no_socket = make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 2))
    assert reader.read([no_socket], 0.0, math.inf).inconclusive == set()


def test_auto_begins_with_sock_diag_and_tries_proc_after_the_first_read() -> None:
    reader = make_reader("auto")
    with connections(1) as flows:
        inodes(reader, flows)
        assert (reader.counts.procfs, reader.counts.sock_diag) == (0, 1)
        inodes(reader, flows)
    assert (reader.counts.procfs, reader.counts.sock_diag) == (2, 1)


def test_each_table_has_its_own_choice_and_tcp_has_one_for_both_families() -> None:
    reader = make_reader("auto")
    datagrams = make_flow(UDP, ("127.0.0.1", 1), ("127.0.0.1", 2))
    with connections(1) as flows:
        inodes(reader, flows)
        six = make_flow(TCP, ("::1", 1), ("::1", 2))
        inodes(reader, [six])
        assert (reader.counts.procfs, reader.counts.sock_diag) == (1, 1)
        inodes(reader, [datagrams])
        assert (reader.counts.procfs, reader.counts.sock_diag) == (1, 3)
        inodes(reader, [datagrams])
        assert (reader.counts.procfs, reader.counts.sock_diag) == (3, 3)


def test_raw_sockets_are_always_read_from_proc() -> None:
    reader = make_reader("sock_diag")
    reader.read([FlowKey(47, HERE, 0, HERE, 0, "lo")], 0.0, math.inf)
    assert (reader.counts.procfs, reader.counts.sock_diag) == (1, 0)


@pytest.fixture
def refusing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send requests that every kernel refuses: an unknown one for TCP, an unknown protocol."""
    monkeypatch.setattr(sock_diag_messages, "_TCPDIAG_GETSOCK", 4711)
    monkeypatch.setitem(sock_diag._PROTOCOLS, "udp", 200)


@pytest.mark.usefixtures("refusing_kernel")
def test_what_the_kernel_refuses_is_read_from_proc_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = make_reader("sock_diag")
    with ExitStack() as stack:
        flows = stack.enter_context(connections(1))
        bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        bound.bind(("127.0.0.1", 0))
        flows = [*flows, make_flow(UDP, bound.getsockname(), ("127.0.0.1", 9))]
        expected = inodes(make_reader("procfs"), flows)
        assert all(expected)
        stack.enter_context(caplog.at_level(logging.WARNING))
        for _ in range(40):
            assert inodes(reader, flows) == expected
    assert (reader.counts.procfs, reader.counts.sock_diag) == (160, 0)
    assert reader.counts.refused == 6  # three tables, in the first and in the 34th read
    logged = sorted(record.args[0] for record in caplog.records if record.args)
    assert logged == ["tcp", "udp", "udp6"]


def test_a_refusal_during_lookups_falls_back_to_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = make_reader("sock_diag")
    with socket.create_server(("127.0.0.1", 0)) as server:
        flows = [make_flow(TCP, server.getsockname(), ("127.0.0.1", 9))]
        expected = inodes(reader, flows)
        monkeypatch.setattr(sock_diag_messages, "_TCPDIAG_GETSOCK", 4711)
        make_lookups_cheap(reader)
        assert inodes(reader, flows) == expected
    assert (reader.counts.refused, reader.counts.procfs) == (1, 2)


@pytest.mark.usefixtures("refusing_kernel")
def test_a_sample_that_the_kernel_refuses_is_read_from_proc_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = make_reader("sock_diag")
    with connections(1) as flows:
        endpoint = Endpoint(OWN_NAMESPACE, TCP, HERE, flows[0].remote_port)
        with caplog.at_level(logging.WARNING):
            assert local_ports_to(reader, [endpoint]) == {endpoint: {flows[0].local_port}}
        assert reader.counts.refused == 1
        assert [record.args[0] for record in caplog.records if record.args] == ["tcp"]


def test_a_recorded_proc_is_never_mixed_with_sockets_of_this_host(tmp_path: Path) -> None:
    fake = FakeProc(tmp_path / "proc")
    fake.table("tcp", format_row((HERE, 4000), (HERE, 80), inode=100))
    reader = make_reader("auto", fake.root)
    for _ in range(40):
        assert inodes(reader, [FlowKey(6, HERE, 4000, HERE, 80, "lo")]) == [{100}]
    assert (reader.counts.procfs, reader.counts.sock_diag) == (40, 0)
    with pytest.raises(ConfigurationError, match=r"attribution\.socket_table: .*recorded"):
        make_reader("sock_diag", fake.root)


def test_a_procfs_of_another_network_namespace_is_noticed() -> None:
    require("ip")
    assert shows_own_namespace(PROC)
    with namespace() as room:  # /proc/net is that of the main thread, which stays outside
        assert not room.call(lambda: shows_own_namespace(PROC))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag"])
def test_sockets_to_endpoints_are_found_in_both_families(
    socket_table: SocketTable,
) -> None:
    with ExitStack() as stack:
        reader = make_reader(socket_table)
        expected: dict[Endpoint, set[int]] = {}
        for place in ("127.0.0.1", "::1", "127.0.0.1"):
            family = IPV6 if ":" in place else socket.AF_INET
            server = stack.enter_context(socket.create_server((place, 0), family=family))
            where = server.getsockname()[:2]
            clients = [stack.enter_context(socket.create_connection(where)) for _ in range(3)]
            endpoint = Endpoint(OWN_NAMESPACE, TCP, packed(place), where[1])
            expected[endpoint] = {client.getsockname()[1] for client in clients}
        mapped = stack.enter_context(socket.socket(IPV6))  # IPv4 over an IPv6 socket
        mapped.connect((f"::ffff:{place}", where[1]))
        expected[endpoint].add(mapped.getsockname()[1])
        peer, datagrams = (
            stack.enter_context(socket.socket(IPV6, socket.SOCK_DGRAM)) for _ in range(2)
        )
        peer.bind(("::1", 0))
        datagrams.connect(peer.getsockname())
        port = peer.getsockname()[1]
        expected[Endpoint(OWN_NAMESPACE, UDP, packed("::1"), port)] = {datagrams.getsockname()[1]}
        expected[Endpoint(OWN_NAMESPACE, UDP, packed("127.0.0.1"), port)] = set()
        # One endpoint of several gives the same rows as alone.
        together = [*expected]
        orders = [together, together[::-1], together[1:] + together[:1]]
        for endpoints in (*orders, *([one] for one in together)):
            assert local_ports_to(reader, endpoints) == {one: expected[one] for one in endpoints}


@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag"])
def test_sockets_without_a_holder_are_not_sampled(socket_table: SocketTable) -> None:
    (closed,) = make_time_wait(1)
    endpoint = endpoint_of(closed)
    assert local_ports_to(make_reader(socket_table), [endpoint]) == {endpoint: set()}


def test_tables_of_the_last_read_are_not_read_again_for_endpoints() -> None:
    reader = make_reader("procfs")
    with connections(2) as flows:
        inodes(reader, flows)
        endpoint = Endpoint(OWN_NAMESPACE, TCP, HERE, flows[0].remote_port)
        assert local_ports_to(reader, [endpoint]) == {endpoint: {flow.local_port for flow in flows}}
        assert reader.counts.procfs == 2
        inodes(reader, flows)
        assert reader.counts.procfs == 4


def test_over_sock_diag_the_sockets_to_an_endpoint_cost_one_dump() -> None:
    reader = make_reader("sock_diag")
    with connections(2) as flows:
        endpoint = Endpoint(OWN_NAMESPACE, TCP, HERE, flows[0].remote_port)
        assert local_ports_to(reader, [endpoint]) == {endpoint: {flow.local_port for flow in flows}}
    assert (reader.counts.procfs, reader.counts.sock_diag) == (0, 1)


@pytest.mark.parametrize("expected", [False, True])
def test_endpoints_of_the_last_read_are_found_without_parsing_a_table_again(
    tmp_path: Path, expected: bool
) -> None:
    fake = FakeProc(tmp_path / "proc")
    fake.table("tcp", b"nonsense", format_row((HERE, 1), (HERE, 443), inode=5))
    reader = make_reader("procfs", fake.root)
    endpoint = Endpoint(OWN_NAMESPACE, TCP, HERE, 443)
    reader.read(
        [make_flow(TCP, ("127.0.0.1", 2), ("127.0.0.1", 80))],
        0.0,
        math.inf,
        [endpoint] if expected else (),
    )
    assert local_ports_to(reader, [endpoint]) == {endpoint: {1}}
    assert reader.counts.rows_skipped == (1 if expected else 2)
    reader.read([make_flow(TCP, ("127.0.0.1", 2), ("127.0.0.1", 80))], 0.0, math.inf)
    assert local_ports_to(reader, [endpoint]) == {endpoint: {1}}


def test_a_table_that_never_ends_is_incomplete_and_gives_no_sample(tmp_path: Path) -> None:
    fake = FakeProc(tmp_path / "proc")
    fake.table("tcp", format_row((HERE, 1), (HERE, 443), inode=5))
    (fake.root / "net" / "tcp6").symlink_to("/dev/zero")
    fake.table("udp", format_row((HERE, 1), (HERE, 443), inode=6))
    reader = TableReader(OwnSource(Procfs(fake.root, itertools.count().__next__)), Reader.PROCFS)
    reading = reader.read([make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 443))], 0.0, 5)
    assert reading.incomplete == {"tcp6"}
    assert [row.inode for row in reading.tables["tcp"]] == [5]
    over_four = Endpoint(OWN_NAMESPACE, TCP, HERE, 443)
    over_six = Endpoint(OWN_NAMESPACE, TCP, bytes(15) + b"\1", 443)
    assert local_ports_to(reader, [over_four, over_six]) == {over_four: {1}, over_six: set()}


@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag"])
def test_only_sock_diag_rereads_cheaply(socket_table: SocketTable) -> None:
    reader = make_reader(socket_table)
    endpoint = Endpoint(OWN_NAMESPACE, TCP, HERE, 443)
    assert reader.rereads_cheaply([endpoint]) == (socket_table == "sock_diag")
