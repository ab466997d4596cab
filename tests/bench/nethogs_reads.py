"""How long nethogs takes to read /proc/net/tcp during a storm of connections.

    sudo .venv/bin/python tests/bench/nethogs_reads.py [--seconds N] [--rate N]

Needs root, ip, nethogs and strace. A host and a container on one veth as in the workload
veth-outbound of attribution.py. nethogs runs on the host under strace, which logs each openat, read
and close. While nethogs reads the table it captures nothing.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import host, table
from stage import INTERFACE, prepare, start_load
from support.namespaces import host_and_container
from support.running import running
from workloads import WORKLOADS

SHORT = 512  # bytes; nethogs reads 1,024 at a time, so less comes only at the end of the table
START = 3.0  # seconds for nethogs to start
TAIL = 3.0  # seconds after the load
SHOWN = 5
ROW = 150  # bytes
HEAD = ("started s", "seconds", "reads", "short reads", "rows")
TABLE = re.compile(r'/proc/(?:self/|\d+/)?net/tcp"')
CALL = re.compile(r"^(?:\d+ +)?(\d+\.\d+) (openat|read|close)\((.*)$")
RESULT = re.compile(r"= (-?\d+)")


@dataclass
class TableRead:
    """A reading of /proc/net/tcp, from open to close; times in seconds."""

    started: float
    seconds: float = 0.0
    reads: int = 0
    short_reads: int = 0
    size: int = 0


def parse_strace(lines: Iterable[str]) -> Iterator[TableRead]:
    """Yield each reading of /proc/net/tcp in the log of `strace -ttt`, once it is closed."""
    opened: dict[int, TableRead] = {}
    for line in lines:
        call, result = CALL.match(line), RESULT.search(line)
        if call is None or result is None:
            continue
        when, name, arguments = float(call[1]), call[2], call[3]
        if name == "openat":
            if TABLE.search(arguments) and int(result[1]) >= 0:
                opened[int(result[1])] = TableRead(when)
            continue
        number = re.match(r"\d+", arguments)
        reading = opened.get(int(number[0])) if number else None
        if reading is None:
            continue
        if name == "close":
            reading.seconds = when - reading.started
            yield opened.pop(int(number[0]))
            continue
        size = int(RESULT.findall(line)[-1])
        reading.reads += 1
        reading.short_reads += 0 < size < SHORT
        reading.size += size


def measure(seconds: float, rate: float) -> list[TableRead]:
    """Return the readings of nethogs during a storm, the longest first."""
    workload = replace(WORKLOADS["veth-outbound"], rate=rate)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-bench-")))
        near, far = stack.enter_context(host_and_container([workload.addresses]))
        prepare(near, workload.version)
        prepare(far, workload.version)
        start_load(stack, far, *workload.server_arguments())
        clients = [
            start_load(stack, near, *workload.client_arguments(number, seconds))
            for number in range(workload.clients)
        ]
        log = folder / "strace.txt"
        calls = ("-ttt", "-s", "0", "-e", "trace=openat,read,close", "-o", log)
        words = (
            "strace",
            "-f",
            "-I",
            "2",
            *calls,
            "nethogs",
            "-t",
            "-v",
            "2",
            "-d",
            "1",
            INTERFACE,
        )
        with (folder / "nethogs.txt").open("w") as output:
            run = stack.enter_context(running(near, *words, stdout=output))
            time.sleep(START)
            begun = time.time()
            for client in clients:
                client.go()
            for client in clients:
                client.result()
            time.sleep(TAIL)
            run.end()
        readings = [replace(one, started=one.started - begun) for one in parse_strace(log.open())]
    return sorted(readings, key=lambda one: one.seconds, reverse=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="how long the storm lasts")
    parser.add_argument("--rate", type=float, default=2000.0, help="connections a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all readings to FILE")
    chosen = parser.parse_args()
    missing = [one for one in ("ip", "nethogs", "strace") if shutil.which(one) is None]
    if os.geteuid() != 0 or missing:
        print(f"nethogs_reads.py: needs root and {', '.join(missing)}", file=sys.stderr)
        return 1
    readings = measure(chosen.seconds, chosen.rate)
    rows = [
        [f"{one.started:.2f}", f"{one.seconds:.2f}"]
        + [str(number) for number in (one.reads, one.short_reads, one.size // ROW)]
        for one in readings[:SHOWN]
    ]
    print(host())
    print(f"{len(readings)} readings of /proc/net/tcp; the longest:\n\n{table(HEAD, rows)}")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in readings], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
