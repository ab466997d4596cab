"""hogpipe with the user, the capabilities and the notification socket of its systemd unit."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, require
from support.running import assert_conserved, read_records, running, traffic_of, write_config
from support.service_unit import NO_OWNER, as_service

CONFIG = """
[capture]
interfaces = ["lo"]
[aggregation]
interval = 0.2
[[sinks]]
type = "jsonl"
path = "state/records.jsonl"
"""
TALK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    for _ in range(20):
        with socket.create_connection(server.getsockname()) as end:
            served, _ = server.accept()
            end.sendall(bytes(1000))
            served.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration, and a state folder that the unit's user owns."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, NO_OWNER, NO_OWNER)
    write_config(tmp_path, CONFIG)
    return tmp_path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        path.chmod(0o666)
        end.settimeout(30)
        yield end


def receive_until(manager: socket.socket, wanted: str) -> list[str]:
    """Return the states up to the wanted one."""
    states = [manager.recv(4096).decode()]
    while not states[-1].startswith(wanted):
        states.append(manager.recv(4096).decode())
    return states


def test_the_units_capabilities_suffice_and_the_manager_follows_the_run(
    netns: Namespace, folder: Path, manager: socket.socket
) -> None:
    require("setpriv", "nsenter")
    require_bpf()
    folder.chmod(0o755)
    command = [*as_service(), sys.executable, "-m", "hogpipe", "run", folder / "config.toml"]
    environ = os.environ | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"}
    with running(None, *netns.enter(*command), env=environ) as run:
        assert receive_until(manager, "READY=1") == ["READY=1"]
        run.wait_for(r"owners come from the ledger \(eBPF\), and from /proc$")
        with running(netns, sys.executable, "-c", TALK) as talk:
            pid = talk.process.pid
            assert talk.wait() == 0
        assert "packets" in receive_until(manager, "WATCHDOG=1\nSTATUS=")[-1]
        run.process.send_signal(signal.SIGHUP)
        receive_until(manager, "RELOADING=1")
        receive_until(manager, "READY=1")
        assert run.end() == 0, run.errors
        receive_until(manager, "STOPPING=1")
    records = read_records(folder / "state" / "records.jsonl")
    assert_conserved(records)
    owned = [one for one in traffic_of(records) if one.get("process", {}).get("pid") == pid]
    assert sum(one["attribution"].get("exact", 0) for one in owned) > 20 * 1000
    assert all("none" not in one["attribution"] for one in traffic_of(records))


def test_ready_comes_after_the_capture_is_open_or_never(
    netns: Namespace, folder: Path, manager: socket.socket
) -> None:
    environ = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
    words = ("-m", "hogpipe", "run", folder / "config.toml", "-i", "eth7")
    with running(None, *netns.enter(sys.executable, *words), env=environ) as run:
        assert run.wait() == 78
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
