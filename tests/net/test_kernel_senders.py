"""The packets around a tunnel are the kernel's; those inside are their processes'."""

import os
import socket
import sys
from collections import Counter
from pathlib import Path

from support.bpf import require_bpf
from support.namespaces import pair
from support.running import assert_conserved, read_records, running, traffic_of, write_config

HERE, THERE = "10.83.0.1", "10.83.0.2"
CONFIG = """
[capture]
interfaces = ["left", "vx"]
[attribution]
hold = 1.0
[aggregation]
interval = 0.5
group_by = ["process", "remote"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""


def test_vxlan_is_the_kernels_and_what_is_inside_its_processes(tmp_path: Path) -> None:
    require_bpf()
    with pair([(f"{HERE}/24", f"{THERE}/24")]) as (near, far):
        for end, device, local, remote, inside in (
            (near, "left", HERE, THERE, "10.84.0.1/24"),
            (far, "right", THERE, HERE, "10.84.0.2/24"),
        ):
            tunnel = ("id", "5", "dstport", "4789", "local", local, "remote", remote)
            end.ip("link", "add", "vx", "type", "vxlan", *tunnel, "dev", device)
            end.ip("address", "add", inside, "dev", "vx")
            end.ip("link", "set", "vx", "up")
        path = write_config(tmp_path, CONFIG)
        words = near.enter(sys.executable, "-m", "hogpipe", "-v", "run", path)
        with (
            running(None, *words) as run,
            far.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server,
            near.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
        ):
            run.wait_for("owners come from")
            server.bind(("10.84.0.2", 900))
            server.settimeout(10)
            client.settimeout(10)
            for _ in range(20):
                client.sendto(bytes(200), ("10.84.0.2", 900))
                server.sendto(bytes(200), server.recvfrom(300)[1])
                client.recv(300)
            assert run.end() == 0, run.errors
    records = read_records(tmp_path / "records.jsonl")
    moved, qualities = Counter[object](), Counter[str]()
    for one in traffic_of(records):
        io = one["network"]["io"]
        size = io["transmit"]["bytes"] + io["receive"]["bytes"]
        if one["network"].get("peer", {}).get("address") == THERE and "kernel" in one:
            assert "process" not in one
            moved[one["kernel"]["name"]] += size
            qualities.update(one["attribution"].keys())
        elif one["network"].get("peer", {}).get("address") == "10.84.0.2":
            moved[one.get("process", {}).get("pid")] += size
    assert moved[os.getpid()] == 40 * 228
    assert moved["vxlan"] >= 40 * (228 + 50)
    assert set(qualities) == {"inferred", "listener"}
    assert_conserved(records)
