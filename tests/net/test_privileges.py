"""With the right to capture alone, records still carry the user, and say what was not permitted."""

import subprocess
import sys
from pathlib import Path

from support.namespaces import Namespace, require
from support.running import read_records, running, stats_of, traffic_of, wait_until, write_config

NOBODY = 65534
ONLY_NET_RAW = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")

# The interpreter may be out of nobody's reach, so it changes its user once it is loaded.
EXCHANGE = f"""
import os, socket, sys, encodings.idna
os.setgid({NOBODY}); os.setuid({NOBODY})
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
accepted, _peer = listener.accept()
client.sendall(bytes(50_000))
accepted.recv(50_000, socket.MSG_WAITALL)
print("done", file=sys.stderr, flush=True)
sys.stdin.read()
"""


def test_the_user_is_told_where_the_process_may_not_be_seen(
    netns: Namespace, tmp_path: Path
) -> None:
    require("setpriv")
    config = write_config(
        tmp_path,
        """
        [capture]
        interfaces = ["lo"]
        [attribution]
        hold = 0.3
        [aggregation]
        interval = 0.3
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )
    path = tmp_path / "records.jsonl"
    words = [*ONLY_NET_RAW, sys.executable, "-m", "hogpipe", "-v", "run", config]
    with running(netns, *words) as run:
        run.wait_for("capturing on lo")
        with running(netns, sys.executable, "-c", EXCHANGE, stdin=subprocess.PIPE) as load:
            load.wait_for("done")
            wait_until(lambda: '"traffic"' in path.read_text())
        assert run.end() == 0, run.errors
    records = read_records(path)
    told = [record for record in traffic_of(records) if "process" in record]
    assert told
    for record in told:
        assert record["process"] == {"user": {"id": NOBODY}, "owner": "nobody"}
        assert set(record["attribution"]) == {"none"}
    assert sum(record["attribution"]["not_permitted"] for record in stats_of(records)) > 0
