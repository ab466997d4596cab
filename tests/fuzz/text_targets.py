"""Targets: texts of /proc, names that processes choose, and recorded lines."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import orjson
from fuzz.target import Target
from support.fake_proc import format_row, format_table, format_time_wait

from hogpipe.delivery.spool.framing import Head, decode_payload, encode_window, parse_head
from hogpipe.enrichment.cgroup_paths import parse_cgroup, parse_v2_of, parse_v2_path
from hogpipe.history.packing import DamagedContentError, unpack_records, unpack_window
from hogpipe.linux.cgroups import parse_cgroup_mounts
from hogpipe.linux.procfs import decode_text, parse_stat
from hogpipe.linux.procfs_addresses import parse_local_addresses
from hogpipe.linux.socket_table import parse_table
from hogpipe.text import printable
from hogpipe.top.record_windows import WindowParser, build_window
from hogpipe.top.traffic_table import TrafficTable

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
_HERE, _THERE = (bytes([10, 0, 0, 1]), 4000), (bytes([10, 0, 0, 2]), 80)


def check_socket_table(data: bytes) -> None:
    """Each line is a row or is counted, but for repeated sockets; wanted rows have wanted ports."""
    lines = sum(map(bool, data.split(b"\n")[1:]))
    pairs = {(4000, 80), (0, 0)}
    for rows, skipped in (parse_table(data), parse_table(data, pairs)):
        held = [row.inode for row in rows if row.inode]
        assert len(held) == len(set(held))
        assert len(rows) + skipped <= lines
    assert {(row.local_port, row.remote_port) for row in parse_table(data, pairs)[0]} <= pairs


def check_stat(data: bytes) -> None:
    """A stat parses to a command without undecoded bytes, or it is malformed."""
    try:
        stat = parse_stat(data)
    except ValueError:
        return
    assert_text(stat.command)


def check_cgroup(data: bytes) -> None:
    """Any text names groups that are parts of it."""
    text = decode_text(data)
    for names in (
        parse_cgroup(text),
        parse_v2_path(text, only_hierarchy=True),
        parse_v2_path(text, only_hierarchy=False),
    ):
        for name in (names.cgroup, names.unit, names.container, names.pod):
            if name is not None:
                assert_text(name)
    path = parse_v2_of(text)
    assert path is None or path in text


def check_mountinfo(data: bytes) -> None:
    """Any text has mounts whose devices are numbers of devices."""
    for mount in parse_cgroup_mounts(data):
        assert mount.device >= 0
        assert isinstance(mount.mount_point, str)


def check_addresses(data: bytes) -> None:
    """Any pair of texts has addresses of the lengths that addresses have."""
    trie, _, inet6 = data.decode("ascii", "replace").partition("\0")
    found = parse_local_addresses(trie, inet6)
    assert {len(one) for one in found.addresses} <= {4, 16}
    assert all(network & mask == network for network, mask in found.prefixes)


def check_name(data: bytes) -> None:
    """A name is valid UTF-8 in JSON, and printable on a terminal; what is printable stays."""
    name = decode_text(data)
    assert_text(name)
    shown = printable(name)
    assert shown.isprintable()
    assert printable(shown) == shown


def assert_text(text: str) -> None:
    """A record can hold the text."""
    assert orjson.loads(orjson.dumps(text)) == text


def check_record_lines(data: bytes) -> None:
    """Each line is of a window or is counted; the table has the sums of the windows."""
    lines, parser, table = data.split(b"\n"), WindowParser(), TrafficTable()
    windows = [*parser.parse(lines), *parser.finish()]
    expected = np.zeros(4, np.int64)
    for window in windows:
        table.append(build_window(table, window))
        table.advance()
        for entry in window.entries:
            transmit, receive, *packets = entry.counters
            expected += np.array([transmit, receive, *packets], np.int64)
    entries = sum(len(window.entries) for window in windows)
    assert entries + parser.foreign_lines <= len(lines)
    assert table.traffic.sum(axis=1).tolist() == expected.tolist()


def check_spool(data: bytes) -> None:
    """No head and no payload raise, and what decodes is encoded to the same records."""
    line, _, payload = data.partition(b"\n")
    parse_head(line + b"\n")
    head = Head(payload.count(b"\n"), len(payload), crc32(payload))
    records = decode_payload(head, payload)
    if records:
        again = encode_window(records)
        encoded = parse_head(again[: again.index(b"\n") + 1])
        assert encoded is not None
        assert decode_payload(encoded, again[again.index(b"\n") + 1 :]) == records


def check_history(data: bytes) -> None:
    """The content of a window of a history is decoded, or is damaged."""
    for packed in (data, zlib.compress(data, 1)):
        try:
            unpack_window(packed)
            unpack_records(packed, "run", "host", lambda _member, _group: {})
        except DamagedContentError:
            continue


def seed_tables() -> Iterator[bytes]:
    rows = [
        format_row(_HERE, _THERE, inode=7),
        format_row(_HERE, (bytes(4), 0), inode=8, state=10),
        format_time_wait(_HERE, _THERE),
        format_row((bytes(16), 4000), (bytes(16), 80), inode=9),
    ]
    yield format_table(rows)
    yield from ((GOLDEN / "proc" / "net" / name).read_bytes()[:2000] for name in ("tcp", "udp6"))


def seed_lines() -> Iterator[bytes]:
    lines = (GOLDEN / "expected.jsonl").read_bytes().splitlines()
    yield from lines
    yield b"\n".join(lines)
    yield b'{"type":"traffic","x":' + b"[" * 1500


_MOUNTS = (
    b"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    b"31 23 0:26 /../.. /host\\040cgroup rw - cgroup2 cgroup2 rw\n"
)
_CONTAINER = b"0::/kubepods-besteffort-pod" + b"1" * 32 + b".slice/cri-containerd-" + b"a" * 64
_CONTENT = {
    "timestamp": "2026-11-22T07:00:10.000Z",
    "window": {"start": "2026-11-22T07:00:09.000Z", "start_unix": 1.0, "end_unix": 2.0},
    "sequence": [1],
    "member": [1],
    "group": [1],
    "counters": {"transmit_bytes": [9], "flows": [1]},
    "stats": [{"type": "stats", "sequence": 2}],
}

TEXT_TARGETS = {
    "socket-table": Target(check_socket_table, tuple(seed_tables())),
    "stat": Target(
        check_stat,
        (
            b"42 (a) R 1 (b) S 1 42 42 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 99 0 0 0 0 0 140 0",
            (GOLDEN / "proc" / "15045" / "stat").read_bytes(),
        ),
    ),
    "cgroup": Target(
        check_cgroup,
        (
            b"0::/system.slice/nginx.service\n",
            b"12:cpu:/docker/" + b"0" * 64 + b"\n1:name=systemd:/x\n",
            _CONTAINER + b".scope\n",
            b"0::/machine.slice/machine-a\\x2db.scope\n",
            b"0::/lxc.payload.one/garden/" + b"0" * 8 + b"-0000" * 4,
        ),
    ),
    "mountinfo": Target(check_mountinfo, (_MOUNTS,)),
    "addresses": Target(
        check_addresses,
        (
            b"Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n"
            b"     |-- 10.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.255\n"
            b"        /32 link BROADCAST\n\0" + b"0" * 31 + b"1 01 80 10 80 lo\n",
        ),
    ),
    "name": Target(check_name, (b"nginx", b"\x1b[2J\n\xff", "\u202e\ud7ff\u2028".encode())),
    "record-lines": Target(check_record_lines, tuple(seed_lines())),
    "spool": Target(
        check_spool,
        tuple(encode_window([orjson.loads(line)]) for line in list(seed_lines())[:3]),
    ),
    "history": Target(check_history, (json.dumps(_CONTENT).encode(),)),
}
