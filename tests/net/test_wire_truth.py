"""Per-process bytes and packets equal what tcpdump saw, to the byte."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.namespaces import Namespace, require
from support.running import (
    assert_conserved,
    hogpipe,
    peer,
    read_records,
    stats_of,
    tcpdump,
    write_config,
)
from support.wire import count, read_packets, told_of

SIZE = "300000"
TAIL = 0.3  # seconds for the last packets to pass before the captures are ended


def config(folder: Path, interface: str) -> Path:
    return write_config(
        folder,
        f"""
        [capture]
        interfaces = ["{interface}"]
        [aggregation]
        interval = 0.5
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


def assert_true(folder: Path, processes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare what each process is told to have moved with the wire; return the records."""
    records = read_records(folder / "records.jsonl")
    packets = list(read_packets(folder / "wire.pcap"))
    for process in processes:
        truth = count(packets, process["ports"])
        assert truth.transmit_bytes > 2 * int(SIZE)
        assert told_of(records, process["pid"]) == truth
    assert_conserved(records)
    return records


def test_two_processes_over_veth_get_exactly_their_bytes(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    with (
        tcpdump(left, "left", tmp_path / "wire.pcap") as dump,
        hogpipe(left, "-v", "run", config(tmp_path, "left")) as run,
    ):
        run.wait_for("capturing on left")
        with (
            peer(left, "serve", "10.77.0.1", "fd77::1") as near_server,
            peer(right, "serve", "10.77.0.2", "fd77::2") as far_server,
            peer(right, "talk", SIZE, json.dumps(near_server["servers"])),
            peer(left, "talk", SIZE, json.dumps(far_server["servers"])) as near_client,
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0
        dump.end()
    assert_true(tmp_path, [near_server, near_client])


def test_two_processes_over_loopback_get_exactly_their_bytes_on_both_sides(
    netns: Namespace, tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    with (
        tcpdump(netns, "lo", tmp_path / "wire.pcap") as dump,
        hogpipe(netns, "-v", "run", config(tmp_path, "lo")) as run,
    ):
        run.wait_for("capturing on lo")
        with (
            peer(netns, "serve", "127.0.0.1", "::1") as server,
            peer(netns, "talk", SIZE, json.dumps(server["servers"])) as client,
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0
        dump.end()
    records = assert_true(tmp_path, [server, client])
    both = sum(record["capture"]["both_sides"]["packets"] for record in stats_of(records))
    assert both == sum(record["capture"]["packets"] for record in stats_of(records))
