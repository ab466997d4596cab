"""Windows of a run during which the wall clock is stepped: every byte is in a record."""

import signal
import socket
import sys
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.running import (
    Running,
    assert_conserved,
    read_records,
    running,
    stats_of,
    wait_until,
    write_config,
)

CONFIG = """
[capture]
source = "{source}"
[attribution]
ledger = "off"
[aggregation]
interval = {interval}
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
# Runs hogpipe with a clock that SIGUSR1 steps by so many seconds.
RUN = """
import signal, sys, time, hogpipe.cli
seconds, real, offsets = int(sys.argv.pop(1)), time.time_ns, [0]
time.time_ns = lambda: real() + sum(offsets) * 1_000_000_000
signal.signal(signal.SIGUSR1, lambda *_: offsets.append(seconds))
sys.argv[0] = "hogpipe"
hogpipe.cli.main()
"""
HOUR, DAY = 3600, 86_400
INTERVAL = 0.3

Window = tuple[datetime, datetime]


def hogpipe(
    where: Namespace, folder: Path, source: str, interval: float, seconds: int
) -> AbstractContextManager[Running]:
    """Run hogpipe with a clock that SIGUSR1 steps by so many seconds."""
    config = write_config(folder, CONFIG.format(source=source, interval=interval))
    words = where.enter(sys.executable, "-c", RUN, str(seconds), "-v", "run", config)
    return running(None, *words)


def windows_of(path: Path) -> list[Window]:
    """Return the windows of the records written so far."""
    if not path.exists() or not path.read_text().endswith("\n"):
        return []
    windows = [record["window"] for record in stats_of(read_records(path))]
    return [
        (datetime.fromisoformat(one["start"]), datetime.fromisoformat(one["end"]))
        for one in windows
    ]


def is_whole(window: Window) -> bool:
    return abs((window[1] - window[0]).total_seconds() - INTERVAL) < 0.002


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_a_clock_that_is_stepped_back_shortens_or_lengthens_one_window_only(
    veth: tuple[Namespace, Namespace], tmp_path: Path, source: str
) -> None:
    require_bpf()
    path = tmp_path / "records.jsonl"
    with hogpipe(veth[0], tmp_path, source, INTERVAL, -HOUR) as run:
        run.wait_for("capturing on left|counting at")
        wait_until(lambda: len(windows_of(path)) > 2)
        before = windows_of(path)[-1][1]
        run.process.send_signal(signal.SIGUSR1)

        def back() -> list[Window]:
            an_hour_ago = before - timedelta(seconds=HOUR / 2)
            return [one for one in windows_of(path) if one[1] < an_hour_ago]

        wait_until(lambda: len(back()) > 3)
        veth[0].call(lambda: exchange_with("10.77.0.2"))
        assert run.end() == 0, run.errors
    assert all(map(is_whole, back()[2:-1]))
    assert all(start <= end for start, end in windows_of(path))
    assert_conserved(read_records(path))


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_a_clock_that_is_stepped_forward_closes_a_window_of_a_day(
    veth: tuple[Namespace, Namespace], tmp_path: Path, source: str
) -> None:
    require_bpf()
    path = tmp_path / "records.jsonl"
    with hogpipe(veth[0], tmp_path, source, DAY, DAY) as run:
        run.wait_for("capturing on left|counting at")
        veth[0].call(lambda: exchange_with("10.77.0.2"))

        def has_a_window_of_the_next_day() -> bool:
            run.process.send_signal(signal.SIGUSR1)  # the first may come too early
            return bool(windows_of(path))

        wait_until(has_a_window_of_the_next_day)
        assert run.end() == 0, run.errors
    *ended, last = windows_of(path)
    assert all(end.timestamp() % DAY == 0 for _, end in ended)
    assert ended[-1][1] == last[0]
    assert_conserved(read_records(path))


def exchange_with(address: str) -> None:
    """Send a datagram to a port without a socket: traffic to count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", (address, 9))
