"""The kernel's sockets, read over sock_diag and from /proc/net: both must say the same."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from support.namespaces import namespace, require

from hogpipe.attribution import sock_diag
from hogpipe.attribution.matching import Match, SocketIndex, port_pairs_for, tables_for
from hogpipe.attribution.sock_diag import look_up, read_dump
from hogpipe.attribution.socket_table import SocketRow, parse_table
from hogpipe.model import FlowKey, Quality

TCP, UDP, UDPLITE = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 4, 5, 6

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")


def packed(address: str) -> bytes:
    return socket.inet_pton(IPV6 if ":" in address else IPV4, address)


def flow(protocol: int, local: tuple[str, int], remote: tuple[str, int]) -> FlowKey:
    return FlowKey(protocol, packed(local[0]), local[1], packed(remote[0]), remote[1], "lo")


def ports_of(flows: list[FlowKey]) -> dict[str, set[tuple[int, int]]]:
    ports: dict[str, set[tuple[int, int]]] = {}
    for key in flows:
        for name in tables_for(key):
            ports.setdefault(name, set()).update(port_pairs_for(key))
    return ports


def read_text(name: str, pairs: set[tuple[int, int]]) -> list[SocketRow]:
    """Read a table of /proc/net in the namespace of this very thread."""
    return parse_table(Path(f"/proc/thread-self/net/{name}").read_bytes(), pairs)[0]


def steady(row: SocketRow) -> SocketRow:
    """Return the row with FIN_WAIT1 as FIN_WAIT2, which it becomes by itself meanwhile."""
    return msgspec.structs.replace(row, state=FIN_WAIT2) if row.state == FIN_WAIT1 else row


def match_all(flows: list[FlowKey], tables: dict[str, list[SocketRow]]) -> dict[FlowKey, Match]:
    index = SocketIndex(tables)
    found = {key: index.match(key) for key in flows}
    # In what order equal candidates come does not matter.
    return {
        key: Match(match.quality, tuple(sorted(map(steady, match.rows), key=lambda row: row.inode)))
        for key, match in found.items()
    }


def by_text(flows: list[FlowKey]) -> dict[FlowKey, Match]:
    return match_all(flows, {name: read_text(name, p) for name, p in ports_of(flows).items()})


def by_dump(flows: list[FlowKey]) -> dict[FlowKey, Match]:
    return match_all(flows, {name: read_dump(name, p).rows for name, p in ports_of(flows).items()})


@contextmanager
def all_kinds_of_sockets() -> Iterator[list[FlowKey]]:
    """Open sockets of many kinds, and give the flows that they and nobody may have."""
    with ExitStack() as stack:
        flows: list[FlowKey] = []
        for family, host, place in (
            (IPV4, "127.0.0.1", "127.0.0.1"),
            (IPV4, "", "127.0.0.1"),
            (IPV6, "::1", "::1"),
            (IPV6, "", "::1"),
            (IPV6, "", "127.0.0.1"),
        ):
            server = stack.enter_context(
                socket.create_server((host, 0), family=family, dualstack_ipv6=family == IPV6)
            )
            flows += connect(stack, server, place)
        for protocol in (UDP, UDPLITE):
            for family, host in ((IPV4, "127.0.0.1"), (IPV4, ""), (IPV6, "::1"), (IPV6, "")):
                with suppress(OSError):  # the kernel may have no UDP-Lite
                    flows += exchange(stack, protocol, family, host)
        yield flows


def connect(stack: ExitStack, server: socket.socket, place: str) -> list[FlowKey]:
    """Make connections that are accepted, half-closed, closed by either side, and waiting."""
    port = server.getsockname()[1]
    flows = [flow(TCP, (place, port), (place, 9))]
    for kind in ("accepted", "half-closed", "client first", "server first", "waiting"):
        client = stack.enter_context(socket.create_connection((place, port)))
        peer = client.getsockname()[:2]
        flows += [flow(TCP, (place, port), peer), flow(TCP, peer, (place, port))]
        if kind == "waiting":
            continue
        accepted = stack.enter_context(server.accept()[0])
        if kind == "half-closed":
            client.shutdown(socket.SHUT_WR)
        elif kind == "client first":
            close(client, accepted)
        elif kind == "server first":
            close(accepted, client)
    return flows


def close(one: socket.socket, other: socket.socket) -> None:
    """Close both ends, so that the first is left in TIME_WAIT."""
    one.close()
    assert other.recv(1) == b""
    other.close()


def exchange(stack: ExitStack, protocol: int, family: int, host: str) -> list[FlowKey]:
    """Open an unconnected socket and one that is connected to it."""
    place = host or ("127.0.0.1" if family == IPV4 else "::1")
    server = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    server.bind((host, 0))
    port = server.getsockname()[1]
    client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    client.connect((place, port))
    peer = client.getsockname()[:2]
    flows = [flow(protocol, peer, (place, port)), flow(protocol, (place, port), peer)]
    if family == IPV6 and not host:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        flows.append(flow(protocol, ("127.0.0.1", port), ("127.0.0.1", 9)))
    return flows


@needs_ipv6
def test_both_ways_give_the_same_matches_on_this_host() -> None:
    with all_kinds_of_sockets() as flows:
        text, dump = by_text(flows), by_dump(flows)
        assert dump == text
        qualities = {match.quality for match in dump.values()}
    assert qualities == {Quality.EXACT, Quality.LISTENER, Quality.NONE}


@needs_ipv6
def test_both_ways_give_the_same_matches_in_another_network_namespace() -> None:
    require("ip")

    def compare() -> tuple[dict[FlowKey, Match], dict[FlowKey, Match], dict[FlowKey, Match]]:
        with all_kinds_of_sockets() as flows:
            found = look_up(flows)
            looked_up = {key: Match(Quality.EXACT, (steady(row),)) for key, row in found.items()}
            return by_text(flows), by_dump(flows), looked_up

    with namespace() as room:
        text, dump, looked_up = room.call(compare)
    assert dump == text
    assert len(looked_up) > 10
    assert looked_up.items() <= text.items()


@needs_ipv6
def test_looking_a_connection_up_gives_the_row_that_the_table_has() -> None:
    with all_kinds_of_sockets() as flows:
        connections = [key for key in flows if key.protocol == TCP]
        text, found = by_text(connections), look_up(connections)
    exact = {key: match.rows[0] for key, match in text.items() if match.quality is Quality.EXACT}
    assert {key: steady(row) for key, row in found.items()} == exact
    assert len(found) < len(connections)
    assert {len(row.local_address) for row in found.values()} == {4, 16}
    assert any(
        len(key.local_address) == 4 and len(row.local_address) == 16 for key, row in found.items()
    )


def test_connections_in_time_wait_are_left_out() -> None:
    require("ip")

    def make_and_read() -> tuple[int, list[SocketRow], dict[FlowKey, SocketRow]]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = server.getsockname()
            flows = []
            for _ in range(500):
                client = socket.create_connection(place)
                flows.append(flow(TCP, client.getsockname(), place))
                accepted, _ = server.accept()
                client.close()
                accepted.close()
            pairs = ports_of(flows)["tcp"]
            waiting = sum(row.state == TIME_WAIT for row in read_text("tcp", pairs))
            return waiting, read_dump("tcp", pairs).rows, look_up(flows)

    with namespace() as room:
        waiting, rows, found = room.call(make_and_read)
    assert waiting == 500
    assert [row for row in rows if row.inode] == []
    assert found == {}


def test_a_dump_of_several_datagrams_is_whole() -> None:
    with ExitStack() as stack:
        flows = []
        for _ in range(600):  # more than a datagram holds, and more ports than the kernel filters
            opened = stack.enter_context(socket.socket(IPV4, socket.SOCK_DGRAM))
            opened.bind(("127.0.0.1", 0))
            flows.append(flow(UDP, opened.getsockname(), ("127.0.0.1", 9)))
        assert by_dump(flows) == by_text(flows)
        assert all(match.rows for match in by_dump(flows).values())


def test_a_connection_that_is_bound_to_a_device_is_left_to_the_dump() -> None:
    require("ip")

    def make_and_read() -> tuple[dict[FlowKey, SocketRow], dict[FlowKey, Match]]:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            client.connect(server.getsockname())
            key = flow(TCP, client.getsockname(), server.getsockname())
            return look_up([key]), by_dump([key])

    with namespace() as room:
        found, dumped = room.call(make_and_read)
    assert found == {}
    assert [match.quality for match in dumped.values()] == [Quality.EXACT]


def test_a_protocol_that_the_kernel_does_not_diagnose_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sock_diag._PROTOCOLS, "tcp", 200)
    with pytest.raises(OSError, match="sock_diag tcp") as caught:
        read_dump("tcp", {(1, 2)})
    assert caught.value.errno == errno.ENOENT
