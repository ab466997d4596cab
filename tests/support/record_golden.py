"""Records tests/data/golden again: real traffic, and the /proc of its processes.

    python tests/support/record_golden.py      (as root; needs ip and tcpdump)

Packets, socket tables, inodes and addresses are as they were; the two processes get the names of
programs that people know. Afterwards run the golden test once with its `--` file missing to see
the new result, read it against the capture, and keep it.
"""

import json
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.fake_proc import FakeProc
from support.namespaces import Namespace, pair
from support.running import peer, tcpdump

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
ADDRESSES = [("192.0.2.10/24", "192.0.2.20/24"), ("2001:db8::10/64", "2001:db8::20/64")]
TABLES = ("tcp", "tcp6", "udp", "udp6", "icmp", "icmp6", "raw", "raw6", "fib_trie", "if_inet6")
CLOSED_PORT = 9


def knock(where: Namespace, address: str) -> None:
    """Send a datagram to a port without a socket."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"anyone?", (address, CLOSED_PORT))

    where.call(work)


def sockets_of(pid: int) -> dict[int, int]:
    """Return the inode of each socket that a process holds, by descriptor."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        if target.startswith("socket:["):
            found[int(link.name)] = int(target[8:-1])
    return found


def record_process(proc: FakeProc, process: dict[str, Any], name: bytes, unit: bytes) -> None:
    proc.process(
        process["pid"],
        start=4711,
        parent=1,
        command=name,
        executable=b"/usr/sbin/" + name,
        cgroup=b"0::/system.slice/" + unit + b"\n",
        sockets=sockets_of(process["pid"]),
    )


def main() -> None:
    shutil.rmtree(GOLDEN / "proc", ignore_errors=True)
    proc = FakeProc(GOLDEN / "proc")
    with pair(ADDRESSES) as (left, right), tcpdump(left, "left", GOLDEN / "trace.pcap") as dump:
        with (
            peer(left, "serve", "192.0.2.10", "2001:db8::10") as server,
            peer(right, "serve", "192.0.2.20", "2001:db8::20") as far,
            peer(right, "talk", "30000", json.dumps(server["servers"])),
        ):
            knock(right, "192.0.2.10")
            time.sleep(1)
            with peer(left, "talk", "20000", json.dumps(far["servers"])) as client:
                record_process(proc, server, b"nginx", b"nginx.service")
                record_process(proc, client, b"curl", b"backup.service")
                for name in TABLES:
                    table = Path(f"/proc/{server['pid']}/net/{name}")
                    (GOLDEN / "proc" / "net" / name).write_bytes(table.read_bytes())
                time.sleep(0.3)
        time.sleep(0.3)
        dump.end()


main()
