"""Thousands of processes a second, each of which sends one datagram and exits.

The storm is as fast as two processes in Python fork: more than 2,000 a second on two idle cores.
"""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import fork_storm
from support.bpf import require_bpf
from support.namespaces import Namespace, require
from support.running import (
    Running,
    hogpipe,
    imbalances,
    read_records,
    running,
    stats_of,
    traffic_of,
    write_config,
)

CHILDREN = 20_000
PACKET = 20 + 8 + len(fork_storm.PAYLOAD)
WAYS = ["off", "ledger", "ebpf"]
CPU_PER_FORK = 2e-3
MEMORY_GROWTH_MIB = 100
MOST_DESCRIPTORS = 1000


def configure(folder: Path, way: str) -> Path:
    source = "ebpf" if way == "ebpf" else "pcap"
    ledger = 'ledger = "off"' if way == "off" else ""
    return write_config(
        folder,
        f"""
        [capture]
        source = "{source}"
        interfaces = ["lo"]
        [attribution]
        {ledger}
        [aggregation]
        group_by = ["program", "port"]
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


def fork_all(storms: Sequence[Running]) -> list[int]:
    """Let all fork; return how many each forked a second."""
    for one in storms:
        assert one.process.stdin is not None
        one.process.stdin.write("\n")
        one.process.stdin.flush()
    rates = []
    for one in storms:
        assert one.process.stdout is not None
        rates.append(int(one.process.stdout.readline()))
    return rates


def owned(records: Sequence[dict[str, Any]], *qualities: str) -> int:
    """Return the bytes of these qualities; of all without any."""
    shares = [one["attribution"] for one in traffic_of(records)]
    return sum(share.get(name, 0) for share in shares for name in qualities or share)


@pytest.mark.parametrize("way", WAYS)
def test_a_storm_of_forks_costs_no_byte_and_bounded_cpu_and_memory(
    netns: Namespace, tmp_path: Path, way: str
) -> None:
    require("ip", "nsenter")
    require_bpf()
    half, words = str(CHILDREN // 2), [sys.executable, "-S", fork_storm.__file__]
    with ExitStack() as stack:
        run = stack.enter_context(hogpipe(netns, "-v", "run", configure(tmp_path, way)))
        run.wait_for("owners come from")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        storms = [stack.enter_context(running(netns, *words, half, **pipes)) for _ in range(2)]
        for one in storms:
            assert one.process.stdout is not None
            assert one.process.stdout.readline() == "ready\n"
        rates = fork_all(storms)
        descriptors = len(list(Path(f"/proc/{run.process.pid}/fd").iterdir()))
        assert run.end() == 0, run.errors
    records = read_records(tmp_path / "records.jsonl")
    stats = stats_of(records)
    assert imbalances(records) == [0] * len(stats)
    dropped = sum(one["capture"]["dropped"]["kernel"] for one in stats)
    moved = owned(records)
    # Each datagram on loopback is sent and received.
    assert 2 * PACKET * (CHILDREN - dropped) <= moved
    cpu_seconds = sum(one["self"]["cpu"]["seconds"] for one in stats)
    memory = [one["self"]["memory"]["bytes"] / 2**20 for one in stats]
    exact = owned(records, "exact") / moved
    print(
        f"{way}: {' + '.join(map(str, rates))} forks a second, {cpu_seconds:.1f} s of CPU, "
        f"memory {memory[0]:.0f} to {max(memory):.0f} MiB, {descriptors} descriptors, "
        f"{dropped} packets dropped, {exact:.1%} of the bytes exact"
    )
    assert cpu_seconds < CHILDREN * CPU_PER_FORK
    assert max(memory) < memory[0] + MEMORY_GROWTH_MIB
    assert descriptors < MOST_DESCRIPTORS
    if way == "ebpf":  # the others may fall behind, and then name no owner
        assert exact > 0.99
