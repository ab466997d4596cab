"""From real sockets on the loopback interface to their owners."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.resolving import attribute
from support.sockets import connections, make_time_wait

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.procfs.table_reader import SocketTable
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Quality

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
NO_OWNER = 65534
ME = os.getpid()

# Holds the sockets that it inherits, and exits at the end of its input.
HOLD = "import sys; print('ready', flush=True); sys.stdin.read()"
# Connects to a port, prints its local port, and exits at the end of its input.
CONNECT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    print(connection.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def flow(protocol: int, local: tuple[str, int], remote: tuple[str, int]) -> FlowKey:
    return FlowKey(protocol, *_packed(local), *_packed(remote), "lo")


def _packed(end: tuple[str, int]) -> tuple[bytes, int]:
    family = socket.AF_INET6 if ":" in end[0] else socket.AF_INET
    return socket.inet_pton(family, end[0]), end[1]


def resolve(key: FlowKey) -> Attribution:
    return attribute(ProcfsResolver(Path("/proc")), [key])[key]


def owner(key: FlowKey) -> tuple[Quality, int | None]:
    attribution = resolve(key)
    process = attribution.process
    return attribution.quality, None if process is None else process.pid


@contextmanager
def child(
    program: str, *arguments: str, pass_fds: tuple[int, ...] = ()
) -> Iterator[tuple[int, str]]:
    """Run a Python program; yield its pid and its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    address = str(request.param)
    if ":" in address:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                pytest.skip("this host has no IPv6 on its loopback interface")
    return address


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def test_both_ends_of_a_connection_are_exact(host: str) -> None:
    with socket.create_server((host, 0), family=family_of(host)) as server:
        place = server.getsockname()[:2]
        with socket.create_connection(place) as client:
            peer = client.getsockname()[:2]
            accepted, _ = server.accept()
            with accepted:
                assert owner(flow(TCP, peer, place)) == (Quality.EXACT, ME)
                assert owner(flow(TCP, place, peer)) == (Quality.EXACT, ME)


def test_a_connection_that_is_not_yet_accepted_matches_the_listener(host: str) -> None:
    with socket.create_server((host, 0), family=family_of(host)) as server:
        place = server.getsockname()[:2]
        with socket.create_connection(place) as client:
            peer = client.getsockname()[:2]
            assert owner(flow(TCP, place, peer)) == (Quality.LISTENER, ME)


def test_a_closed_connection_is_unattributed_but_its_server_matches_by_port(host: str) -> None:
    with socket.create_server((host, 0), family=family_of(host)) as server:
        place = server.getsockname()[:2]
        with socket.create_connection(place) as client:
            peer = client.getsockname()[:2]
            accepted, _ = server.accept()
        accepted.close()
        assert owner(flow(TCP, peer, place)) == (Quality.NONE, None)
        assert owner(flow(TCP, place, peer)) == (Quality.LISTENER, ME)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no dual-stack sockets")
def test_an_ipv4_connection_to_a_dual_stack_server_is_exact() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        place = ("127.0.0.1", server.getsockname()[1])
        with socket.create_connection(place) as client:
            peer = client.getsockname()
            assert owner(flow(TCP, place, peer)) == (Quality.LISTENER, ME)
            accepted, _ = server.accept()
            with accepted:
                assert owner(flow(TCP, place, peer)) == (Quality.EXACT, ME)


def test_datagrams_are_exact_if_connected_and_matched_by_port_otherwise(host: str) -> None:
    with (
        socket.socket(family_of(host), socket.SOCK_DGRAM) as server,
        socket.socket(family_of(host), socket.SOCK_DGRAM) as client,
    ):
        server.bind((host, 0))
        place = server.getsockname()[:2]
        client.connect(place)
        peer = client.getsockname()[:2]
        assert owner(flow(UDP, peer, place)) == (Quality.EXACT, ME)
        assert owner(flow(UDP, place, peer)) == (Quality.LISTENER, ME)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no dual-stack sockets")
def test_ipv4_datagrams_match_a_dual_stack_socket() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        place = ("127.0.0.1", server.getsockname()[1])
        assert owner(flow(UDP, place, ("127.0.0.1", 9))) == (Quality.LISTENER, ME)


