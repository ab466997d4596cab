"""`hogpipe run` while frames arrive whose IP headers claim more than the frames have."""

import json
import socket
from pathlib import Path

from support import frames as build
from support.namespaces import Namespace, require
from support.running import (
    assert_conserved,
    hogpipe,
    read_records,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

CONFIG = """
[capture]
interfaces = ["left"]
filter = "ether src 02:00:00:00:00:01"
[attribution]
ledger = "off"
hold = 0.0
[aggregation]
interval = 0.5
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
PORT, ROUNDS, COPIES = 7520, 3, 50
ADDRESSES = b"\xff" * 6 + b"\x02\0\0\0\0\x01"
PAYLOAD = build.udp(9, PORT, bytes(100))
V4 = {"source": socket.inet_aton("10.77.0.2"), "destination": socket.inet_aton("10.77.0.1")}
V6 = {
    "source": socket.inet_pton(socket.AF_INET6, "fd77::2"),
    "destination": socket.inet_pton(socket.AF_INET6, "fd77::1"),
}
HONEST = build.ipv4(17, PAYLOAD, **V4)
LYING = [
    build.ipv4(17, PAYLOAD, total=65_535, **V4),
    build.ipv6(0, build.jumbo(17, 0xFFFFFFFF, PAYLOAD), payload_length=0, **V6),
    build.ipv6(17, PAYLOAD, payload_length=65_535, **V6),
]


def send(where: Namespace, packets: list[bytes]) -> None:
    with where.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as made:
        made.bind(("right", 0))
        for packet in packets:
            made.send(ADDRESSES + build.ethernet(packet)[12:])


def received(path: Path) -> int:
    """Return the bytes received at PORT that are recorded so far."""
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return sum(
        record["network"]["io"]["receive"]["bytes"]
        for record in traffic_of([json.loads(line) for line in whole.splitlines()])
        if record["network"]["local"].get("port") == PORT
    )


def test_a_process_gets_no_more_bytes_than_the_frames_for_its_port_have(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip")
    left, right = container_veth
    records = tmp_path / "records.jsonl"
    with hogpipe(left, "-v", "run", write_config(tmp_path, CONFIG)) as run:
        run.wait_for("capturing on left")
        for number in range(1, ROUNDS + 1):  # the first frames are read with their original lengths
            send(right, [*LYING, HONEST] * COPIES)
            wait_until(lambda number=number: received(records) >= number * COPIES * len(HONEST))
        assert run.end() == 0, run.errors
    found = read_records(records)
    assert received(records) == ROUNDS * COPIES * len(HONEST)
    undecoded = sum(stats["capture"]["undecoded"]["packets"] for stats in stats_of(found))
    assert undecoded == ROUNDS * COPIES * len(LYING)
    assert_conserved(found)
