"""Sockets over sock_diag and from /proc/net: both must give the same matches."""

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from support.namespaces import namespace, require
from support.sockets import (
    IPV4,
    IPV6,
    TCP,
    UDP,
    all_kinds_of_sockets,
    connections,
    make_flow,
    make_time_wait,
    reversed_flow,
)

from hogpipe.attribution.procfs.matching import Match, TableIndex, port_pairs_for, tables_for
from hogpipe.linux import sock_diag, sock_diag_messages
from hogpipe.linux.sock_diag import (
    Dump,
    SocketLookup,
    read_dump,
    read_dump_by_remote_port,
    read_flow_sockets,
    read_listeners,
)
from hogpipe.linux.socket_table import TCP_LISTEN, SocketRow, parse_table
from hogpipe.model import FlowKey, Quality

FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 4, 5, 6

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")


def ports_of(flows: list[FlowKey]) -> dict[str, set[tuple[int, int]]]:
    ports: dict[str, set[tuple[int, int]]] = {}
    for key in flows:
        for name in tables_for(key):
            ports.setdefault(name, set()).update(port_pairs_for(key))
    return ports


def read_text(name: str, pairs: set[tuple[int, int]] | None = None) -> list[SocketRow]:
    """Read a table of /proc/net in the namespace of this thread."""
    return parse_table(Path(f"/proc/thread-self/net/{name}").read_bytes(), pairs)[0]


def steady(row: SocketRow) -> SocketRow:
    """Return the row with FIN_WAIT2 for FIN_WAIT1, which changes by itself between two reads."""
    return msgspec.structs.replace(row, state=FIN_WAIT2) if row.state == FIN_WAIT1 else row


def match_all(flows: list[FlowKey], tables: dict[str, list[SocketRow]]) -> dict[FlowKey, Match]:
    index = TableIndex(tables)
    found = {key: index.match(key) for key in flows}
    # The order of equal candidates does not matter.
    return {
        key: Match(match.quality, tuple(sorted(map(steady, match.rows), key=lambda row: row.inode)))
        for key, match in found.items()
    }


def by_text(flows: list[FlowKey]) -> dict[FlowKey, Match]:
    return match_all(flows, {name: read_text(name, p) for name, p in ports_of(flows).items()})


def by_dump(flows: list[FlowKey]) -> dict[FlowKey, Match]:
    ports = ports_of(flows)
    ports["tcp"] = ports.pop("tcp", set()) | ports.pop("tcp6", set())  # one dump has both
    return match_all(flows, {name: read_dump(name, p).rows for name, p in ports.items() if p})


@needs_ipv6
def test_both_readers_give_the_same_matches_on_this_host() -> None:
    with all_kinds_of_sockets() as flows:
        text, dump = by_text(flows), by_dump(flows)
        assert dump == text
        qualities = {match.quality for match in dump.values()}
    assert qualities == {Quality.EXACT, Quality.LISTENER, Quality.NONE}


@needs_ipv6
def test_both_readers_give_the_same_matches_in_another_network_namespace() -> None:
    require("ip")

    def compare() -> tuple[dict[FlowKey, Match], dict[FlowKey, Match], dict[FlowKey, Match]]:
        with all_kinds_of_sockets() as flows:
            found = read_flow_sockets([key for key in flows if key.protocol == TCP]).found
            looked_up = {key: Match(Quality.EXACT, (steady(row),)) for key, row in found.items()}
            return by_text(flows), by_dump(flows), looked_up

    with namespace() as room:
        text, dump, looked_up = room.call(compare)
    assert dump == text
    assert len(looked_up) > 10
    assert looked_up.items() <= text.items()


@needs_ipv6
def test_one_tcp_dump_has_the_sockets_of_both_tables() -> None:
    require("ip")

    def read_both_ways() -> tuple[list[SocketRow], list[SocketRow]]:
        with all_kinds_of_sockets() as flows:
            ports = ports_of(flows)
            pairs = ports["tcp"] | ports["tcp6"]
            text = read_text("tcp", pairs) + read_text("tcp6", pairs)
            return text, read_dump("tcp", pairs).rows

    with namespace() as room:
        text, dump = room.call(read_both_ways)
    held = [steady(row) for row in dump if row.inode]
    assert {len(row.local_address) for row in held} == {4, 16}
    assert len(held) == len(set(held))
    assert set(held) == {steady(row) for row in text if row.inode}