def test_a_connection_of_a_child_belongs_to_the_child() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        with child(CONNECT, str(place[1])) as (pid, port):
            assert owner(flow(TCP, ("127.0.0.1", int(port)), place)) == (Quality.EXACT, pid)


def test_an_inherited_socket_belongs_to_the_parent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        key = flow(TCP, server.getsockname(), ("127.0.0.1", 9))
        with child(HOLD, pass_fds=(server.fileno(),)):
            assert owner(key) == (Quality.LISTENER, ME)


def test_an_inherited_socket_that_the_parent_closed_belongs_to_the_child() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    key = flow(TCP, server.getsockname(), ("127.0.0.1", 9))
    resolver = ProcfsResolver(Path("/proc"))
    with child(HOLD, pass_fds=(server.fileno(),)) as (pid, _):
        before = attribute(resolver, [key])[key].process
        server.close()
        after = attribute(resolver, [key])[key].process
    assert before is not None
    assert after is not None
    assert (before.pid, after.pid) == (ME, pid)


@pytest.mark.usefixtures("root")
def test_without_permission_to_read_fds_only_the_user_is_known() -> None:
    resolver = ProcfsResolver(Path("/proc"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        with child(CONNECT, str(place[1])) as (pid, port):
            key = flow(TCP, ("127.0.0.1", int(port)), place)
            os.seteuid(NO_OWNER)
            try:
                refused = attribute(resolver, [key])[key]
            finally:
                os.seteuid(0)
            not_permitted = resolver.counts().not_permitted
            granted = attribute(resolver, [key])[key]
    assert (refused.quality, refused.process) == (Quality.NONE, None)
    assert refused.user is not None
    assert refused.user.id == 0
    assert not_permitted > 0
    assert granted.process is not None
    assert granted.process.pid == pid
    # Some processes may refuse even root.
    assert resolver.counts().not_permitted - not_permitted < not_permitted


@pytest.mark.usefixtures("root")
def test_an_inconclusive_flow_is_absent_until_a_dump() -> None:
    now = 0.0
    resolver = ProcfsResolver(Path("/proc"), socket_table="sock_diag", clock=lambda: now)
    with connections(1) as others, connections(1, device="lo") as bound:
        hidden = replace(bound[0], interface="elsewhere")
        resolver.resolve(others)  # which dumps the table
        resolver._tables._tcp_lookup._lookup_cost = 0.0
        now = 0.001
        answer = attribute(resolver, [*others, hidden])
        assert answer.keys() == set(others)
        assert (answer[others[0]].quality, resolver.counts().tuple_lookups) == (Quality.EXACT, 2)
        resolver._tables._tcp_lookup._lookup_cost = 0.0
        now = 1000.0
        answer = attribute(resolver, [hidden])
    assert answer[hidden].quality is Quality.EXACT
    assert answer[hidden].process is not None
    assert answer[hidden].process.pid == ME


def test_a_closed_connection_needs_no_dump() -> None:
    resolver = ProcfsResolver(Path("/proc"), socket_table="sock_diag")
    one, other = *make_time_wait(1), *make_time_wait(1)
    assert attribute(resolver, [one]) == {one: UNATTRIBUTED}
    reads = resolver.counts().table_reads
    resolver._tables._tcp_lookup._lookup_cost = 0.0
    assert attribute(resolver, [other]) == {other: UNATTRIBUTED}
    assert resolver.counts().table_reads == reads + 1  # the listening sockets


@pytest.mark.parametrize("socket_table", ["procfs", "sock_diag"])
def test_samples_work_with_either_reader(socket_table: SocketTable) -> None:
    now = 0.0
    resolver = ProcfsResolver(Path("/proc"), socket_table=socket_table, clock=lambda: now)
    with connections(8) as opened:
        resolver.prepare()
        missed = [replace(opened[0], local_port=port) for port in (1, 2)]
        resolver.resolve(missed)
    now = 0.9
    answer = attribute(resolver, missed)  # the sampled sockets are closed
    assert {one.quality for one in answer.values()} == {Quality.INFERRED}
    assert {one.process and one.process.pid for one in answer.values()} == {ME}


def test_every_row_on_this_host_parses() -> None:
    resolver = ProcfsResolver(Path("/proc"))
    resolver.resolve([flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 2))])
    resolver.resolve([flow(UDP, ("127.0.0.1", 1), ("127.0.0.1", 2))])
    assert resolver.counts().rows_skipped == 0
