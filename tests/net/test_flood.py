"""A flood of new flows: each byte is recorded or counted at any time, and the run stays in time.

Each datagram of the flood is a flow of its own, some to a server, some to no socket.
"""

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import flood
from support.namespaces import Namespace, require
from support.running import (
    Running,
    hogpipe,
    imbalances,
    running,
    stats_of,
    wait_until,
    write_config,
)
from test_docs import block_of, split_command

WAYS = ["off", "ledger", "ebpf"]
FLOWS = 60_000
MAX_FLOWS = 4096
ENOUGH_MIB = 550
INTERVAL = 0.5


def configure(folder: Path, way: str, *, group_by: str = "process", more: str = "") -> Path:
    source = "ebpf" if way == "ebpf" else "pcap"
    ledger = "off" if way == "off" else "auto"
    return write_config(
        folder,
        f"""
        [capture]
        source = "{source}"
        {'interfaces = ["left"]' if source == "pcap" else f"max_flows = {MAX_FLOWS}"}
        [attribution]
        max_flows = {MAX_FLOWS}
        {f'ledger = "{ledger}"' if source == "pcap" else ""}
        {more}
        [aggregation]
        interval = {INTERVAL}
        group_by = ["{group_by}"]
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


@contextmanager
def flooding(veth: tuple[Namespace, Namespace], flows: int = FLOWS) -> Iterator[list[Running]]:
    """Flood `left` from `right`; half of the flows are to a server."""
    left, right = veth
    (link,) = json.loads(left.ip("-j", "link", "show", "left"))
    program = [sys.executable, flood.__file__]
    receive = [*program, "receive", "10.77.0.1"]
    with running(left, *receive, stdout=subprocess.PIPE) as server:
        assert server.process.stdout is not None
        port = server.process.stdout.readline().strip()
        words = [*program, "send", "right", link["address"], "10.77.0.1"]
        with (
            running(right, *words, port, str(flows // 2)) as to_server,
            running(right, *words, "9", str(flows // 2)) as to_nobody,
        ):
            yield [to_server, to_nobody]


def read_up_to_a_kill(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file whose last line may be cut short."""
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def count_captured(path: Path) -> int:
    records = read_up_to_a_kill(path) if path.exists() else []
    return sum(one["capture"]["packets"] for one in stats_of(records))


@pytest.mark.parametrize("way", WAYS)
def test_the_file_of_a_killed_run_adds_up_at_each_stats_record(
    veth: tuple[Namespace, Namespace], tmp_path: Path, way: str
) -> None:
    require("ip", "jq")
    path = tmp_path / "records.jsonl"
    with hogpipe(veth[0], "-v", "run", configure(tmp_path, way, group_by="flow")) as run:
        run.wait_for("capturing on left|counting at all sockets")
        with flooding(veth):
            wait_until(lambda: count_captured(path) > FLOWS // 10)
            run.process.kill()
            run.process.wait()
    records = read_up_to_a_kill(path)
    assert count_captured(path) > FLOWS // 10
    assert imbalances(records) == [0] * len(stats_of(records))
    command, _shown = split_command(block_of("docs/record.md", "sums"))
    script = re.search(r"jq -Rnc '(.*)'", command, re.DOTALL)
    assert script
    printed = subprocess.run(
        ["jq", "-Rnc", script[1], path], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "0\n" * len(stats_of(records))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signals", [1, 2])
def test_a_run_that_is_stopped_in_a_flood_records_what_it_captured(
    veth: tuple[Namespace, Namespace], tmp_path: Path, way: str, signals: int
) -> None:
    require("ip")
    path = tmp_path / "records.jsonl"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (ENOUGH_MIB << 20, ENOUGH_MIB << 20))

    config = configure(tmp_path, way)
    with hogpipe(veth[0], "-v", "run", config, preexec_fn=limit) as run:
        run.wait_for("capturing on left|counting at all sockets")
        with flooding(veth):
            wait_until(lambda: count_captured(path) > FLOWS // 10)
            for _ in range(signals):
                run.process.send_signal(signal.SIGINT)
            assert run.wait() == 0, run.errors
    records = read_up_to_a_kill(path)
    stats = stats_of(records)
    assert imbalances(records) == [0] * len(stats)
    assert stats[-1]["attribution"]["pending"] == {"flows": 0, "bytes": 0}
    captured = sum(one["capture"]["packets"] for one in stats)
    (summary,) = (line for line in run.errors if " captured, " in line)
    assert f" {captured} packets" in summary
    overflowed = [one[part]["overflowed"] for one in stats for part in ("capture", "attribution")]
    folded = sum(one["packets"] for one in overflowed)
    assert (f" {folded} packets without their flow" in summary) == (folded > 0)
