"""The candidate sockets of a flow."""

import ipaddress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_proc import CLOSE, ESTABLISHED, LISTEN, TIME_WAIT

from hogpipe.attribution.procfs.matching import (
    NO_MATCH,
    TableIndex,
    has_endpoint,
    has_ports,
    port_pairs_for,
    protocol_of,
    tables_for,
    tables_of,
)
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import FlowKey, Quality, unmap

TCP, UDP, UDPLITE, ICMP, ICMPV6, OSPF, SCTP = 6, 17, 136, 1, 58, 89, 132


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def flow(protocol: int, local: str, local_port: int, remote: str, remote_port: int) -> FlowKey:
    return FlowKey(protocol, address(local), local_port, address(remote), remote_port, "eth0")


def row(
    inode: int,
    local: str,
    local_port: int,
    remote: str | None = None,
    remote_port: int = 0,
    *,
    state: int = ESTABLISHED,
) -> SocketRow:
    ours = address(local)
    theirs = address(remote) if remote else bytes(len(ours))
    return SocketRow(ours, local_port, theirs, remote_port, state, 0, inode)


def candidates(key: FlowKey, **tables: list[SocketRow]) -> tuple[Quality, set[int]]:
    match = TableIndex(tables).match(key)
    return match.quality, {found.inode for found in match.rows}


CONNECTION = flow(TCP, "10.0.0.1", 80, "10.0.0.2", 5000)
CONNECTION6 = flow(TCP, "fd00::1", 80, "fd00::2", 5000)
DATAGRAMS = flow(UDP, "10.0.0.1", 53, "10.0.0.2", 5000)
NOTHING = (Quality.NONE, set[int]())


@pytest.mark.parametrize(
    ("protocol", "four", "six"),
    [
        (TCP, ("tcp", "tcp6"), ("tcp6",)),
        (UDP, ("udp", "udp6"), ("udp6",)),
        (UDPLITE, ("udplite", "udplite6"), ("udplite6",)),
        (ICMP, ("icmp", "raw"), ("icmp6", "raw6")),
        (OSPF, ("raw",), ("raw6",)),
        (SCTP, (), ()),
    ],
)
def test_a_flow_needs_the_tables_of_its_protocol(
    protocol: int, four: tuple[str, ...], six: tuple[str, ...]
) -> None:
    assert tables_for(flow(protocol, "10.0.0.1", 1, "10.0.0.2", 2)) == four
    assert tables_for(flow(protocol, "fd00::1", 1, "fd00::2", 2)) == six