@needs_ipv6
def test_a_lookup_returns_the_row_of_the_table() -> None:
    with all_kinds_of_sockets() as flows:
        asked = [key for key in flows if key.protocol == TCP]
        text, answer = by_text(asked), read_flow_sockets(asked)
    found = answer.found
    exact = {key: match.rows[0] for key, match in text.items() if match.quality is Quality.EXACT}
    assert {key: steady(row) for key, row in found.items()} == exact
    assert len(found) < len(asked)
    assert {len(row.local_address) for row in found.values()} == {4, 16}
    assert any(
        len(key.local_address) == 4 and len(row.local_address) == 16 for key, row in found.items()
    )
    assert answer.closed
    assert found.keys().isdisjoint(answer.closed)


def test_each_of_many_lookups_gets_its_own_answer() -> None:
    nobodys = [make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", port)) for port in range(1, 100)]
    with connections(150) as flows:
        mixed = [key for pair in zip(flows, nobodys, strict=False) for key in pair] + flows[99:]
        found = read_flow_sockets(mixed).found
        assert found.keys() == set(flows)
        assert all(row.local_port == key.local_port for key, row in found.items())
    assert read_flow_sockets([]) == SocketLookup()


def test_connections_in_time_wait_are_not_dumped_and_a_lookup_returns_them_as_closed() -> None:
    require("ip")

    def make_and_read() -> tuple[list[FlowKey], int, list[SocketRow], SocketLookup]:
        flows = make_time_wait(500)
        pairs = ports_of(flows)["tcp"]
        waiting = sum(row.state == TIME_WAIT for row in read_text("tcp", pairs))
        return flows, waiting, read_dump("tcp", pairs).rows, read_flow_sockets(flows)

    with namespace() as room:
        flows, waiting, rows, looked_up = room.call(make_and_read)
    assert waiting == 500
    assert [row for row in rows if row.inode] == []
    assert looked_up == SocketLookup(closed=set(flows))


def test_an_unknown_five_tuple_is_neither_found_nor_closed() -> None:
    with connections(1) as flows, socket.create_server(("127.0.0.1", 0)) as server:
        unknown = msgspec.structs.replace(flows[0], remote_port=9)
        # The kernel answers this lookup with the listening socket.
        unconnected = make_flow(TCP, server.getsockname(), ("127.0.0.1", 9))
        assert read_flow_sockets([unknown, unconnected]) == SocketLookup()


@pytest.mark.parametrize("is_established", [True, False])
def test_a_connection_that_is_not_yet_accepted_is_neither_found_nor_closed(
    *, is_established: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if not is_established:  # the kernel keeps a request until the client has sent data
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        with socket.create_connection(server.getsockname()) as client:
            accepted_later = make_flow(TCP, server.getsockname(), client.getsockname())
            pairs = ports_of([accepted_later])["tcp"]
            row = read_flow_sockets([accepted_later]).unaccepted[accepted_later]
            assert (row.inode, row.state) == (0, 0x01 if is_established else 0x03)
            assert row in read_text("tcp", pairs)
            assert row in read_dump("tcp", pairs).rows
            client.sendall(b"x")
            with server.accept()[0]:
                accepted = read_flow_sockets([accepted_later])
                assert (accepted.found.keys(), accepted.unaccepted) == ({accepted_later}, {})


@needs_ipv6
def test_listening_sockets_are_read_by_their_ports() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=IPV6) as other,
        socket.create_server(("127.0.0.1", 0)) as unwanted,
        socket.create_connection(one.getsockname()),
    ):
        ports = {one.getsockname()[1], other.getsockname()[1]}
        rows = read_listeners(ports).rows
        assert unwanted.getsockname()[1] not in ports
        text = read_text("tcp") + read_text("tcp6")
    assert {row.local_port for row in rows} == ports
    assert set(rows) == {row for row in text if row.local_port in ports and row.state == TCP_LISTEN}


