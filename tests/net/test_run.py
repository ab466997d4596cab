"""`hogpipe run` on live traffic: signals, the end of a run, and a collector that is killed."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import Namespace, require
from support.running import (
    balance,
    hogpipe,
    peer,
    read_records,
    running,
    stats_of,
    wait_until,
    write_config,
)

FLOOD = """
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
print("flooding", file=sys.stderr, flush=True)
while True:
    sender.send(bytes(100))
"""
JSONL = """
[capture]
interfaces = ["lo"]
[aggregation]
interval = 0.2
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_ends_the_run_with_the_last_window_written(
    netns: Namespace, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "records.jsonl"
    with (
        hogpipe(netns, "-v", "run", write_config(tmp_path, JSONL)) as run,
        running(netns, sys.executable, "-c", FLOOD) as flood,
    ):
        run.wait_for("capturing on lo")
        flood.wait_for("flooding")
        wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") > 6)
        signalled, before = time.time(), time.monotonic()
        assert run.end(number) == 0
        assert time.monotonic() - before < 2.0
    records = read_records(path)
    recorded, counted = balance(records)
    assert recorded == counted > 100_000
    assert records[-1]["type"] == "stats"
    assert records[-1]["attribution"]["pending"] == {"flows": 0, "bytes": 0}
    assert records[-1]["timestamp"] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(signalled))
    assert [record["sequence"] for record in records] == list(range(1, len(records) + 1))


def test_a_run_ends_by_itself_after_its_duration(netns: Namespace, tmp_path: Path) -> None:
    with hogpipe(netns, "run", write_config(tmp_path, JSONL), "--duration", "0.5") as run:
        assert run.wait() == 0
    assert stats_of(read_records(tmp_path / "records.jsonl"))


def test_windows_of_a_live_run_follow_one_another_without_a_gap(
    netns: Namespace, tmp_path: Path
) -> None:
    with hogpipe(netns, "run", write_config(tmp_path, JSONL), "--duration", "1.1") as run:
        assert run.wait() == 0
    windows = [record["window"] for record in stats_of(read_records(tmp_path / "records.jsonl"))]
    assert len(windows) >= 5
    for earlier, later in pairwise(windows):
        assert earlier["end"] == later["start"]
    for window in windows[1:-1]:
        assert window["end"][-4:-1] in {"000", "200", "400", "600", "800"}


def test_sighup_reopens_files(netns: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with hogpipe(netns, "run", write_config(tmp_path, JSONL)) as run:
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        path.rename(tmp_path / "old.jsonl")
        run.process.send_signal(signal.SIGHUP)
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        assert run.end() == 0
    sequences = [
        record["sequence"] for name in ("old", "records")
        for record in read_records(tmp_path / f"{name}.jsonl")
    ]  # fmt: skip
    assert sequences == list(range(1, len(sequences) + 1))


def test_jq_follows_a_live_run(netns: Namespace, tmp_path: Path) -> None:
    require("ip", "jq")
    config = write_config(tmp_path, '[capture]\ninterfaces = ["lo"]\n[[sinks]]\ntype = "stdout"')
    command = f"{sys.executable} -m hogpipe -v run {config} --duration 3"
    pipe = f"{command} | jq -c 'select(.type==\"traffic\")'"
    with running(netns, "sh", "-c", pipe, stdout=subprocess.PIPE) as run:
        run.wait_for("capturing on lo")
        with (
            peer(netns, "serve", "127.0.0.1") as server,
            peer(netns, "talk", "50000", json.dumps(server["servers"])) as client,
        ):
            assert run.process.stdout is not None
            lines = [json.loads(line) for line in run.process.stdout]
        assert run.wait() == 0
    pids = {line.get("process", {}).get("pid") for line in lines}
    assert {server["pid"], client["pid"]} <= pids


COLLECTOR = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", file=sys.stderr, flush=True)
with open(sys.argv[2], "ab", buffering=0) as file:
    while True:
        connection, _peer = listener.accept()
        while data := connection.recv(65536):
            file.write(data)
"""
PORT = "5170"


def test_a_collector_that_is_killed_and_comes_back_gets_every_total(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = veth
    config = write_config(
        tmp_path,
        f"""
        [capture]
        interfaces = ["left"]
        [[sinks]]
        type = "tcp"
        host = "127.0.0.1"
        port = {PORT}
        retry_initial = 0.05
        retry_max = 0.1
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )
    received = tmp_path / "received.jsonl"
    collect = (sys.executable, "-c", COLLECTOR, PORT, received)
    with hogpipe(left, "-v", "run", config) as run, peer(left, "serve", "10.77.0.1") as server:
        with running(left, *collect) as first:
            first.wait_for("listening")
            # Killed between two windows: it has read all that it has acknowledged.
            wait_until(lambda: received.exists() and received.stat().st_size > 0)
            first.end(signal.SIGKILL)
        with peer(right, "talk", "20000", json.dumps(server["servers"])):
            run.wait_for("sink tcp: fails")
        with running(left, *collect) as second:
            second.wait_for("listening")
            run.wait_for("sink tcp: works again")
            with peer(right, "talk", "20000", json.dumps(server["servers"])):
                pass
            time.sleep(0.5)
            assert run.end() == 0
    delivered = {record["sequence"]: record for record in read_records(received)}
    written = read_records(tmp_path / "records.jsonl")

    def total(records: Any) -> int:
        return sum(sum(r["attribution"].values()) for r in records if r["type"] == "traffic")

    assert total(delivered.values()) == total(written) > 80_000
