"""`hogpipe run` by the port of the service, where both ports of a connection are ephemeral."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.running import hogpipe, running, traffic_of, wait_until

# Listens on a port that the kernel chooses, prints it, and connects to it from others.
TALK = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], file=sys.stderr, flush=True)
while True:
    with socket.create_connection(listener.getsockname()) as client:
        served, _ = listener.accept()
        with served:
            served.sendall(bytes(1000))
            client.recv(1000, socket.MSG_WAITALL)
    time.sleep(0.02)
"""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records that are complete."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("source", [["--source", "pcap", "-i", "lo"], ["--source", "ebpf"]])
def test_connections_count_at_the_port_that_listens_and_can_be_selected_by_it(
    netns: Namespace, tmp_path: Path, source: list[str]
) -> None:
    if "ebpf" in source:
        require_bpf()
    path = tmp_path / "records.jsonl"
    with running(netns, sys.executable, "-c", TALK) as talk:
        talk.wait_for(r"^\d+$")
        port = int(talk.errors[0])
        words = [*source, "--format", "jsonl", "--interval", "0.2", "--group-by", "transport,port"]
        words += ["--only", f"port:{port}", "--only", "!remote:10.0.0.0/8"]
        with (
            path.open("wb") as output,
            hogpipe(netns, "run", *words, stdout=output) as run,
        ):
            wait_until(lambda: len(read_lines(path)) > 6)
            assert run.end() == 0
    groups = [one for one in traffic_of(read_lines(path)) if "remainder" not in one]
    assert len(groups) > 1
    for group in groups:
        assert group["server"] == {"port": port}
        assert group["network"]["transport"] == "tcp"
    for way in ("transmit", "receive"):
        assert sum(group["network"]["io"][way]["bytes"] for group in groups) > 10_000
