"""Packets of a savefile are attributed as their bytes are in the records of a run."""

import fcntl
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path
from typing import IO

import pytest
from support.captures import Captured, Pcapng, read_pcap, write_pcap
from support.frames import ethernet, ipv4, tcp, udp
from support.packet_files import PacketFileContent, WrittenPacket, read_packet_file
from support.running import hogpipe, wait_until

from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture_command import CaptureOptions, capture_packets
from hogpipe.config import load_config
from hogpipe.security.run_threads import RunThreads
from hogpipe.signals import StopSignals

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
OWNER = re.compile(r"(transmit|receive): (?:[^,]+, pid (\d+)|no owner).*; (\w+)")


async def capture(path: Path, *only: str, source: Path = GOLDEN / "trace.pcap") -> int:
    overrides = [f"aggregation.only={json.dumps(only)}", f"capture.path={json.dumps(str(source))}"]
    settings = load_config(GOLDEN / "config.toml", overrides)
    options = CaptureOptions(write=path)
    return await capture_packets(settings, RunThreads.plain(), options, StopSignals())


async def capture_golden(path: Path, *only: str) -> PacketFileContent:
    assert await capture(path, *only) == 0
    return read_packet_file(path)


def size_of(packet: WrittenPacket) -> int:
    decoded = decode_frame(1, packet.frame, packet.original_length)
    assert isinstance(decoded, DecodedFrame)
    return decoded.length


async def test_packets_add_up_to_the_records_of_a_run(tmp_path: Path) -> None:
    content = await capture_golden(tmp_path / "all.pcapng")
    by_comments: Counter[tuple[str, int | None]] = Counter()
    by_quality: Counter[str] = Counter()
    for packet in content.packets:
        for comment in packet.comments:
            found = OWNER.fullmatch(comment)
            assert found, comment
            by_comments[found[1], int(found[2]) if found[2] else None] += size_of(packet)
            by_quality[found[3]] += size_of(packet)
    in_records: Counter[tuple[str, int | None]] = Counter()
    qualities: Counter[str] = Counter()
    for line in (GOLDEN / "expected.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["type"] == "traffic":
            pid = record.get("process", {}).get("pid")
            for direction, moved in record["network"]["io"].items():
                in_records[direction, pid] += moved["bytes"]
            qualities.update(record["attribution"])
    assert by_comments == in_records
    assert by_quality == qualities


async def test_without_only_each_frame_is_written_in_order(tmp_path: Path) -> None:
    content = await capture_golden(tmp_path / "all.pcapng")
    written = [(one.time_ns, one.frame, one.original_length) for one in content.packets]
    assert written == [
        (time_us * 1000, frame, length)
        for time_us, frame, length in read_pcap(GOLDEN / "trace.pcap")
    ]


async def test_with_only_the_packets_of_a_program_are_written(tmp_path: Path) -> None:
    everything = await capture_golden(tmp_path / "all.pcapng")
    content = await capture_golden(tmp_path / "some.pcapng", "program:nginx")
    assert content.packets == [
        one for one in everything.packets if any(": nginx," in text for text in one.comments)
    ]
    others = await capture_golden(tmp_path / "others.pcapng", "!program:nginx")
    assert len(others.packets) == len(everything.packets) - len(content.packets)
    [statistics] = others.statistics
    assert statistics[1] == [
        f"{len(everything.packets)} captured, {len(others.packets)} matched, "
        f"{len(content.packets)} not matched, 0 dropped, 13 without owner, 0 given up".encode()
    ]


async def test_selectors_of_flows_select_packets(tmp_path: Path) -> None:
    everything = await capture_golden(tmp_path / "all.pcapng")
    content = await capture_golden(tmp_path / "some.pcapng", "remote:192.0.2.0/24")
    assert 0 < len(content.packets) < len(everything.packets)
    peer = re.compile(rb"\xc0\x00\x02")
    assert all(peer.search(one.frame[26:34]) for one in content.packets)


def make_savefile(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join((Pcapng().section(), *parts)))
    return path


async def test_frames_of_several_interfaces_keep_their_order_times_names_and_link_types(
    tmp_path: Path,
) -> None:
    packet = ipv4(6, tcp(), source=bytes([192, 0, 2, 10]))
    build = Pcapng()
    source = make_savefile(
        tmp_path / "two.pcapng",
        build.interface(1, "eth0", options=build.option(9, bytes([9]))),  # nanoseconds
        build.interface(101, "tun0"),
        build.enhanced(0, ethernet(packet), 5_000_000_007),
        build.enhanced(1, packet, 4_000_000),
        build.enhanced(0, ethernet(b"\0" * 28, 0x0806), 6_000_000_999, 99),
        build.enhanced(1, packet, 4_500_000),
    )
    assert await capture(tmp_path / "out.pcapng", source=source) == 0
    content = read_packet_file(tmp_path / "out.pcapng")
    assert [(one.interface, one.time_ns) for one in content.packets] == [
        ("eth0", 5_000_000_007),
        ("tun0", 4_000_000_000),
        ("eth0", 6_000_000_999),
        ("tun0", 4_500_000_000),
    ]
    assert all(content.packets[number].comments for number in (0, 1, 3))
    arp = content.packets[2]
    assert (arp.original_length, arp.comments, arp.pid) == (99, [], None)


async def test_fragments_have_the_owner_of_the_first_one(tmp_path: Path) -> None:
    server = bytes([192, 0, 2, 10])
    first = ipv4(17, udp(40_000, 53, bytes(24)), source=server, identification=7, more=True)
    later = ipv4(17, bytes(16), source=server, identification=7, offset=32)
    build = Pcapng()
    source = make_savefile(
        tmp_path / "fragments.pcapng",
        build.interface(1, "eth0"),
        build.enhanced(0, ethernet(first), 1_000_000),
        build.enhanced(0, ethernet(later), 1_000_001),
    )
    assert await capture(tmp_path / "out.pcapng", source=source) == 0
    one, other = read_packet_file(tmp_path / "out.pcapng").packets
    assert one.comments == other.comments != []


async def test_a_savefile_without_a_frame_makes_an_empty_file(tmp_path: Path) -> None:
    source = make_savefile(tmp_path / "none.pcapng", Pcapng().interface(1, "eth0"))
    assert await capture(tmp_path / "out.pcapng", source=source) == 0
    assert read_packet_file(tmp_path / "out.pcapng").packets == []


async def test_a_damaged_savefile_is_written_as_far_as_it_goes(tmp_path: Path) -> None:
    source = tmp_path / "cut.pcap"
    source.write_bytes((GOLDEN / "trace.pcap").read_bytes()[:-10])
    assert await capture(tmp_path / "out.pcapng", source=source) == 1
    assert len(read_packet_file(tmp_path / "out.pcapng").packets) == 148


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (CaptureOptions(write=Path("a"), keep=2), "--keep is for"),
        (CaptureOptions(write=Path("-"), rotate_mib=1), "cannot be rotated"),
        (CaptureOptions(write=Path("-")), "is a terminal"),
        (CaptureOptions(write=Path("a"), keep=2, rotate_every=60.0), ""),
    ],
)
def test_options_that_exclude_each_other_are_named(options: CaptureOptions, problem: str) -> None:
    found = options.find_problem(is_terminal=True)
    assert problem in found if found else not problem


