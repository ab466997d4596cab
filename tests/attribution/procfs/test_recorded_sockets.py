"""Flows matched to recorded tables in columns: as each alone, whatever tables and flows are."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import CLOSE, FakeProc, format_row

from hogpipe.attribution.procfs.matching import NO_MATCH, Match, TableIndex
from hogpipe.attribution.procfs.recorded_sockets import NO_SOCKET, RecordedSockets, read_tables
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import ABSENT
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import OWN_NAMESPACE, FlowKey

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


def find_matches(sockets: RecordedSockets, *batches: list[FlowKey]) -> list[Match | None]:
    """Return the match of each flow by its class, None for one without a class."""
    packer = FlowPacker()
    packer.namespaces.number(None)  # that of hogpipe need not be the first one
    matches, found = [NO_MATCH], list[Match | None]()
    for flows in batches:
        classes, begun = sockets.find(packer.pack(flows), packer)
        assert begun.keys() <= set(flows)
        matches += begun.values()
        found += [None if number == ABSENT else matches[number] for number in classes.tolist()]
    return found


@given(tables(), st.lists(st.lists(flows(), min_size=1, max_size=20), min_size=1, max_size=3))
def test_each_flow_matches_as_it_does_alone(
    rows: dict[str, list[SocketRow]], batches: list[list[FlowKey]]
) -> None:
    index = TableIndex(rows)
    keys = [flow for batch in batches for flow in batch]
    for key, match in zip(keys, find_matches(RecordedSockets(rows), *batches), strict=True):
        assert (match is None) == (key.namespace != OWN_NAMESPACE)
        if match is not None:
            alone = index.match(key)
            assert match.rows == alone.rows
            assert not match.rows or match.quality == alone.quality


@given(flows(), tables())
def test_a_flow_that_shares_nothing_with_any_socket_is_not_matched_at_all(
    key: FlowKey, rows: dict[str, list[SocketRow]]
) -> None:
    ports = {row.local_port for some in rows.values() for row in some}
    shares = {key.local_port, key.protocol} & ports
    if key.namespace == OWN_NAMESPACE and not shares:
        packer = FlowPacker()
        classes, begun = RecordedSockets(rows).find(packer.pack([key]), packer)
        assert (classes.tolist(), begun) == ([NO_SOCKET], {})


def test_all_peers_of_a_socket_are_of_one_class() -> None:
    """So that a flood of peers, and of the addresses of groups, takes neither time nor memory."""
    row = SocketRow(bytes(4), 53, bytes(4), 0, CLOSE, 0, 11)
    ping = SocketRow(bytes(4), 7, bytes(4), 0, CLOSE, 0, 12)
    sockets, packer = RecordedSockets({"udp": [row], "icmp": [ping]}), FlowPacker()
    for start in (0, 500):
        peers = [bytes([10, 9, *divmod(number, 256)]) for number in range(start, start + 500)]
        groups = [bytes([239, 9, *peer[2:]]) for peer in peers]
        datagrams = [FlowKey(UDP, LOCAL, 53, peer, 9, "eth0") for peer in peers]
        datagrams += [FlowKey(UDP, group, 53, REMOTE, 9, "eth0") for group in groups]
        echoes = [FlowKey(ICMP, LOCAL, 7, peer, 0, "eth0") for peer in peers]
        classes, begun = sockets.find(packer.pack(datagrams + echoes), packer)
        assert classes.tolist() == [1] * 500 + [2] * 500 + [3] * 500
        assert [match.rows for match in begun.values()] == (
            [] if start else [(row,), (row,), (ping,)]
        )


def test_tables_are_read_once_and_counted(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.table("tcp", format_row((LOCAL, 80), ANY, inode=11), b"malformed")
    proc.table("raw6")
    counts = ReadCounts()
    rows = read_tables(Procfs(tmp_path), counts)
    assert {name: len(some) for name, some in rows.items()} == {"tcp": 1, "raw6": 0}
    assert (counts.procfs, counts.rows_skipped) == (2, 1)


def test_a_socket_that_a_table_has_twice_is_matched_at_the_later_place(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    ends = (LOCAL, 80), (LOCAL, 81)
    proc.table("udp", *(format_row(end, ANY, inode=11, state=CLOSE) for end in ends))
    sockets = RecordedSockets(read_tables(Procfs(tmp_path), ReadCounts()))
    both = [FlowKey(UDP, LOCAL, port, REMOTE, 9, "eth0") for port in (80, 81)]
    assert [match and len(match.rows) for match in find_matches(sockets, both)] == [0, 1]
