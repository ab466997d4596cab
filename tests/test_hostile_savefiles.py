"""A replay of any bytes ends with records that add up, or with an error that names the problem."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import frames as build
from support.captures import Captured, Pcapng, pcap_file
from support.frame_strategies import LINK_TYPES, frames
from support.running import balance

from hogpipe import CaptureError, ConfigurationError, Settings, load_config, stream_records

CONFIG = """
[capture]
source = "savefile"
path = "trace"
[attribution]
procfs = "{procfs}"
socket_table = "procfs"
[aggregation]
interval = {interval}
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
PROCFS = Path(__file__).parent / "data" / "golden" / "proc"
DATAGRAM = build.ethernet(build.ipv4(17, build.udp(payload=bytes(50))))
SECOND_US = 1_000_000
EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
"""Seconds of a classic pcap file, which are unsigned there and signed in libpcap."""


def replay(folder: Path, file: bytes, interval: float = 1.0) -> list[dict[str, Any]]:
    """Return the records of a replay; an error of hogpipe's own may end it."""
    (folder / "trace").write_bytes(file)
    (folder / "config.toml").write_text(CONFIG.format(interval=interval, procfs=PROCFS))
    records: list[dict[str, Any]] = []

    async def read(chosen: Settings) -> None:
        async with stream_records(chosen) as stream:
            records.extend([dict(record) async for record in stream])

    try:
        asyncio.run(read(load_config(folder / "config.toml")))
    except CaptureError:
        pass  # cut, damaged, or nothing of it can be decoded: all frames before that are recorded
    except ConfigurationError as error:
        # not a capture file, and no other problem of this configuration
        if not str(error).startswith("capture.path: "):
            raise
    return records


@st.composite
def pcap_files(draw: st.DrawFn) -> tuple[bytes, int]:
    """A classic file of any variant and link type, and the lengths of its frames."""
    link_type = draw(LINK_TYPES)
    times = st.one_of(st.sampled_from(EXTREMES), st.integers(0, 2**32 - 1))
    captured = []
    for frame in draw(st.lists(frames(link_type), max_size=4)):
        time_us = draw(times) * SECOND_US + draw(st.sampled_from([0, 999_999]))
        captured.append(Captured(time_us, frame, len(frame) + draw(st.sampled_from([0, 7, 2**31]))))
    file = pcap_file(captured, link_type, order=draw(st.sampled_from("<>")))
    return file, sum(one.length for one in captured)


@st.composite
def pcapng_files(draw: st.DrawFn) -> tuple[bytes, int]:
    """A pcapng file with clocks of any kind, and the lengths of its frames."""
    blocks = Pcapng(draw(st.sampled_from("<>")))
    resolution = blocks.option(9, bytes([draw(st.integers(0, 255))]))
    offset = blocks.offset(draw(st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**31)])))
    chosen = draw(st.sampled_from([b"", resolution, offset, resolution + offset]))
    file, total = blocks.section() + blocks.interface(1, "eth0", options=chosen), 0
    ticks = st.sampled_from([0, 2**31 * SECOND_US, 2**63, 2**64 - 1, 1_700_000_000 * SECOND_US])
    for frame in draw(st.lists(frames(1), max_size=4)):
        length = len(frame) + draw(st.sampled_from([0, 7, 2**31]))
        file += blocks.enhanced(0, frame, draw(ticks), length)
        total += length or len(frame)
    return file, total


FILES = st.one_of(pcap_files(), pcapng_files())


@given(FILES, st.sampled_from([0.1, 1.0, 3600.0]))
@settings(max_examples=60)
def test_records_of_any_frames_add_up_to_no_more_than_the_frames_have(
    tmp_path_factory: pytest.TempPathFactory, built: tuple[bytes, int], interval: float
) -> None:
    file, total = built
    records = replay(tmp_path_factory.mktemp("run"), file, interval)
    recorded, counted = balance(records)
    assert recorded == counted
    captured = sum(one["capture"]["bytes"] for one in records if one["type"] == "stats")
    assert captured <= total


@given(FILES, st.binary(min_size=1, max_size=8), st.data())
@settings(max_examples=60)
def test_a_changed_or_cut_file_ends_with_records_that_add_up(
    tmp_path_factory: pytest.TempPathFactory,
    built: tuple[bytes, int],
    change: bytes,
    data: st.DataObject,
) -> None:
    file = built[0]
    at = data.draw(st.integers(0, len(file)))
    file = file[:at] + change + file[at + len(change) :]
    file = file[: data.draw(st.sampled_from([None, len(file) // 2, -1, -5]))]
    recorded, counted = balance(replay(tmp_path_factory.mktemp("run"), file))
    assert recorded == counted


@given(st.binary(max_size=300))
@settings(max_examples=30)
def test_any_bytes_end_a_replay_with_an_error_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, file: bytes
) -> None:
    replay(tmp_path_factory.mktemp("run"), file)


@pytest.mark.parametrize("cut_off", [0, 5])
@pytest.mark.parametrize("order", ["<", ">"])
def test_times_after_2038_are_recorded(tmp_path: Path, order: str, cut_off: int) -> None:
    frames_at = [Captured(second * SECOND_US, DATAGRAM) for second in EXTREMES]
    file = pcap_file([*frames_at, frames_at[-1]], order=order)
    records = replay(tmp_path, file[: len(file) - cut_off])
    starts = [one["window"]["start"] for one in records if one["type"] == "stats"]
    assert starts == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:01.000Z",
        "2038-01-19T03:14:07.000Z",
        "2038-01-19T03:14:08.000Z",
        "2106-02-07T06:28:15.000Z",
    ]