def test_a_standard_output_that_is_closed_is_no_output() -> None:
    options = CaptureOptions(write=Path("-"))
    problem = options.find_problem(is_terminal=False, is_closed=True)
    assert problem == "-w -: the standard output is closed; give it a reader"
    assert CaptureOptions(write=Path("a")).find_problem(is_terminal=False, is_closed=True) is None


async def test_a_path_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    assert await capture(tmp_path / "nowhere" / "out.pcapng") == 78
    assert await capture(tmp_path) == 78
    assert await capture(tmp_path / ("x" * 300)) == 78
    assert await capture(tmp_path / ("x" * 300) / "out.pcapng") == 78


async def test_counters_of_the_kernel_are_no_source_of_packets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_config(GOLDEN / "config.toml", ['capture={source="ebpf"}'])
    options = CaptureOptions(write=tmp_path / "out.pcapng")
    assert await capture_packets(settings, RunThreads.plain(), options, StopSignals()) == 78
    assert 'with "ebpf" no packet reaches hogpipe' in caplog.text
    assert not options.write.exists()


async def test_the_file_that_is_read_is_not_replaced(tmp_path: Path) -> None:
    source = make_savefile(tmp_path / "trace.pcapng", Pcapng().interface(1, "eth0"))
    before = source.read_bytes()
    assert await capture(source, source=source) == 78
    assert source.read_bytes() == before


async def test_the_file_that_is_read_is_not_the_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_savefile(tmp_path / "trace.pcapng", Pcapng().interface(1, "eth0"))
    monkeypatch.setattr(os, "fstat", lambda _descriptor: source.stat())
    assert await capture(Path("-"), source=source) == 78


def unread(output: IO[str]) -> int:
    """Return how many bytes a pipe holds (FIONREAD, tty_ioctl(4))."""
    return int.from_bytes(fcntl.ioctl(output, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_replay_whose_reader_stalls_can_be_stopped(tmp_path: Path) -> None:
    frame = ethernet(ipv4(17, udp(payload=bytes(1400))))
    frames = [Captured(number, frame, 0) for number in range(20_000)]
    source = write_pcap(tmp_path / "long.pcap", 1, frames)
    with hogpipe(None, "-v", "capture", "--read", source, "-w", "-", stdout=subprocess.PIPE) as run:
        output = run.process.stdout
        assert output is not None
        size = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
        # The pipe takes no more; its first and its last page need not be full.
        wait_until(lambda: unread(output) >= size - 2 * mmap.PAGESIZE)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 1
    assert "its reader did not take all packets in time" in "".join(run.errors)
