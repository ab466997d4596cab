"""A flood that fills the default bounds: a stop, the sums, and the memory a minute later.

The flood is as fast as two senders in Python are, some tens of thousands of new flows a second.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import flood
from support.namespaces import Namespace, require
from support.running import (
    Running,
    hogpipe,
    imbalances,
    read_records,
    running,
    stats_of,
    write_config,
)

FLOWS = 600_000
MEMORY_BACK_MIB = 30
MEMORY_BACK_SECONDS = 60
STOP_CPU_SECONDS = 2.0
PROGRAM = [sys.executable, flood.__file__]


def configure(folder: Path, way: str) -> Path:
    capture = 'source = "ebpf"' if way == "ebpf" else 'interfaces = ["left"]'
    ledger = 'ledger = "off"' if way == "off" else ""
    return write_config(
        folder,
        f"""
        [capture]
        {capture}
        [attribution]
        {ledger}
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


@contextmanager
def flooding(veth: tuple[Namespace, Namespace], port: str) -> Iterator[list[Running]]:
    """Flood `left` from `right`, one half to a server."""
    left, right = veth
    (link,) = json.loads(left.ip("-j", "link", "show", "left"))
    words = [*PROGRAM, "send", "right", link["address"], "10.77.0.1"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(right, *words, one, str(FLOWS // 2))) for one in (port, "9")
        ]


def read_resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process; also of one that ended and is not waited for yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def count_captured(path: Path) -> int:
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return sum(one["capture"]["packets"] for one in stats_of([json.loads(line) for line in lines]))


@pytest.mark.parametrize("way", ["off", "ledger", "ebpf"])
def test_a_flood_costs_neither_bytes_nor_the_time_of_a_stop_nor_memory_for_long(
    veth: tuple[Namespace, Namespace], tmp_path: Path, way: str
) -> None:
    require("ip")
    path = tmp_path / "records.jsonl"
    with ExitStack() as stack:
        server = stack.enter_context(
            running(veth[0], *PROGRAM, "receive", "10.77.0.1", stdout=subprocess.PIPE)
        )
        assert server.process.stdout is not None
        port = server.process.stdout.readline().strip()
        run = stack.enter_context(hogpipe(veth[0], "-v", "run", configure(tmp_path, way)))
        pid = run.process.pid
        run.wait_for("owners come from")
        wait_for(lambda: count_captured(path) > 0 or path.exists(), 30)
        before = read_resident_mib(pid)
        with flooding(veth, port) as senders:
            for sender in senders:
                assert sender.process.wait(300) == 0
        wait_for(lambda: read_resident_mib(pid) <= before + MEMORY_BACK_MIB, MEMORY_BACK_SECONDS)
        captured = count_captured(path)
        with flooding(veth, port):
            wait_for(lambda: count_captured(path) > captured + FLOWS // 20, 60)
            cpu_seconds = read_cpu_seconds(pid)
            run.process.send_signal(signal.SIGINT)
            wait_for(lambda: has_ended(pid), 60)
            assert read_cpu_seconds(pid) - cpu_seconds < STOP_CPU_SECONDS
        assert run.wait() == 0, run.errors
    records = read_records(path)
    stats = stats_of(records)
    assert imbalances(records) == [0] * len(stats)
    folded = sum(
        one[part]["overflowed"]["packets"] for one in stats for part in ("capture", "attribution")
    )
    (summary,) = (line for line in run.errors if " captured, " in line)
    assert (f" {folded} packets without their flow" in summary) == (folded > 0)
    assert folded > 0 or way == "ebpf"
