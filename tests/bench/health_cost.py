"""What health adds to a packet and to a connection with `ebpf`: the programs with it and without.

Both objects are compiled from the same sources; without health the calls that count it are left
out. They run in turns under the same load, and the kernel measures its programs
(bpf_stats_enabled), so that neither the load nor the machine's other work counts; its own clock
reads do, at each run. Each exchange is a round trip, which has a callback of its own: the dearest
case. Without health there are no callbacks of a connection's states either, so that what a
connection costs is an upper bound.

With `pcap` the programs for health run alone: an exchange of two packets is two runs of the one at
transmitted packets, and two callbacks.
"""

import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from support.bpf import compile_changed, find_cgroup_root

from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.programs import attach_health_programs

_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
_PROGRAMS = ("count_ingress", "count_egress", "owner_sockops")
_NO_HEALTH = (
    r"count_health\(sk, storage, find_health\(storage, now\)\);|"
    r"if \(follow_health\(ctx, sk\)\)\s+return 1;|"
    r"follow_established\(ctx, storage\);"
)
_UNUSED = ("ledger_sockets", "events")


class Cost(NamedTuple):
    """Nanoseconds in the programs."""

    packet: float
    connection: float


def measure(rounds: int, exchanges: int, connections: int) -> tuple[Cost, Cost]:
    """Return the median cost without health, and with it."""
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    with tempfile.TemporaryDirectory() as folder, _kernel_statistics():
        plain = compile_changed(Path(folder), _NO_HEALTH, ";")
        for _ in range(rounds):
            for path, found in zip((plain, object_path()), costs, strict=True):
                found.append(_measure(path, exchanges, connections))
    without, with_health = map(_find_median, costs)
    return without, with_health


def measure_alone(rounds: int, exchanges: int, connections: int) -> Cost:
    """Return the median cost of the programs for health alone, a packet being a transmitted one."""
    with _kernel_statistics():
        found = [
            _measure_attached(attach_health_programs(), exchanges, connections)
            for _ in range(rounds)
        ]
    return _find_median(found)


def _find_median(found: Sequence[Cost]) -> Cost:
    return Cost(median(one.packet for one in found), median(one.connection for one in found))


def _measure(path: Path, exchanges: int, connections: int) -> Cost:
    programs = AttachedPrograms(
        path, _PROGRAMS, find_cgroup_root(), max_entries=dict.fromkeys(_UNUSED, 0)
    )
    return _measure_attached(programs, exchanges, connections)


def _measure_attached(programs: AttachedPrograms, exchanges: int, connections: int) -> Cost:
    try:
        before = _read_costs()
        _exchange(exchanges, connections=1)
        between = _read_costs()
        _exchange(1, connections=connections)
        after = _read_costs()
    finally:
        programs.close()
    packets, opened = between - before, after - between
    return Cost(packets["ns"] / packets["packets"], opened["ns"] / connections)


def _exchange(exchanges: int, connections: int) -> None:
    """Send requests and answers over connections, one after the other."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = threading.Thread(target=_serve, args=(listener, connections))
        server.start()
        for _ in range(connections):
            with socket.create_connection(listener.getsockname()) as client:
                for _ in range(exchanges):
                    client.sendall(b"x" * 100)
                    client.recv(100)
        server.join()


def _serve(listener: socket.socket, connections: int) -> None:
    for _ in range(connections):
        with listener.accept()[0] as served:
            while request := served.recv(100):
                served.sendall(request)


def _read_costs() -> Counter[str]:
    """Return the time in the programs that this process holds, and how many packets had them."""
    total: Counter[str] = Counter()
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except FileNotFoundError:  # that of the listing itself
            continue
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if "run_time_ns" in fields:
            total["ns"] += int(fields["run_time_ns"])
            is_of_packets = fields["prog_type"] == "8"  # BPF_PROG_TYPE_CGROUP_SKB
            total["packets"] += int(fields["run_cnt"]) if is_of_packets else 0
    return total


@contextmanager
def _kernel_statistics() -> Iterator[None]:
    before = _STATS.read_text()
    _STATS.write_text("1")
    try:
        yield
    finally:
        _STATS.write_text(before)


def main() -> int:
    """Print both costs, and what health adds."""
    without, with_health = measure(rounds=5, exchanges=20_000, connections=2000)
    print(f"a packet: {without.packet:.0f} ns, with health {with_health.packet:.0f} ns")
    print(f"a connection: {without.connection:.0f} ns, with health {with_health.connection:.0f} ns")
    alone = measure_alone(rounds=5, exchanges=20_000, connections=2000)
    print(f"a transmitted packet with pcap: {alone.packet:.0f} ns")
    print(f"a connection with pcap: {alone.connection:.0f} ns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
