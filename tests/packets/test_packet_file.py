"""The file of packets: whole blocks, rotation, reopening, and what other users may place there."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.namespaces import require
from support.packet_files import read_packet_file
from support.traffic import NGINX, exact

from hogpipe.capture.frame_tap import TappedInterface
from hogpipe.packets import packet_file
from hogpipe.packets.packet_buffer import Packet
from hogpipe.packets.packet_counts import PacketCounts
from hogpipe.packets.packet_file import FileOptions, PacketFile
from hogpipe.sinks.jsonl.rotation import RotationRule

SECOND = 1_000_000_000
START = 1_795_330_800 * SECOND


def make_packet(seconds: float = 0.0, interface: int = 0, size: int = 60) -> Packet:
    packet = Packet(interface, START + round(seconds * SECOND), bytes(size), size)
    packet.transmitter = exact(NGINX)
    return packet


def make_file(
    path: Path,
    rotation: RotationRule | None = None,
    *,
    interfaces: int = 1,
    keep: int | None = None,
) -> PacketFile:
    known = [TappedInterface(f"eth{number}", 1) for number in range(interfaces)]
    options = FileOptions(
        path=path, snaplen=262_144, rotation=rotation or RotationRule(), keep=keep
    )
    file = PacketFile(options, known)
    file.open()
    return file


def test_a_file_has_its_interfaces_packets_and_statistics(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    path.write_bytes(b"what was there before is replaced")
    file = make_file(path, interfaces=2)
    file.write([make_packet(1), make_packet(2, 1)], [])
    file.close([PacketCounts(captured=5, matched=1), PacketCounts()])
    content = read_packet_file(path)
    assert content.interfaces == ["eth0", "eth1"]
    assert [one.interface for one in content.packets] == ["eth0", "eth1"]
    assert {one.pid for one in content.packets} == {NGINX.pid}
    assert [one[1][0].split(b",")[0] for one in content.statistics] == [
        b"5 captured",
        b"0 captured",
    ]


def test_a_new_file_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    make_file(path).close([])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_interface_that_comes_later_is_described_before_its_packet(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    known = [TappedInterface("eth0", 1)]
    file = PacketFile(FileOptions(path=path), known)
    file.open()
    file.write([make_packet()], [])
    known.append(TappedInterface("tun0", 12))
    file.write([make_packet(1, 1)], [])
    file.close([])
    assert [one.interface for one in read_packet_file(path).packets] == ["eth0", "tun0"]


def test_what_is_written_can_be_read_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    file = make_file(path)
    file.write([make_packet(), make_packet(1)], [])
    assert len(read_packet_file(path).packets) == 2
    file.close([])


def test_a_full_file_is_closed_and_old_ones_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    file = make_file(path, RotationRule(most_bytes=1000), keep=2)
    for second in range(30):
        file.write([make_packet(second)], [PacketCounts()])
    file.close([PacketCounts()])
    files = [path, *sorted(tmp_path.glob("trace.pcapng-*"))]
    assert len(files) == 3
    for one in files:
        content = read_packet_file(one)
        assert content.sections == len(content.statistics) == 1
        assert one.stat().st_size < 2000
    assert read_packet_file(path).packets[-1].time_ns == START + 29 * SECOND


def test_a_file_ends_at_a_multiple_of_a_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    file = make_file(path, RotationRule(every=10.0))
    file.write([make_packet(second) for second in range(25)], [])
    file.close([])
    first, second = sorted(tmp_path.glob("trace.pcapng-*"))
    assert [len(read_packet_file(one).packets) for one in (first, second, path)] == [10, 10, 5]


def test_a_file_that_was_moved_is_ended_and_another_one_begins(tmp_path: Path) -> None:
    path, moved = tmp_path / "trace.pcapng", tmp_path / "moved.pcapng"
    file = make_file(path)
    file.write([make_packet()], [])
    file.reopen([])
    assert read_packet_file(path).sections == 1
    path.rename(moved)
    file.reopen([PacketCounts(captured=1)])
    file.write([make_packet(1)], [])
    file.close([])
    assert len(read_packet_file(moved).statistics) == 1
    assert len(read_packet_file(path).packets) == 1


def test_a_write_that_fails_leaves_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.pcapng"
    file = make_file(path)
    file.write([make_packet()], [])
    written: list[int] = []

    def fill_up(write: Callable[[int, memoryview], int], descriptor: int, data: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(write(descriptor, data[:500]))
        return written[0]

    write = os.write
    monkeypatch.setattr(packet_file.os, "write", lambda *words: fill_up(write, *words))
    with pytest.raises(OSError, match="No space"):
        file.write([make_packet(second) for second in range(1, 9)], [])
    assert 1 < file.written < 5
    assert len(read_packet_file(path).packets) == file.written


def test_the_file_of_another_capture_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    file = make_file(path)
    file.write([make_packet()], [])
    with pytest.raises(OSError, match="another run"):
        make_file(path)
    file.close([])
    assert len(read_packet_file(path).packets) == 1


def test_a_link_that_another_user_placed_is_not_followed(tmp_path: Path) -> None:
    require()
    victim, path = tmp_path / "victim", tmp_path / "shared" / "trace.pcapng"
    victim.write_bytes(b"secret")
    path.parent.mkdir(mode=0o777)
    path.parent.chmod(0o1777)
    path.symlink_to(victim)
    os.chown(path, 12_345, 12_345, follow_symlinks=False)
    with pytest.raises(PermissionError, match="a symbolic link of"):
        make_file(path)
    assert victim.read_bytes() == b"secret"
