"""A pid that the kernel hands out again after two seconds: each process has its own bytes.

A host that has 32,768 pids and forks 16,000 times a second does that.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, require
from support.running import (
    assert_conserved,
    hogpipe,
    read_records,
    running,
    traffic_of,
    wait_until,
    write_config,
)

CONFIG = """
[capture]
source = "{source}"
interfaces = ["lo"]
[attribution]
{ledger}
[aggregation]
interval = 0.3
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
DATAGRAMS, SIZE = 50, 1000
# Forks a process of a name and, at each further line of its input, ends it and forks one of the
# next name with the same pid (proc(5), ns_last_pid). Each sends datagrams to this process.
DRIVER = f"""
import ctypes, os, signal, socket, sys
from pathlib import Path
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))

def fork(name, pid):
    while True:
        if pid:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            if not pid or os.getpid() == pid:
                Path("/proc/self/comm").write_text(name)
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                for _ in range({DATAGRAMS}):
                    sender.sendto(bytes({SIZE}), receiver.getsockname())
            signal.pause()
        if not pid or child == pid:
            return child
        os.kill(child, signal.SIGKILL)  # another process was faster
        os.waitpid(child, 0)

pid = 0
for line in sys.stdin:
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    pid = fork(line.strip(), pid)
    print(pid, flush=True)
"""
NAMES = ("first", "second", "third")
PAUSE = 7  # windows


def count_windows(path: Path) -> int:
    return path.read_text().count('"type":"stats"')


@pytest.mark.parametrize("way", ["procfs", "ledger", "ebpf"])
def test_each_process_of_a_reused_pid_has_its_own_bytes(
    netns: Namespace, tmp_path: Path, way: str
) -> None:
    require("ip", "nsenter")
    if way != "procfs":
        require_bpf()
    config = CONFIG.format(
        source="ebpf" if way == "ebpf" else "pcap",
        ledger='ledger = "off"' if way == "procfs" else "",
    )
    path, pids = tmp_path / "records.jsonl", []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    where = None if way == "ebpf" else netns
    with (
        running(netns, sys.executable, "-c", DRIVER, **pipes) as forks,
        hogpipe(where, "-v", "run", write_config(tmp_path, config)) as run,
    ):
        run.wait_for("owners come from")
        assert forks.process.stdin is not None
        assert forks.process.stdout is not None
        for name in NAMES:
            forks.process.stdin.write(f"{name}\n")
            forks.process.stdin.flush()
            pids.append(int(forks.process.stdout.readline()))
            word = f'"command":"{name}"'
            wait_until(lambda word=word: path.exists() and word in path.read_text())
            windows = count_windows(path)
            wait_until(lambda windows=windows: count_windows(path) > windows + PAUSE)
        assert run.end() == 0, run.errors
    assert len(set(pids)) == 1
    records = read_records(path)
    assert_conserved(records)
    moved = dict.fromkeys(NAMES, 0)
    started = set()
    for one in traffic_of(records):
        process = one.get("process", {})
        if process.get("pid") == pids[0]:
            moved[process["command"]] += one["network"]["io"]["transmit"]["bytes"]
            started.add(process["creation"]["time"])
    assert moved == dict.fromkeys(NAMES, DATAGRAMS * (28 + SIZE))
    assert len(started) == len(NAMES)
