"""Bytes and packets of each process equal what tcpdump captured, to the byte."""

import time
from collections.abc import Sequence
from pathlib import Path

from support.measured_run import SIZE, TAIL, Process, measured_run, read_conserved_records, talk
from support.namespaces import Namespace, require
from support.running import peer, stats_of
from support.wire import count, read_packets, sum_moved

GROUP_BY = ["process"]


def assert_moved(folder: Path, wire: str, processes: Sequence[Process]) -> None:
    """Assert that the records of each process hold exactly what tcpdump captured."""
    records = read_conserved_records(folder)
    packets = list(read_packets(folder / wire))
    for process in processes:
        truth = count(packets, process["ports"])
        assert truth.transmit_bytes > 2 * SIZE
        assert sum_moved(records, process["pid"]) == truth


def test_two_processes_over_veth_get_exactly_their_bytes(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    dumps = [(left, "left")]
    with (
        measured_run(tmp_path, left, ["left"], dumps, captures=["left"], group_by=GROUP_BY),
        peer(left, "serve", "10.77.0.1", "fd77::1") as near_server,
        peer(right, "serve", "10.77.0.2", "fd77::2") as far_server,
        talk(right, near_server),
        talk(left, far_server) as near_client,
    ):
        time.sleep(TAIL)
    assert_moved(tmp_path, "left.pcap", [near_server, near_client])


def test_two_processes_over_loopback_get_exactly_their_bytes_on_both_sides(
    netns: Namespace, tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    with (
        measured_run(tmp_path, netns, ["lo"], [(netns, "lo")], captures=["lo"], group_by=GROUP_BY),
        peer(netns, "serve", "127.0.0.1", "::1") as server,
        talk(netns, server) as client,
    ):
        time.sleep(TAIL)
    assert_moved(tmp_path, "lo.pcap", [server, client])
    stats = stats_of(read_conserved_records(tmp_path))
    both = sum(record["capture"]["both_sides"]["packets"] for record in stats)
    assert both == sum(record["capture"]["packets"] for record in stats)
