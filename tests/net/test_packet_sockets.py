"""What is sent through packet and raw sockets has its sender, from each source, to the byte."""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import pair
from support.running import assert_conserved, read_records, running, traffic_of, write_config

HERE, THERE, PORT, PACKETS, SIZE = "10.79.0.1", "10.79.0.2", 5300, 30, 128
CONFIG = """
[capture]
source = "{source}"
[attribution]
ledger = "{ledger}"
[aggregation]
interval = 0.5
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
# Writes datagrams to a packet socket and echo requests to a raw one, and ends.
SENDER = """
import os, socket, struct, sys, time
here, there, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ends = socket.inet_aton(here), socket.inet_aton(there)
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 128, 0, 0, 64, 17, 0, *ends)
datagram = head + struct.pack("!HHHH", port, port, 108, 0) + bytes(100)
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
for number in range(30):
    packets.sendto(datagram, ("left", 0x0800, 0, 0, b"\\xff" * 6))
    body = struct.pack("!BBHHH", 8, 0, 0, port, number) + bytes(56)
    raw.sendto(body[:2] + struct.pack("!H", 0xffff - 0x800 - port - number) + body[4:], (there, 0))
    time.sleep(0.02)
print(os.getpid(), flush=True)
"""


WAYS = {"procfs": ("pcap", "off"), "ledger": ("pcap", "on"), "ebpf": ("ebpf", "auto")}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The pid of the sender, and the folder with the records of both sources."""
    require_bpf()
    folder = tmp_path_factory.mktemp("packet-sockets")
    with ExitStack() as stack:
        near, _far = stack.enter_context(pair([(f"{HERE}/24", f"{THERE}/24")]))
        runs = []
        for way, (source, ledger) in WAYS.items():
            (folder / way).mkdir()
            path = write_config(folder / way, CONFIG.format(source=source, ledger=ledger))
            words = near.enter(sys.executable, "-m", "hogpipe", "-v", "run", path)
            run = stack.enter_context(running(None, *words))
            run.wait_for("owners come from")
            runs.append(run)
        sender = near.popen(sys.executable, "-c", SENDER, HERE, THERE, str(PORT), stdout=-1)
        pid = int(sender.communicate(timeout=30)[0])
        for run in runs:
            run.process.terminate()
            assert run.wait() == 0, run.errors
    return pid, folder


def of_flow(records: list[dict[str, Any]], transport: str) -> list[dict[str, Any]]:
    return [
        one
        for one in traffic_of(records)
        if one["network"].get("transport") == transport
        and one["network"].get("local", {}).get("address") == HERE
        and one["network"].get("peer", {}).get("address") == THERE
    ]


@pytest.mark.parametrize(
    ("way", "quality"), [("procfs", "inferred"), ("ledger", "exact"), ("ebpf", "exact")]
)
def test_datagrams_of_a_packet_socket_are_its_senders(
    recorded: tuple[int, Path], way: str, quality: str
) -> None:
    """From /proc alone it is the only process with a packet socket that is no capture's."""
    pid, folder = recorded
    records = read_records(folder / way / "records.jsonl")
    moved, qualities = Counter[int | None](), Counter[str]()
    for one in of_flow(records, "udp"):
        moved[one.get("process", {}).get("pid")] += one["network"]["io"]["transmit"]["bytes"]
        qualities.update(one["attribution"])
    assert moved == {pid: PACKETS * SIZE}
    assert qualities == {quality: PACKETS * SIZE}
    assert_conserved(records)


@pytest.mark.parametrize("way", ["ledger", "ebpf"])
def test_echo_requests_of_a_raw_socket_are_its_senders(
    recorded: tuple[int, Path], way: str
) -> None:
    pid, folder = recorded
    records = of_flow(read_records(folder / way / "records.jsonl"), "icmp")
    sent = {one.get("process", {}).get("pid") for one in records}
    packets = sum(one["network"]["io"]["transmit"]["packets"] for one in records)
    assert (sent, packets) == ({pid}, PACKETS)
    assert {name for one in records for name in one["attribution"]} == {"exact"}
