"""Owners by a recorded /proc in columns: those of a lookup of each flow, to the byte."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import Captured, write_pcap
from support.fake_proc import BOOT_TIME, CLOSE, ESTABLISHED, LISTEN, FakeProc, format_row
from support.frames import echo, ethernet, ipv4, tcp, udp
from support.resolving import attribute
from support.running import write_config

from hogpipe import stream_records
from hogpipe.attribution.procfs.matching import NO_MATCH, Match
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.procfs.recorded_owners import RecordedOwners
from hogpipe.config import load_config
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import ABSENT
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Quality, User

TCP, UDP, ICMP = 6, 17, 1
LOCAL, OTHER = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 9])
PEERS = [bytes([10, 0, 0, number]) for number in (2, 3)]
ANY = (bytes(4), 0)
PORTS, INODES = (80, 443, 5000), (11, 12, 13)
TICKS = 100
"""Of a second, of the start times of processes."""


@st.composite
def socket_rows(draw: st.DrawFn) -> list[bytes]:
    """Rows of tcp or udp; none is there twice."""
    inodes = draw(st.permutations([0, 0, *INODES]))
    return [draw(socket_row(inode)) for inode in inodes[: draw(st.integers(0, len(inodes)))]]


@st.composite
def socket_row(draw: st.DrawFn, inode: int) -> bytes:
    ports = st.sampled_from(PORTS)
    local = draw(st.sampled_from([LOCAL, OTHER, ANY[0]])), draw(ports)
    state = draw(st.sampled_from([LISTEN, ESTABLISHED, CLOSE]))
    remote = (draw(st.sampled_from(PEERS)), draw(ports)) if draw(st.booleans()) else ANY
    uid = draw(st.sampled_from([0, 7]))
    return format_row(local, remote, inode=inode, state=state, uid=uid)


HELD = st.lists(st.sampled_from(INODES), max_size=2)
TABLES = st.fixed_dictionaries({"tcp": socket_rows(), "udp": socket_rows()})
PROCESSES = st.lists(st.tuples(st.integers(0, 3), HELD), max_size=3)
"""When each starts, in seconds, and the inodes that it holds."""


def write_proc(
    folder: Path, tables: Mapping[str, Sequence[bytes]], processes: Sequence[tuple[int, list[int]]]
) -> None:
    proc = FakeProc(folder)
    for name, rows in tables.items():
        proc.table(name, *rows)
    for number, (second, inodes) in enumerate(processes):
        held = dict(enumerate(inodes, 3))
        start = TICKS * second + TICKS // 2
        proc.process(100 + number, start=start, parent=100, command=b"a", sockets=held)
    leaves = [f"|-- 10.0.0.{address[3]}\n /32 host LOCAL\n" for address in (LOCAL, OTHER)]
    (folder / "net" / "fib_trie").write_text("".join(leaves))


def find(owners: RecordedOwners, *flows: FlowKey) -> list[Attribution | None]:
    """Return the attribution of each flow, None for one that is to be looked up."""
    packer = FlowPacker()
    numbers = owners.find(packer.pack(flows), packer).tolist()
    return [None if number == ABSENT else owners.attribution(number) for number in numbers]


FLOWS = [
    FlowKey(protocol, local, local_port, peer, remote_port, "eth0")
    for protocol in (TCP, UDP)
    for local in (LOCAL, OTHER)
    for local_port in PORTS
    for peer in PEERS
    for remote_port in PORTS
]


@settings(max_examples=40)
@given(TABLES, PROCESSES)
def test_each_flow_has_the_owner_that_its_lookup_finds(
    tables: dict[str, list[bytes]], processes: list[tuple[int, list[int]]]
) -> None:
    with TemporaryDirectory() as name:
        write_proc(Path(name), tables, processes)
        looked_up = attribute(ProcfsResolver(Path(name)), FLOWS)
        recorded = ProcfsResolver(Path(name)).recorded
        found = find(recorded, *FLOWS[::2]) + find(recorded, *FLOWS[1::2])
    # Sockets of several users name nobody: such a flow has no resolution.
    assert found == [looked_up.get(flow, UNATTRIBUTED) for flow in FLOWS[::2] + FLOWS[1::2]]


CONFIG = """
[capture]
source = "savefile"
path = "trace.pcap"
[attribution]
procfs = "proc"
[aggregation]
interval = 1.0
"""


class Packet(NamedTuple):
    tenth: int
    """Of a second."""
    protocol: int
    is_transmitted: bool
    local: tuple[bytes, int]
    peer: tuple[bytes, int]
    flags: int
    """Of TCP."""

    def frame(self) -> bytes:
        ends = (self.local, self.peer) if self.is_transmitted else (self.peer, self.local)
        (source, destination), ports = zip(*ends, strict=True)
        if self.protocol == TCP:
            segment = tcp(*ports, self.flags)
        else:
            segment = udp(*ports) if self.protocol == UDP else echo(8, self.local[1])
        return ethernet(ipv4(self.protocol, segment, source=source, destination=destination))


PACKETS = st.lists(
    st.builds(
        Packet,
        st.integers(0, 30),
        st.sampled_from([TCP, TCP, UDP, ICMP]),
        st.booleans(),
        st.tuples(st.sampled_from([LOCAL, OTHER]), st.sampled_from(PORTS)),
        st.tuples(st.sampled_from(PEERS), st.sampled_from(PORTS)),
        st.sampled_from([0x02, 0x10, 0x10]),
    ),
    min_size=1,
    max_size=40,
)


async def replay(config: Path, dimension: str) -> list[dict[str, Any]]:
    read = load_config(config, [f'aggregation.group_by=["process", "{dimension}"]'])
    async with stream_records(msgspec.structs.replace(read, sinks=()), host="recorded") as records:
        return [msgspec.to_builtins(record) async for record in records]


WORK = {"batches", "table_reads", "fd_scans", "fds_read", "deferred", "ambiguous"}
"""What the stats record says of the lookups themselves."""


def as_lines(records: Sequence[dict[str, Any]]) -> list[bytes]:
    for record in records:
        if record["type"] == "stats":
            work = record["attribution"]
            record["attribution"] = {key: work[key] for key in work.keys() - WORK}
    return [orjson.dumps(record, option=orjson.OPT_SORT_KEYS) for record in records]


@settings(max_examples=25)
@given(TABLES, PROCESSES, PACKETS, st.sampled_from(["flow", "port", "remote"]))
def test_a_replay_gives_the_records_that_lookups_give(
    tables: dict[str, list[bytes]],
    processes: list[tuple[int, list[int]]],
    packets: list[Packet],
    dimension: str,
) -> None:
    frames = [
        Captured(BOOT_TIME * 1_000_000 + packet.tenth * 100_000, packet.frame())
        for packet in sorted(packets)
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "proc").mkdir()
        write_proc(folder / "proc", tables, processes)
        write_pcap(folder / "trace.pcap", 1, frames)
        config = write_config(folder, CONFIG)
        in_columns = asyncio.run(replay(config, dimension))

        def find_nothing(_self: RecordedOwners, words: Any, _packer: FlowPacker) -> Any:
            return np.full(len(words), ABSENT)

        with patch.object(RecordedOwners, "find", find_nothing):
            looked_up = asyncio.run(replay(config, dimension))
    assert as_lines(in_columns) == as_lines(looked_up)


USER = Attribution(Quality.NONE, user=User(7))


class Lookups:
    """Answers all matches alike."""

    def __init__(self, answer: Attribution | OSError) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def read_tables(self) -> dict[str, list[SocketRow]]:
        return {"udp": [SocketRow(bytes(4), port, bytes(4), 0, CLOSE, 7, port) for port in PORTS]}

    def attribute(self, matches: Mapping[FlowKey, Match]) -> dict[FlowKey, Attribution]:
        assert all(match is not NO_MATCH for match in matches.values())
        self.asked.append(len(matches))
        if isinstance(self.answer, OSError):
            raise self.answer
        return dict.fromkeys(matches, self.answer)


def flow(port: int, peer: bytes = PEERS[0]) -> FlowKey:
    return FlowKey(UDP, LOCAL, port, peer, 9, "eth0")


def test_what_cannot_be_looked_up_is_left_to_the_stage_and_asked_about_again() -> None:
    lookups = Lookups(OSError(24, "too many open files"))
    owners = RecordedOwners(lookups.read_tables, lookups.attribute)
    assert find(owners, flow(80), flow(1)) == [None, UNATTRIBUTED]
    lookups.answer = USER
    assert find(owners, flow(443), flow(80, PEERS[1])) == [USER, USER]
    assert find(owners, *map(flow, (80, 443)), flow(1)) == [USER, USER, UNATTRIBUTED]
    assert lookups.asked == [1, 2]


def test_tables_that_cannot_be_read_are_read_again_with_the_next_flows() -> None:
    lookups, refusals = Lookups(USER), [OSError(24, "too many open files")]

    def read() -> dict[str, list[SocketRow]]:
        if refusals:
            raise refusals.pop()
        return lookups.read_tables()

    owners = RecordedOwners(read, lookups.attribute)
    assert find(owners, flow(80), flow(1)) == [None, None]
    assert find(owners, flow(80), flow(1)) == [USER, UNATTRIBUTED]


def test_all_fds_are_read_once_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe.attribution.procfs.fd_cache._MAX_FDS_READ", 2)
    held = {inode: 10 + inode for inode in range(3, 9)}
    rows = [format_row((LOCAL, inode), ANY, inode=inode, state=CLOSE) for inode in held.values()]
    write_proc(
        tmp_path, {"udp": rows}, [(0, list(held.values())[:3]), (0, list(held.values())[3:])]
    )
    resolver = ProcfsResolver(tmp_path)
    found = find(resolver.recorded, *(flow(inode) for inode in held.values()))
    assert [one and one.process and one.process.pid for one in found] == [100] * 3 + [101] * 3
    read = resolver.counts().fds_read
    assert find(resolver.recorded, flow(13), flow(14, PEERS[1]))[0] == found[0]
    assert resolver.counts().fds_read == read
