"""`hogpipe run` with a spool: every record arrives, however often a run is killed."""

import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any

from support.namespaces import Namespace
from support.running import balance, hogpipe, running, stats_of, wait_until, write_config

from hogpipe import record_id

# This collector loses nothing that it has acknowledged: it reads at once, and is killed only when
# no line is in flight.
COLLECTOR = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 5170))
print("listening", file=sys.stderr, flush=True)
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        connection, _peer = listener.accept()
        while data := connection.recv(65536):
            file.write(data)
        file.write(b"\\n")
"""
TALK = """
import socket, time
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
while True:
    sender.send(bytes(100))
    time.sleep(0.001)
"""
CONFIG = """
[capture]
interfaces = ["lo"]
filter = "udp"
[aggregation]
interval = 0.1
group_by = ["process", "flow"]
[[sinks]]
type = "tcp"
host = "127.0.0.1"
port = 5170
spool = "spool"
retry_initial = 0.05
retry_max = 0.1
"""


def _spooled(folder: Path) -> int:
    """Return how many windows the segments of a spool hold."""
    # A segment may have been delivered and removed right now.
    texts = [path.read_bytes() for path in (folder / "spool").glob("*.spool") if path.exists()]
    return sum(text.count(b"\n#") + text.startswith(b"#") for text in texts)


def _received(path: Path) -> list[dict[str, Any]]:
    """Return the records that arrived, without repeats and half lines."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # half a line at the end of a broken connection
            continue
        assert found.setdefault(record_id(record), record) == record
    return list(found.values())


def test_records_of_an_outage_arrive_though_runs_are_killed(
    netns: Namespace, tmp_path: Path
) -> None:
    config, received = write_config(tmp_path, CONFIG), tmp_path / "received.jsonl"
    with running(netns, sys.executable, "-c", TALK):
        for _ in range(3):  # an outage of several runs, each killed
            before = _spooled(tmp_path)
            with hogpipe(netns, "run", config) as run:
                run.wait_for("sink tcp: fails")
                wait_until(lambda: _spooled(tmp_path) >= before + 5)  # noqa: B023
                run.end(signal.SIGKILL)
        windows = _spooled(tmp_path)
        with running(netns, sys.executable, "-c", COLLECTOR, received) as collector:
            collector.wait_for("listening")
            with hogpipe(netns, "run", config) as run:  # and one while it delivers
                wait_until(lambda: received.exists() and received.stat().st_size > 0)
                run.end(signal.SIGKILL)
            # This run was killed so early that it may have sent no record of its own.
            runs_before = len({record["run"] for record in _received(received)})
            with hogpipe(netns, "-v", "run", config) as run:
                run.wait_for("capturing on lo")
                wait_until(lambda: len({r["run"] for r in _received(received)}) > runs_before)
                assert run.end() == 0
                assert "kept in its spool" not in "".join(run.errors)
    records = _received(received)
    runs = [list(group) for _run, group in itertools.groupby(records, key=lambda r: r["run"])]
    assert len(runs) in (4, 5), "the records of a run are contiguous, in the order of the runs"
    assert sum(len(stats_of(run)) for run in runs[:3]) == windows
    for run in runs:
        assert [record["sequence"] for record in run] == list(range(1, len(run) + 1))
        recorded, counted = balance(run)
        assert recorded == counted - stats_of(run)[-1]["attribution"]["pending"]["bytes"]
    # The runs after the outage may have ended before there was any traffic.
    assert all(balance(run)[0] > 0 for run in runs[:3])


def test_a_stopped_run_reports_what_it_kept_and_the_next_delivers_it(
    netns: Namespace, tmp_path: Path
) -> None:
    config, received = write_config(tmp_path, CONFIG), tmp_path / "received.jsonl"
    with hogpipe(netns, "run", config, "--duration", "0.5") as run:
        assert run.wait() == 0
        assert "records kept in its spool for the next run" in "".join(run.errors)
    with running(netns, sys.executable, "-c", COLLECTOR, received) as collector:
        collector.wait_for("listening")
        with hogpipe(netns, "run", config, "--duration", "0.5") as run:
            assert run.wait() == 0
            assert "kept" not in "".join(run.errors)
    assert len({record["run"] for record in _received(received)}) == 2
    assert _spooled(tmp_path) == 0


def test_two_runs_with_one_spool_are_a_configuration_error(
    netns: Namespace, tmp_path: Path
) -> None:
    config = write_config(tmp_path, CONFIG)
    with hogpipe(netns, "run", config) as first:
        first.wait_for("sink tcp: fails")
        with hogpipe(netns, "run", config) as second:
            assert second.wait() == 78
            assert "another run or sink uses it" in "".join(second.errors)
        assert first.end() == 0
