"""SIGHUP during a run under traffic: another configuration, without losing a byte."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.running import (
    Running,
    assert_conserved,
    hogpipe,
    read_records,
    running,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

TALK = """
import socket, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as server:
    print("talking", file=sys.stderr, flush=True)
    while not ended.wait(0.005):
        with socket.create_connection(server.getsockname()) as end:
            served, _ = server.accept()
            end.sendall(bytes(1000))
            served.close()
"""
CONFIG = """
[capture]
source = "{source}"
[attribution]
hold = {hold}
[aggregation]
interval = {interval}
group_by = ["{dimension}"]
[[sinks]]
name = "all"
type = "jsonl"
path = "all.jsonl"
queue_windows = {windows}
"""
MORE = """
[[sinks]]
name = "more"
type = "jsonl"
path = "more.jsonl"
"""
REFUSED = r"the configuration is refused, and the run goes on with the former one$"


class Reloading:
    """A run whose configuration a test changes, under a service manager."""

    def __init__(self, folder: Path, run: Running, manager: socket.socket, source: str) -> None:
        self.run = run
        self.path = folder / "config.toml"
        self._manager = manager
        self._values: dict[str, object] = {
            "source": source, "hold": 2, "interval": 3600, "dimension": "process", "windows": 64,
        }  # fmt: skip

    def write(self, more: str = "", **changes: object) -> None:
        self._values |= changes
        self.path.write_text(CONFIG.format(**self._values) + more)

    def hang_up(self) -> None:
        self.run.process.send_signal(signal.SIGHUP)

    def reload(self) -> str:
        """Reload, and return the status that the manager has afterwards."""
        self.hang_up()
        states = [self._manager.recv(4096).decode()]
        while not states[-1].startswith("READY=1"):
            states.append(self._manager.recv(4096).decode())
        assert any(state.startswith("RELOADING=1\nMONOTONIC_USEC=") for state in states)
        return states[-1].partition("\nSTATUS=")[2]


@contextmanager
def reloading(where: Namespace, folder: Path, source: str) -> Iterator[Reloading]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(30)
        environ = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
        write_config(folder, CONFIG.format(
            source=source, hold=2, interval=3600, dimension="process", windows=64,
        ))  # fmt: skip
        options = [] if source == "ebpf" else ["-i", "lo"]
        with (
            hogpipe(where, "run", folder / "config.toml", *options, env=environ) as run,
            running(where, sys.executable, "-c", TALK, stdin=subprocess.PIPE) as talk,
        ):
            talk.wait_for("talking")
            assert manager.recv(4096) == b"READY=1"
            yield Reloading(folder, run, manager, source)
            assert talk.process.stdin is not None
            talk.process.stdin.close()
            talk.wait()


def windows_of(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the traffic records of each window."""
    ends = dict.fromkeys(one["window"]["end"] for one in stats_of(records))
    traffic = traffic_of(records)
    return [[one for one in traffic if one["window"]["end"] == end] for end in ends]


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_a_configuration_is_taken_over_or_refused_and_no_byte_is_lost(
    netns: Namespace, tmp_path: Path, source: str
) -> None:
    if source == "ebpf":
        require_bpf()
    with reloading(netns, tmp_path, source) as case:
        run = case.run
        case.write(MORE, interval=0.2, dimension="transport", windows=9)
        assert "packets" in case.reload()
        run.wait_for(
            "configuration reloaded: aggregation.interval, aggregation.group_by, "
            "sink all changed, sink more added$"
        )
        wait_until(lambda: (tmp_path / "more.jsonl").read_text().count("stats") > 2)

        case.write("[[sinks]]\ntype = 'jsonl'\nfile = 'x'", dimension="colour")
        assert case.reload().startswith("the last configuration is refused: ")
        run.wait_for(r"ERROR: .*config.toml: aggregation.group_by\[0\]: ")
        run.wait_for(r"ERROR: .*config.toml: sinks\[1\].path: required")
        run.wait_for(REFUSED)
        case.path.unlink()
        assert "No such file or directory" in case.reload()
        run.wait_for(REFUSED)
        case.write(MORE.replace("more.jsonl", "notify/more.jsonl"), dimension="user")
        assert "refused" in case.reload()
        run.wait_for(REFUSED)

        case.write(MORE, dimension="flow", hold=1)
        assert case.reload().startswith("a restart is needed for attribution.hold; ")
        run.wait_for("configuration reloaded: aggregation.group_by$")
        run.wait_for("WARNING: attribution.hold: takes effect at the next start$")

        case.write(windows=64, dimension="process")
        for _ in range(3):
            case.hang_up()
        run.wait_for("configuration reloaded: .*sink all changed, sink more removed$")
        case.write(windows=5)
        case.hang_up()
        assert run.end() == 0, run.errors
    records = read_records(tmp_path / "all.jsonl")
    assert [one["sequence"] for one in records] == [*range(1, len(records) + 1)]
    assert len({one["run"] for one in records}) == 1
    assert_conserved(records)
    more = read_records(tmp_path / "more.jsonl")
    assert more == records[more[0]["sequence"] - 1 : more[-1]["sequence"]]
    keys = [{key for one in window for key in one["network"]} for window in windows_of(records)]
    kinds = ["local" in one or "transport" in one for one in keys if one]
    assert {True, False} == set(kinds)
    for window in windows_of(records):
        assert len({("transport" in one["network"], "pid" in one.get("process", {}))
                    for one in window if "none" not in one["attribution"]}) <= 1  # fmt: skip
    (summary,) = [line for line in run.errors if "captured" in line]
    assert "0 dropped" in summary
