"""A /proc that blocks while owners are looked up costs no byte, and the log names the file."""

import os
import sys
from pathlib import Path

from support.namespaces import Namespace, require
from support.running import (
    assert_conserved,
    read_records,
    running,
    traffic_of,
    wait_until,
    write_config,
)

CONFIG = """
[capture]
interfaces = ["lo"]
[attribution]
ledger = "off"
hold = 0.2
[aggregation]
interval = 0.3
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
# Runs hogpipe, which reports a lookup sooner than usual.
RUN = """
import sys, hogpipe.cli
from hogpipe.attribution.stage import lookup
lookup._LONG_SECONDS = 0.3
sys.argv[0] = "hogpipe"
hogpipe.cli.main()
"""
TALK = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
accepted, _peer = listener.accept()
print("talks", file=sys.stderr, flush=True)
while not time.sleep(0.02):
    client.sendall(bytes(1000))
    accepted.recv(1000, socket.MSG_WAITALL)
"""


def test_a_file_that_blocks_is_named_and_costs_owners_and_no_bytes(
    netns: Namespace, tmp_path: Path
) -> None:
    require("nsenter", "unshare")
    config, records = write_config(tmp_path, CONFIG), tmp_path / "records.jsonl"
    blocking = tmp_path / "blocking"
    os.mkfifo(blocking)  # opening it waits for a writer
    with running(netns, sys.executable, "-c", TALK) as talk:
        talk.wait_for("talks")
        file = f"/proc/{talk.process.pid}/status"
        mount = f'mount --bind {blocking} {file} && exec "$@"'
        words = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", RUN]
        with running(None, *netns.enter(*words, "-v", "run", config)) as run:
            run.wait_for(f"a lookup of owners has not ended for .* it waits for {file}")

            def recorded() -> bool:
                return records.exists() and '"none"' in records.read_text()

            wait_until(recorded)
            os.close(os.open(blocking, os.O_WRONLY))  # it reads as empty, once
            run.wait_for("the lookup of owners has ended")
            wait_until(lambda: f'"pid":{talk.process.pid}' in records.read_text())
            assert run.end() == 0, run.errors
    found = read_records(records)
    assert traffic_of(found)
    assert_conserved(found)