@needs_ipv6
@pytest.mark.parametrize("ports_asked", [1, 300])
def test_one_tcp_dump_by_remote_port_has_both_families(ports_asked: int) -> None:
    with (
        socket.create_server(("", 0), family=IPV6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])),
        socket.create_connection(("::1", server.getsockname()[1])),
    ):
        port = server.getsockname()[1]
        ports = {port, *range(1, ports_asked)}  # more than the kernel filters
        towards = [
            row for row in read_dump_by_remote_port("tcp", ports).rows if row.remote_port == port
        ]
        text = read_text("tcp") + read_text("tcp6")
    assert {len(row.local_address) for row in towards} == {4, 16}
    assert set(towards) == {row for row in text if row.remote_port == port}


def test_udp_is_dumped_by_remote_port_for_each_table() -> None:
    with ExitStack() as stack:
        server, client, unwanted = (
            stack.enter_context(socket.socket(IPV4, socket.SOCK_DGRAM)) for _ in range(3)
        )
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        unwanted.connect(("127.0.0.1", 9))
        port = server.getsockname()[1]
        (row,) = read_dump_by_remote_port("udp", {port}).rows
        assert (row.local_port, row.remote_port) == (client.getsockname()[1], port)


def test_a_dump_of_several_datagrams_is_complete() -> None:
    with ExitStack() as stack:
        flows = []
        for _ in range(
            600
        ):  # more than fit into a datagram, and more ports than the kernel filters
            opened = stack.enter_context(socket.socket(IPV4, socket.SOCK_DGRAM))
            opened.bind(("127.0.0.1", 0))
            flows.append(make_flow(UDP, opened.getsockname(), ("127.0.0.1", 9)))
        assert by_dump(flows) == by_text(flows)
        assert all(match.rows for match in by_dump(flows).values())


def test_only_a_dump_has_a_connection_that_is_bound_to_another_device() -> None:
    require("ip")

    def make_and_read() -> tuple[SocketLookup, dict[FlowKey, Match], dict[FlowKey, Match]]:
        with connections(1, device="lo") as flows:
            seen = [
                msgspec.structs.replace(key, interface="")
                for key in [*flows, reversed_flow(flows[0])]
            ]
            return read_flow_sockets(seen), by_dump(seen), by_text(seen)

    with namespace() as room:
        looked_up, dumped, text = room.call(make_and_read)
    assert looked_up == SocketLookup()
    assert [match.quality for match in dumped.values()] == [Quality.EXACT] * 2
    assert dumped == text


def test_a_lookup_finds_a_connection_that_is_bound_to_its_interface() -> None:
    require("ip")

    def make_and_read() -> tuple[set[FlowKey], set[FlowKey]]:
        with connections(1, device="lo") as flows, connections(1) as unbound:
            asked = [key for one in (*flows, *unbound) for key in (one, reversed_flow(one))]
            return set(asked), set(read_flow_sockets(asked).found)

    with namespace() as room:
        asked, found = room.call(make_and_read)
    assert len(asked) == 4
    assert found == asked


@pytest.mark.parametrize("table", ["udp", "udp6"])
def test_a_protocol_without_sock_diag_is_an_error(
    monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setitem(sock_diag._PROTOCOLS, "udp", 200)
    with pytest.raises(OSError, match=f"sock_diag {table}") as raised:
        read_dump(table, {(1, 2)})
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(OSError, match=f"sock_diag {table}"):
        read_dump_by_remote_port(table, {1})


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_dump("tcp", {(1, 2)}),
        lambda: read_dump_by_remote_port("tcp", {1}),
        lambda: read_listeners({1}),
    ],
)
def test_an_unknown_tcp_request_is_an_error(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], Dump]
) -> None:
    monkeypatch.setattr(sock_diag_messages, "_TCPDIAG_GETSOCK", 4711)
    with pytest.raises(OSError, match="sock_diag tcp") as raised:
        read()
    assert raised.value.errno == errno.EINVAL
