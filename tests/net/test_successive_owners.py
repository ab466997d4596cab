"""`hogpipe run` with the ledger, where processes use one UDP five-tuple one after the other."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.ledger import LEDGER_RUN
from support.namespaces import Namespace
from support.running import (
    assert_conserved,
    read_records,
    running,
    stats_of,
    traffic_of,
    write_config,
)

COUNT, HEADERS = 20, 28
# All stay alive afterwards: /proc shows the processes, not which of them had the port.
PROCESSES = """
import json, os, socket, sys, time
kind, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
PEER = ("127.0.0.1", 900)
peer.bind(PEER)
pipes = [os.pipe() for _ in range(count)]
pids = []
for number in range(count):
    pid = os.fork()
    if pid == 0:
        os.read(pipes[number][0], 1)
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind(("127.0.0.1", 5000))
        if kind == "connected":
            end.connect(PEER)
        end.send(b"x" * number) if kind == "connected" else end.sendto(b"x" * number, PEER)
        end.recv(100)
        if number + 1 < count:
            end.close()
            time.sleep(pause)
            os.write(pipes[number + 1][1], b"x")
        time.sleep(60)
    pids.append(pid)
os.write(pipes[0][1], b"x")
for _ in range(count):
    data, sender = peer.recvfrom(100)
    peer.sendto(data, sender)
print(json.dumps(pids), flush=True)
sys.stdin.readline()
for pid in pids:
    os.kill(pid, 9)
"""


@pytest.mark.parametrize("pause", [0.0, 0.005])
@pytest.mark.parametrize("kind", ["bound", "connected"])
def test_no_process_gets_the_bytes_of_another_that_had_the_port_before_or_after(
    netns: Namespace, tmp_path: Path, kind: str, pause: float
) -> None:
    require_bpf()
    config = write_config(tmp_path, LEDGER_RUN.format(interface="lo"))
    command = netns.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    with running(None, *command) as run:
        run.wait_for("capturing on lo")
        words = (sys.executable, "-c", PROCESSES, kind, str(COUNT), str(pause))
        processes = netns.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert processes.stdout is not None
        pids = json.loads(processes.stdout.readline())
        time.sleep(0.7)
        assert run.end() == 0, run.errors
        processes.communicate("\n")
    records = read_records(tmp_path / "records.jsonl")
    assert_conserved(records)
    moved = {pid: 2 * (HEADERS + number) for number, pid in enumerate(pids)}
    attributed: Counter[int | None] = Counter()
    for record in traffic_of(records):
        if record["network"]["local"].get("port") == 5000:
            pid = record.get("process", {}).get("pid")
            attributed[pid] += sum(one["bytes"] for one in record["network"]["io"].values())
    assert sum(attributed.values()) == sum(moved.values())
    unattributed = attributed.pop(None, 0)
    assert all(size <= moved[pid] for pid, size in attributed.items()), attributed
    contested = sum(one["attribution"]["ledger"]["contested"] for one in stats_of(records))
    assert (contested > 0) is (unattributed > 0)