@pytest.mark.parametrize("table", ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6"])
def test_a_table_by_ports_has_a_protocol(table: str) -> None:
    assert has_ports(table)
    kind = "fd00::1" if table.endswith("6") else "10.0.0.1"
    assert table in tables_of(protocol_of(table), address(kind))


@pytest.mark.parametrize("table", ["raw", "raw6", "icmp", "icmp6"])
def test_other_tables_have_no_ports(table: str) -> None:
    assert not has_ports(table)


def test_only_flows_with_a_remote_port_have_an_endpoint() -> None:
    assert has_endpoint(CONNECTION)
    assert has_endpoint(DATAGRAMS)
    assert not has_endpoint(flow(TCP, "10.0.0.1", 80, "10.0.0.2", 0))
    for protocol in (ICMP, OSPF, SCTP):
        assert not has_endpoint(flow(protocol, "10.0.0.1", 80, "10.0.0.2", 5000))


def test_only_v4_mapped_addresses_are_unmapped() -> None:
    assert unmap(address("::ffff:10.0.0.1")) == address("10.0.0.1")
    for other in ("10.0.0.1", "fd00::1", "::", "::1", "::fffe:10.0.0.1", "1::ffff:10.0.0.1"):
        assert unmap(address(other)) == address(other)


def test_a_connected_socket_comes_before_the_listener() -> None:
    listener = row(1, "0.0.0.0", 80, state=LISTEN)
    connection = row(2, "10.0.0.1", 80, "10.0.0.2", 5000)
    assert candidates(CONNECTION, tcp=[listener, connection]) == (Quality.EXACT, {2})


def test_a_connection_of_a_dual_stack_socket_is_exact() -> None:
    connection = row(2, "::ffff:10.0.0.1", 80, "::ffff:10.0.0.2", 5000)
    assert candidates(CONNECTION, tcp=[], tcp6=[connection]) == (Quality.EXACT, {2})


def test_one_table_may_hold_the_rows_of_both_families() -> None:
    four = row(1, "10.0.0.1", 80, "10.0.0.2", 5000)
    mapped = row(2, "::ffff:10.0.0.1", 80, "::ffff:10.0.0.3", 5000)
    six = row(3, "fd00::1", 80, "fd00::2", 5000)
    dual_stack = row(4, "::", 80, state=LISTEN)
    rows = [four, mapped, six, dual_stack]
    assert candidates(CONNECTION, tcp=rows) == (Quality.EXACT, {1})
    to_mapped = flow(TCP, "10.0.0.1", 80, "10.0.0.3", 5000)
    assert candidates(to_mapped, tcp=rows) == (Quality.EXACT, {2})
    assert candidates(CONNECTION6, tcp=rows) == (Quality.EXACT, {3})
    assert candidates(CONNECTION6, tcp=rows[:2]) == NOTHING
    assert candidates(flow(TCP, "10.0.0.1", 80, "10.0.0.9", 1), tcp=rows)[1] == {4}


def test_a_socket_that_is_read_twice_is_one_candidate() -> None:
    connection = row(1, "10.0.0.1", 80, "10.0.0.2", 5000)
    listener = row(2, "0.0.0.0", 80, state=LISTEN)
    index = TableIndex({"tcp": [connection, listener, connection, listener], "tcp6": [connection]})
    assert index.match(CONNECTION).rows == (connection,)
    assert index.match(flow(TCP, "10.0.0.1", 80, "10.0.0.2", 1)).rows == (listener,)


def test_rows_may_be_added_later() -> None:
    index = TableIndex({"tcp": [row(1, "0.0.0.0", 80, state=LISTEN)]})
    assert index.match(CONNECTION).quality is Quality.LISTENER
    index.add("tcp6", [row(2, "::ffff:10.0.0.1", 80, "::ffff:10.0.0.2", 5000)])
    assert index.match(CONNECTION).quality is Quality.EXACT


def test_a_socket_that_is_connected_to_an_address_without_a_port_is_not_unconnected() -> None:
    assert candidates(DATAGRAMS, udp=[row(1, "10.0.0.1", 53, "10.0.0.7")]) == NOTHING


def test_connections_that_differ_in_one_endpoint_do_not_match() -> None:
    others = [
        row(1, "10.0.0.1", 81, "10.0.0.2", 5000),
        row(2, "10.0.0.1", 80, "10.0.0.2", 5001),
        row(3, "10.0.0.3", 80, "10.0.0.2", 5000),
        row(4, "10.0.0.1", 80, "10.0.0.4", 5000),
        row(5, "10.0.0.2", 5000, "10.0.0.1", 80),
    ]
    assert candidates(CONNECTION, tcp=others) == NOTHING


def test_a_row_without_an_inode_leaves_the_flow_to_the_listener() -> None:
    time_wait = row(0, "10.0.0.1", 80, "10.0.0.2", 5000, state=TIME_WAIT)
    listener = row(1, "0.0.0.0", 80, state=LISTEN)
    assert candidates(CONNECTION, tcp=[time_wait, listener]) == (Quality.LISTENER, {1})


def test_of_two_rows_with_one_five_tuple_the_one_with_an_inode_matches() -> None:
    time_wait = row(0, "10.0.0.1", 80, "10.0.0.2", 5000, state=TIME_WAIT)
    connection = row(2, "10.0.0.1", 80, "10.0.0.2", 5000)
    assert candidates(CONNECTION, tcp=[time_wait, connection]) == (Quality.EXACT, {2})


def test_listeners_go_from_bound_to_wildcard_to_dual_stack() -> None:
    bound = row(1, "10.0.0.1", 80, state=LISTEN)
    mapped = row(2, "::ffff:10.0.0.1", 80, state=LISTEN)
    wildcard = row(3, "0.0.0.0", 80, state=LISTEN)
    dual_stack = row(4, "::", 80, state=LISTEN)
    elsewhere = row(5, "10.0.0.9", 80, state=LISTEN)
    tcp6 = [mapped, dual_stack]
    assert candidates(CONNECTION, tcp=[wildcard, bound, elsewhere], tcp6=tcp6)[1] == {1, 2}
    assert candidates(CONNECTION, tcp=[wildcard, elsewhere], tcp6=[dual_stack])[1] == {3}
    assert candidates(CONNECTION, tcp=[elsewhere], tcp6=[dual_stack]) == (Quality.LISTENER, {4})
    assert candidates(CONNECTION, tcp=[elsewhere], tcp6=[]) == NOTHING


def test_an_ipv6_flow_does_not_match_an_ipv4_listener() -> None:
    assert candidates(CONNECTION6, tcp6=[row(1, "::", 80, state=LISTEN)])[1] == {1}
    four = row(2, "0.0.0.0", 80, state=LISTEN)
    mapped = row(3, "::ffff:0.0.0.0", 80, state=LISTEN)
    assert candidates(CONNECTION6, tcp=[four], tcp6=[mapped]) == NOTHING


def test_an_unconnected_tcp_socket_that_does_not_listen_does_not_match() -> None:
    assert candidates(CONNECTION, tcp=[row(1, "0.0.0.0", 80, state=CLOSE)]) == NOTHING


def test_listeners_that_share_a_port_are_all_candidates() -> None:
    rows = [row(inode, "0.0.0.0", 80, state=LISTEN) for inode in (1, 2)]
    assert candidates(CONNECTION, tcp=rows) == (Quality.LISTENER, {1, 2})


@pytest.mark.parametrize(("protocol", "table"), [(UDP, "udp"), (UDPLITE, "udplite")])
def test_datagrams_match_the_connected_then_the_bound_then_the_wildcard_socket(
    protocol: int, table: str
) -> None:
    key = flow(protocol, "10.0.0.1", 53, "10.0.0.2", 5000)
    connected = row(1, "10.0.0.1", 53, "10.0.0.2", 5000)
    bound = row(2, "10.0.0.1", 53, state=CLOSE)
    wildcard = row(3, "0.0.0.0", 53, state=CLOSE)
    dual_stack = row(4, "::", 53, state=CLOSE)
    four, six = [wildcard, bound, connected], {f"{table}6": [dual_stack]}
    assert candidates(key, **{table: four}, **six) == (Quality.EXACT, {1})
    assert candidates(key, **{table: four[:2]}, **six) == (Quality.LISTENER, {2})
    assert candidates(key, **{table: four[:1]}, **six) == (Quality.LISTENER, {3})
    assert candidates(key, **{table: []}, **six) == (Quality.LISTENER, {4})


def test_a_socket_that_is_connected_to_another_peer_does_not_match() -> None:
    connected = row(1, "10.0.0.1", 53, "10.0.0.7", 5000)
    assert candidates(DATAGRAMS, udp=[connected]) == NOTHING


def test_tables_of_another_protocol_do_not_match() -> None:
    wildcard = row(1, "0.0.0.0", 53, state=CLOSE)
    assert candidates(DATAGRAMS, tcp=[wildcard], udplite=[wildcard]) == NOTHING


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255"])
def test_a_multicast_group_reaches_bound_and_wildcard_sockets(group: str) -> None:
    key = flow(UDP, group, 5353, "10.0.0.2", 5353)
    bound = row(1, group, 5353, state=CLOSE)
    wildcard = row(2, "0.0.0.0", 5353, state=CLOSE)
    unicast = row(3, "10.0.0.1", 5353, state=CLOSE)
    dual_stack = row(4, "::", 5353, state=CLOSE)
    found = candidates(key, udp=[bound, wildcard, unicast], udp6=[dual_stack])
    assert found == (Quality.LISTENER, {1, 2, 4})


def test_an_ipv6_multicast_group_reaches_bound_and_wildcard_sockets() -> None:
    key = flow(UDP, "ff02::fb", 5353, "fe80::2", 5353)
    rows = [row(1, "ff02::fb", 5353, state=CLOSE), row(2, "::", 5353, state=CLOSE)]
    assert candidates(key, udp6=rows) == (Quality.LISTENER, {1, 2})


def test_an_echo_matches_the_ping_socket_with_its_identifier() -> None:
    key = flow(ICMP, "10.0.0.1", 77, "10.0.0.2", 77)
    ping, other = row(1, "0.0.0.0", 77, state=CLOSE), row(2, "0.0.0.0", 78, state=CLOSE)
    raw = row(3, "0.0.0.0", ICMP, state=CLOSE)
    assert candidates(key, icmp=[other, ping], raw=[raw]) == (Quality.LISTENER, {1})
    assert candidates(key, icmp=[other], raw=[raw]) == NOTHING  # it only receives copies


def test_a_connected_ping_socket_is_exact_for_its_peer_only() -> None:
    # A ping socket's remote port is whatever connect() was given.
    ping = row(1, "fd00::1", 77, "fd00::2", 1025)
    assert candidates(flow(ICMPV6, "fd00::1", 77, "fd00::2", 77), icmp6=[ping]) == (
        Quality.EXACT,
        {1},
    )
    assert candidates(flow(ICMPV6, "fd00::1", 77, "fd00::3", 77), icmp6=[ping]) == NOTHING


def test_a_raw_socket_is_found_by_its_protocol_number() -> None:
    key = flow(OSPF, "224.0.0.5", 0, "10.0.0.2", 0)
    rows = [
        row(1, "0.0.0.0", OSPF, state=CLOSE),
        row(2, "0.0.0.0", OSPF + 1, state=CLOSE),
        row(3, "10.0.0.1", OSPF, state=CLOSE),
    ]
    assert candidates(key, raw=rows) == (Quality.LISTENER, {1})


def test_raw_sockets_are_candidates_whatever_address_they_are_bound_to() -> None:
    key = flow(OSPF, "10.0.0.1", 0, "10.0.0.2", 0)
    rows = [
        row(1, "0.0.0.0", OSPF, state=CLOSE),
        row(2, "10.0.0.1", OSPF, state=CLOSE),
    ]
    assert candidates(key, raw=rows) == (Quality.LISTENER, {1, 2})
    connected = row(3, "10.0.0.1", OSPF, "10.0.0.2")
    assert candidates(key, raw=[*rows, connected]) == (Quality.EXACT, {3})


def test_a_protocol_without_a_table_matches_nothing() -> None:
    raw = row(1, "0.0.0.0", SCTP, state=CLOSE)
    key = flow(SCTP, "10.0.0.1", 1, "10.0.0.2", 2)
    assert TableIndex({"raw": [raw]}).match(key) == NO_MATCH


PLACES = ["10.0.0.1", "10.0.0.2", "0.0.0.0", "255.255.255.255", "224.0.0.251"]
PLACES6 = ["fd00::1", "fd00::2", "::", "ff02::fb"]
some_ports = st.sampled_from([0, 53, 80])
states = st.sampled_from([ESTABLISHED, LISTEN, CLOSE])
inodes = st.integers(0, 6)


def rows_at(places: list[str]) -> st.SearchStrategy[SocketRow]:
    ends = st.sampled_from(places).map(address)
    return st.builds(SocketRow, ends, some_ports, ends, some_ports, states, st.just(0), inodes)


rows4 = rows_at(PLACES)
rows6 = rows_at(PLACES6 + [f"::ffff:{place}" for place in PLACES])
some_rows = st.lists(rows4 | rows6, max_size=12)
some_flows = st.one_of(
    st.builds(
        flow,
        st.sampled_from([TCP, UDP, UDPLITE]),
        *(st.sampled_from(places), some_ports, st.sampled_from(places), some_ports),
    )
    for places in (PLACES, PLACES6)
)


def plain_match(key: FlowKey, rows: list[SocketRow]) -> tuple[Quality, set[SocketRow]]:
    """Search all rows linearly at each level, in the order of the kernel."""
    held = [found for found in rows if found.inode]

    def at(where: bytes, remote: tuple[bytes, int]) -> set[SocketRow]:
        return {
            found
            for found in held
            if (found.local_port, unmap(found.local_address)) == (key.local_port, where)
            and (unmap(found.remote_address), found.remote_port) == remote
        }

    def unconnected(where: bytes) -> set[SocketRow]:
        found = at(where, (bytes(4), 0)) | at(where, (bytes(16), 0))
        # The remote address of an unconnected socket is all zero, never a mapped address.
        found = {one for one in found if not any(one.remote_address)}
        return {one for one in found if key.protocol != TCP or one.state == LISTEN}

    # A socket is connected if its remote column is not all zero; a mapped zero is not.
    same = at(key.local_address, (key.remote_address, key.remote_port))
    exact = {one for one in same if one.remote_port or any(one.remote_address)}
    if exact:
        return Quality.EXACT, exact
    wildcards = [bytes(4), bytes(16)] if len(key.local_address) == 4 else [bytes(16)]
    levels = [unconnected(where) for where in (key.local_address, *wildcards)]
    if key.local_address[0] in (224, 255):
        levels = [set[SocketRow]().union(*levels)]
    return next(((Quality.LISTENER, level) for level in levels if level), (Quality.NONE, set()))


@settings(max_examples=400)
@given(some_flows, some_rows)
def test_a_match_equals_a_linear_search_level_by_level(key: FlowKey, rows: list[SocketRow]) -> None:
    table = tables_of(key.protocol, bytes(16))[0]
    match = TableIndex({table: rows}).match(key)
    assert (match.quality, set(match.rows)) == plain_match(key, rows)
    assert len(match.rows) == len(set(match.rows))


@given(some_flows, some_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_their_table_do_not_matter(
    key: FlowKey, rows: list[SocketRow], random: Random
) -> None:
    table = tables_of(key.protocol, bytes(16))[0]
    tables: dict[str, list[SocketRow]] = {table: [], table.removesuffix("6"): []}
    for found in random.sample(rows, len(rows)):
        tables[random.choice([*tables])].append(found)
    one, other = TableIndex({table: rows}).match(key), TableIndex(tables).match(key)
    assert (one.quality, set(one.rows)) == (other.quality, set(other.rows))


@given(some_flows, some_rows)
def test_rows_without_a_wanted_pair_of_ports_never_match(
    key: FlowKey, rows: list[SocketRow]
) -> None:
    pairs = port_pairs_for(key)
    table = tables_of(key.protocol, bytes(16))[0]
    wanted = [found for found in rows if (found.local_port, found.remote_port) in pairs]
    assert TableIndex({table: rows}).match(key) == TableIndex({table: wanted}).match(key)
