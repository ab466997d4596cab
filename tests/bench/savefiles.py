"""Savefiles of growth.py: the cost of a packet of a file beside that of tcpdump, by its flows.

    python tests/bench/savefiles.py FOLDER FLOWS PACKETS PORT

writes a host's traffic into FOLDER: trace.pcap, small datagrams from FLOWS addresses to ten ports
of the host, and the /proc of that host with ten processes, whose sockets are bound from PORT on:
at the ports of the datagrams, or at others. Flows follow one another in an order without a pattern,
which repeats. A process of its own writes the files, because the peak memory of a program is at
least that of its parent.

The cost of a file is that beyond a file of one packet, so that the start of a program is not in it.
hogpipe and `tcpdump -r FILE -w /dev/null` take turns, and both find the file in the page cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures import Figure, Point
from generator import IP_AND_UDP
from support.captures import pcap_file
from support.fake_proc import CLOSE, FakeProc, format_row
from support.frames import ethernet, ipv4, udp
from support.running import read_records, traffic_of, write_config
from tools import PROCFS, TCPDUMP

ADDRESS = bytes([10, 0, 0, 1])
FIRST_PEER = 10 << 24 | 128 << 16
FIRST_PORT, FIRST_PID, FIRST_INODE, SERVERS = 8000, 1000, 5000, 10
OTHER_PORT = FIRST_PORT + SERVERS
PAYLOAD = 32
A_SECOND = 100_000
FIRST_SECOND = 1_795_000_000
CHUNK = 100_000
ANY = (bytes(4), 0)
TOOLS = (TCPDUMP, PROCFS)
CONFIG = """
[capture]
source = "savefile"
path = "trace.pcap"
[attribution]
procfs = "proc"
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""


@dataclass(frozen=True, slots=True)
class SavefileLoad:
    """What the flows of files are."""

    title: str
    port: int
    """The first one of the ten at which sockets of the recorded /proc are bound."""


def write_host(folder: Path, port: int) -> None:
    """Write the /proc of a host with an address and ten servers, from `port` on."""
    proc = FakeProc(folder / "proc")
    address = ".".join(map(str, ADDRESS))
    (proc.root / "net" / "fib_trie").write_text(f"|-- {address}\n /32 host LOCAL\n")
    rows = []
    for number in range(SERVERS):
        inode = FIRST_INODE + number
        local = (ADDRESS, port + number)
        rows.append(format_row(local, ANY, inode=inode, state=CLOSE, slot=number))
        proc.process(FIRST_PID + number, command=b"server", sockets={3: inode})
    proc.table("udp", *rows)


def write_trace(path: Path, flows: int, packets: int) -> None:
    """Write the traffic: copies of one packet, with what differs between packets."""
    import numpy as np  # noqa: PLC0415 - growth.py itself stays small

    frame = ethernet(ipv4(17, udp(40_000, FIRST_PORT, bytes(PAYLOAD)), destination=ADDRESS))
    record = np.dtype(
        [
            ("seconds", "<u4"), ("microseconds", "<u4"), ("captured", "<u4"), ("length", "<u4"),
            ("before", "V26"), ("source", ">u4"), ("target", "V4"), ("source_port", ">u2"),
            ("target_port", ">u2"), ("rest", f"V{len(frame) - 38}"),
        ]
    )  # fmt: skip
    order = np.random.default_rng(1).permutation(flows)
    single = np.frombuffer(bytes(16) + frame, record)
    with path.open("wb") as file:
        file.write(pcap_file([]))
        for begin in range(0, packets, CHUNK):
            numbers = np.arange(begin, min(begin + CHUNK, packets))
            flow = order[numbers % flows]
            part = np.repeat(single, len(numbers))
            part["seconds"] = FIRST_SECOND + numbers // A_SECOND
            part["microseconds"] = numbers % A_SECOND * (1_000_000 // A_SECOND)
            part["captured"] = part["length"] = len(frame)
            part["source"] = FIRST_PEER + 1 + flow
            part["target_port"] = FIRST_PORT + flow % SERVERS
            file.write(part.tobytes())


@dataclass(frozen=True)
class Reading:
    """What a program took for a file."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    right: float | None


def read_with(tool: str, folder: Path, packets: int, load: SavefileLoad) -> Reading:
    """Read a folder's trace with a tool. Raises ValueError if the tool fails."""
    trace = folder / "trace.pcap"
    words = ["tcpdump", "-r", trace, "-w", "/dev/null", "-Z", "root"]
    records = folder / "records.jsonl"
    if tool == PROCFS:
        records.unlink(missing_ok=True)
        words = [sys.executable, "-m", "hogpipe", "run", write_config(folder, CONFIG)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        if child.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
            raise ValueError(f"{tool} ended with {child.returncode}: {text}")
    return Reading(
        usage.ru_utime + usage.ru_stime,
        wall,
        usage.ru_maxrss * 1024,
        share_right(records, packets, load) if tool == PROCFS else None,
    )


def share_right(path: Path, packets: int, load: SavefileLoad) -> float:
    """Return the share of the bytes of a trace that the records give to whom they belong.

    That is the server of their port, or nobody where no socket is bound there.
    """
    reported: Counter[int | None] = Counter()
    for record in traffic_of(read_records(path)):
        pid = record.get("process", {}).get("pid")
        reported[pid] += record["network"]["io"]["receive"]["bytes"]
    size = (IP_AND_UDP + PAYLOAD) * packets
    if load.port != FIRST_PORT:
        return reported[None] / size
    servers = range(FIRST_PID, FIRST_PID + SERVERS)
    return sum(min(reported[pid], size / SERVERS) for pid in servers) / size


def measure_point(
    flows: int, packets: int, tools: Sequence[str], rounds: int, load: SavefileLoad
) -> Point:
    """Measure a file of so many flows; the order of the tools alternates.

    Raises ValueError if a tool fails, and what the files raise.
    """
    readings: dict[str, list[Reading]] = {name: [] for name in tools}
    starts: dict[str, list[Reading]] = {name: [] for name in tools}
    with tempfile.TemporaryDirectory(prefix="hogpipe-bench-") as name:
        whole, single = Path(name, "whole"), Path(name, "single")
        for folder, words in ((whole, (flows, packets)), (single, (1, 1))):
            command = [sys.executable, __file__, folder, *map(str, words), str(load.port)]
            subprocess.run(command, check=True)
        read_with(TCPDUMP, whole, packets, load)  # into the page cache
        for number in range(rounds):
            for tool in tools if number % 2 == 0 else reversed(tools):
                starts[tool].append(read_with(tool, single, 1, load))
                readings[tool].append(read_with(tool, whole, packets, load))
    figures = [make_figure(tool, readings[tool], starts[tool], packets) for tool in tools]
    return Point(flows, packets, figures)


def make_figure(
    tool: str, readings: Sequence[Reading], starts: Sequence[Reading], packets: int
) -> Figure:
    start = statistics.median(one.cpu_seconds for one in starts)
    wall = statistics.median(one.wall_seconds for one in readings)
    return Figure(
        tool,
        [1e6 * (one.cpu_seconds - start) / packets for one in readings],
        a_second=packets / wall,
        right=min((one.right for one in readings if one.right is not None), default=None),
        peak_bytes=max(one.peak_bytes for one in readings) if tool == PROCFS else 0,
        wall_seconds=wall,
        start_seconds=start,
    )


def main() -> None:
    folder, (flows, packets, port) = Path(sys.argv[1]), map(int, sys.argv[2:])
    folder.mkdir()
    write_host(folder, port)
    write_trace(folder / "trace.pcap", flows, packets)


if __name__ == "__main__":
    main()
