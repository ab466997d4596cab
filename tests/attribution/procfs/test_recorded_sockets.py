"""Flows that recorded tables rule out have no socket there, whatever tables and flows are."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import CLOSE, ESTABLISHED, LISTEN, FakeProc, format_row
from support.resolving import attribute

from hogpipe.attribution.procfs.matching import TableIndex
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.procfs.recorded_sockets import RecordedSockets, read_tables
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import OWN_NAMESPACE, UNATTRIBUTED, FlowKey

TCP, UDP, UDPLITE, ICMP, ICMPV6, OSPF, SCTP = 6, 17, 136, 1, 58, 89, 132
TABLES = [f"{name}{end}" for name in ("tcp", "udp", "udplite", "raw", "icmp") for end in ("", "6")]
LOCAL, REMOTE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
ANY = bytes(4), 0
MAPPED = bytes(10) + b"\xff\xff"


def addresses(size: int) -> st.SearchStrategy[bytes]:
    others = [bytes(size), b"\xff" * size, bytes([224]) + bytes(size - 1)]
    if size == 4:
        return st.sampled_from([LOCAL, REMOTE, *others])
    same_words = LOCAL + bytes(12)  # the words of an IPv4 address are padded alike
    return st.sampled_from(
        [MAPPED + LOCAL, MAPPED + REMOTE, MAPPED + bytes(4), same_words, *others]
    )


PORTS = st.sampled_from([0, 1, 6, 58, 89, 132, 256, 5000, 65_535])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[SocketRow]]:
    found = {}
    for name in draw(st.sets(st.sampled_from(TABLES))):
        size = 16 if name.endswith("6") else 4
        row = st.builds(
            SocketRow,
            addresses(size),
            PORTS,
            addresses(size),
            PORTS,
            st.integers(1, 13),
            st.integers(0, 1),
            st.integers(0, 3),
        )
        found[name] = draw(st.lists(row, max_size=4))
    return found


@st.composite
def flows(draw: st.DrawFn) -> FlowKey:
    size = draw(st.sampled_from([4, 16]))
    return FlowKey(
        draw(st.sampled_from([TCP, UDP, UDPLITE, ICMP, ICMPV6, OSPF, SCTP, 0, 255])),
        draw(addresses(size)),
        draw(PORTS),
        draw(addresses(size)),
        draw(PORTS),
        draw(st.sampled_from(["eth0", "eth1", ""])),
        draw(st.sampled_from([OWN_NAMESPACE, None, 4_026_531_992])),
    )


def rule_out(sockets: RecordedSockets, *keys: FlowKey) -> list[bool]:
    packer = FlowPacker()
    packer.namespaces.number(None)  # that of hogpipe need not be the first one
    return list(map(bool, sockets.rule_out(packer.pack(keys), packer)))


@given(tables(), st.lists(flows(), min_size=1, max_size=20))
def test_no_socket_matches_a_flow_that_is_ruled_out(
    rows: dict[str, list[SocketRow]], keys: list[FlowKey]
) -> None:
    index = TableIndex(rows)
    for key, is_out in zip(keys, rule_out(RecordedSockets(rows), *keys), strict=True):
        assert not (is_out and index.match(key).rows)
        assert not (is_out and key.namespace != OWN_NAMESPACE)


@given(flows(), tables())
def test_a_flow_that_shares_nothing_with_any_socket_is_ruled_out(
    key: FlowKey, rows: dict[str, list[SocketRow]]
) -> None:
    ports = {row.local_port for some in rows.values() for row in some}
    shares = {key.local_port, key.protocol} & ports
    if key.namespace == OWN_NAMESPACE and not shares:
        assert rule_out(RecordedSockets(rows), key) == [True]


def make_flow(protocol: int, local_port: int, remote_port: int) -> FlowKey:
    return FlowKey(protocol, LOCAL, local_port, REMOTE, remote_port, "eth0")


def test_a_resolver_finds_no_owner_of_flows_that_it_rules_out(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.table(
        "tcp",
        format_row((LOCAL, 80), ANY, inode=11, state=LISTEN),
        format_row((LOCAL, 5000), (REMOTE, 443), inode=12, state=ESTABLISHED),
    )
    proc.table("udp", format_row((ANY[0], 53), ANY, inode=13, state=CLOSE))
    proc.process(7, sockets={3: 11, 4: 12, 5: 13})
    resolver = ProcfsResolver(tmp_path)
    owned = [make_flow(TCP, 80, 9), make_flow(TCP, 5000, 443), make_flow(UDP, 53, 9)]
    others = [make_flow(TCP, 53, 9), make_flow(TCP, 5000, 80), make_flow(UDP, 5000, 443)]
    packer = FlowPacker()
    ruled_out = resolver.rule_out(packer.pack(owned + others), packer)
    assert ruled_out.tolist() == [False] * 3 + [True] * 3
    found = attribute(resolver, owned + others)
    assert [found[flow] == UNATTRIBUTED for flow in owned + others] == ruled_out.tolist()
    assert [resolver.infer(flow) for flow in others] == [UNATTRIBUTED] * 3


def test_tables_are_read_once_and_counted(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.table("tcp", format_row((LOCAL, 80), ANY, inode=11), b"malformed")
    proc.table("raw6")
    counts = ReadCounts()
    rows = read_tables(Procfs(tmp_path), counts)
    assert {name: len(some) for name, some in rows.items()} == {"tcp": 1, "raw6": 0}
    assert (counts.procfs, counts.rows_skipped) == (2, 1)


def test_a_socket_that_a_table_has_twice_rules_out_neither_place(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    ends = (LOCAL, 80), (LOCAL, 81)
    proc.table("udp", *(format_row(end, ANY, inode=11) for end in ends))
    rows = read_tables(Procfs(tmp_path), ReadCounts())
    both = make_flow(UDP, 80, 9), make_flow(UDP, 81, 9)
    assert rule_out(RecordedSockets(rows), *both) == [False, False]
