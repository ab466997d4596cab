"""`hogpipe run` with the source `ebpf`: the bytes of each process, and the owner of each flow."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.bpf import all_attached, attached_by, find_cgroup_root, require_bpf
from support.namespaces import Namespace, require
from support.offloads import segment_in_kernel
from support.running import (
    Running,
    assert_conserved,
    peer,
    read_records,
    running,
    stats_of,
    tcpdump,
    traffic_of,
    wait_until,
    write_config,
)
from support.wire import count, read_packets, remove_fragment_headers, sum_moved

SIZE = "300000"
TAIL = 0.3  # seconds for the last packets to pass
PORT = 900
CONFIG = """
[capture]
source = "ebpf"
{capture}
[aggregation]
interval = {interval}
group_by = {group_by}
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
# Answers each connection in the worker that accepts it. Ends with its input, and so do the workers.
PREFORKED = """
import ctypes, os, signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
for _ in range(3):
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.closerange(0, 3)
        while True:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1000):
                    connection.sendall(b"%d" % os.getpid())
print("ready", file=sys.stderr, flush=True)
sys.stdin.read()
"""
# Sends and receives, and exits before the window ends.
SHORT = """
import os, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_STREAM) as end:
    end.connect((host, port))
    end.sendall(b"x" * 50)
    end.shutdown(socket.SHUT_WR)
    while end.recv(100): pass
time.sleep(0.5)
print(os.getpid())
"""


def config(
    folder: Path, capture: str = "", *, interval: float = 0.5, by_flow: bool = False
) -> Path:
    dimensions = ["process", "flow"] if by_flow else ["process"]
    text = CONFIG.format(capture=capture, interval=interval, group_by=json.dumps(dimensions))
    return write_config(folder, text)


@contextmanager
def counting(where: Namespace | None, path: Path) -> Iterator[Running]:
    """Run hogpipe until the context ends, TAIL longer than the body."""
    require_bpf()
    words = (sys.executable, "-m", "hogpipe", "-v", "run", path)
    with running(None, *(where.enter(*words) if where else words)) as run:
        run.wait_for("owners come from")
        yield run
        time.sleep(TAIL)
        assert run.end() == 0, run.errors


def moved_by(records: list[dict[str, Any]], pid: int) -> int:
    moved = sum_moved(records, pid)
    return moved.transmit_bytes + moved.receive_bytes


def is_recorded(path: Path, pid: int) -> bool:
    """Return whether a record has bytes of a process by now."""
    whole, newline, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return bool(newline) and moved_by([json.loads(one) for one in whole.splitlines()], pid) > 0


def qualities_of(records: list[dict[str, Any]], pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for record in traffic_of(records):
        if record.get("process", {}).get("pid") == pid:
            found.update(record["attribution"])
    return found


def test_processes_at_both_ends_of_a_wire_get_exactly_their_bytes(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    segment_in_kernel(left, "left")
    segment_in_kernel(right, "right")
    with (
        tcpdump(left, "left", tmp_path / "wire.pcap") as dump,
        counting(left, config(tmp_path)),
    ):
        with (
            peer(left, "serve", "10.77.0.1", "fd77::1") as near_server,
            peer(right, "serve", "10.77.0.2", "fd77::2") as far_server,
            peer(right, "talk", SIZE, json.dumps(near_server["servers"])) as far_client,
            peer(left, "talk", SIZE, json.dumps(far_server["servers"])) as near_client,
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        dump.end()
    records = read_records(tmp_path / "records.jsonl")
    packets = remove_fragment_headers(list(read_packets(tmp_path / "wire.pcap")))
    for process in (near_server, near_client, far_server, far_client):
        truth = count(packets, process["ports"], fragments=False)
        assert truth.transmit_bytes > 2 * int(SIZE)
        assert sum_moved(records, process["pid"]) == truth
    assert_conserved(records)


def test_over_loopback_each_side_gets_its_bytes_once(netns: Namespace, tmp_path: Path) -> None:
    require("ip", "tcpdump")
    with (
        tcpdump(netns, "lo", tmp_path / "wire.pcap") as dump,
        counting(netns, config(tmp_path)),
    ):
        with (
            peer(netns, "serve", "127.0.0.1", "::1") as server,
            peer(netns, "talk", SIZE, json.dumps(server["servers"])) as client,
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        dump.end()
    records = read_records(tmp_path / "records.jsonl")
    packets = list(read_packets(tmp_path / "wire.pcap"))
    for process in (server, client):
        assert sum_moved(records, process["pid"]) == count(packets, process["ports"])
    assert_conserved(records)


@pytest.mark.parametrize("server_first", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("timestamps", ["1", "0"])
def test_the_side_that_closes_long_before_its_peer_gets_the_last_packets_too(
    netns: Namespace, tmp_path: Path, server_first: bool, host: str, timestamps: str
) -> None:
    """The last two pass no hook: the kernel has freed the socket by then."""
    require("ip", "tcpdump")
    netns.call(lambda: Path("/proc/sys/net/ipv4/tcp_timestamps").write_text(timestamps))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        tcpdump(netns, "lo", tmp_path / "wire.pcap") as dump,
        counting(netns, config(tmp_path)),
        netns.call(lambda: socket.create_server((host, 0), family=family)) as listener,
    ):
        port = listener.getsockname()[1]
        for pause in (0.1, 1.2):  # the kernel is asked once, or several times
            client = netns.call(lambda: socket.create_connection(listener.getsockname()[:2]))
            server, _ = listener.accept()
            client.send(b"x")
            server.recv(10)
            first, last = (server, client) if server_first else (client, server)
            first.close()
            time.sleep(pause)
            last.close()
        time.sleep(TAIL)
        dump.end()
    truth = count(list(read_packets(tmp_path / "wire.pcap")), [[6, port]])
    moved = sum_moved(read_records(tmp_path / "records.jsonl"), os.getpid())
    total = (
        truth.transmit_bytes + truth.receive_bytes,
        truth.transmit_packets + truth.receive_packets,
    )
    assert (moved.transmit_bytes, moved.transmit_packets) == total
    assert (moved.receive_bytes, moved.receive_packets) == total


@contextmanager
def preforked(where: Namespace) -> Iterator[int]:
    """Run a server with workers; give its pid."""
    words = (sys.executable, "-c", PREFORKED, str(PORT))
    with running(where, *words, stdin=subprocess.PIPE) as run:
        run.wait_for("ready")
        yield run.process.pid
        assert run.process.stdin is not None
        run.process.stdin.close()
        assert run.wait() == 0


def ask(where: Namespace) -> tuple[int, socket.socket]:
    """Open a connection; return the worker that answered, and the connection, still open."""
    end = where.call(lambda: socket.create_connection(("127.0.0.1", PORT)))
    end.sendall(b"x")
    return int(end.recv(100)), end


def test_each_worker_gets_the_connections_that_it_served(netns: Namespace, tmp_path: Path) -> None:
    with counting(netns, config(tmp_path, by_flow=True)), preforked(netns) as parent:
        served: dict[int, int] = {}
        for _ in range(60):
            worker, end = ask(netns)
            with end:
                served[end.getsockname()[1]] = worker
    recorded = {
        record["network"]["peer"]["port"]: record
        for record in traffic_of(read_records(tmp_path / "records.jsonl"))
        if record.get("network", {}).get("local", {}).get("port") == PORT
    }
    right = [port for port, worker in served.items() if recorded[port]["process"]["pid"] == worker]
    assert len(set(served.values())) > 1
    # A window may end within a connection, whose first part is the parent's.
    assert len(right) >= len(served) - 2
    assert {recorded[port]["process"]["pid"] for port in served} <= {parent, *served.values()}


@pytest.mark.parametrize("server_first", [True, False])
def test_a_connection_that_stays_open_is_its_workers(
    netns: Namespace, tmp_path: Path, server_first: bool
) -> None:
    path = tmp_path / "records.jsonl"

    if server_first:
        with preforked(netns), counting(netns, config(tmp_path)):
            worker, end = ask(netns)
            with end:
                wait_until(lambda: is_recorded(path, worker))
    else:
        with counting(netns, config(tmp_path)), preforked(netns):
            worker, end = ask(netns)
            with end:
                wait_until(lambda: is_recorded(path, worker))
    assert qualities_of(read_records(path), worker)["exact"] > 0


@pytest.mark.parametrize("interval", [0.5, 86_400])
def test_a_connection_that_is_open_when_the_run_ends_is_recorded(
    netns: Namespace, tmp_path: Path, interval: float
) -> None:
    with ExitStack() as stack, counting(netns, config(tmp_path, interval=interval)):
        listener = netns.call(lambda: socket.create_server(("127.0.0.1", 0)))
        client = netns.call(lambda: socket.create_connection(listener.getsockname()))
        server, _ = listener.accept()
        for one in (listener, client, server):
            stack.enter_context(one)
        client.sendall(b"x" * 50_000)
    records = read_records(tmp_path / "records.jsonl")
    moved = sum_moved(records, os.getpid())
    assert moved.transmit_bytes == moved.receive_bytes > 50_000
    assert_conserved(records)


def test_sockets_from_before_the_run_have_owners(netns: Namespace, tmp_path: Path) -> None:
    with (
        peer(netns, "serve", "127.0.0.1", "::1") as server,
        netns.call(lambda: socket.create_connection(tuple(server["servers"][0][1:]))) as stream,
        netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
    ):
        datagrams.connect(tuple(server["servers"][1][1:]))
        with counting(netns, config(tmp_path)):
            for end in (stream, datagrams):
                end.send(b"x" * 1000)
                assert end.recv(2000)
            time.sleep(1)
    records = read_records(tmp_path / "records.jsonl")
    assert moved_by(records, os.getpid()) >= 4000
    assert moved_by(records, server["pid"]) >= 4000
    assert set(qualities_of(records, server["pid"])) <= {"exact", "listener"}


def test_a_connection_that_outlives_its_process_is_the_childs(
    netns: Namespace, tmp_path: Path
) -> None:
    """As with a daemon that connects before it goes into the background."""
    path = tmp_path / "records.jsonl"
    daemon = (
        "import os, socket, sys, time\n"
        "end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "if pid := os.fork(): print(pid, flush=True); os._exit(0)\n"
        "os.close(1)\n"
        "for _ in range(40): end.send(b'x'); end.recv(10); time.sleep(0.1)\n"
    )
    with (
        counting(netns, config(tmp_path)),
        peer(netns, "serve", "127.0.0.1") as server,
    ):
        port = str(server["servers"][0][2])
        first = netns.popen(sys.executable, "-c", daemon, port, stdout=subprocess.PIPE)
        child = int(first.communicate()[0])
        wait_until(lambda: is_recorded(path, child))
    assert qualities_of(read_records(path), child).keys() == {"exact"}
    wait_until(lambda: not Path(f"/proc/{child}").exists())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_processes_that_exited_within_the_window_have_names(
    netns: Namespace, tmp_path: Path, host: str
) -> None:
    with (
        counting(netns, config(tmp_path, interval=60)),
        peer(netns, "serve", host) as server,
    ):
        pids = [
            int(done.communicate()[0])
            for done in [
                netns.popen(
                    sys.executable, "-c", SHORT, host, str(server["servers"][0][2]),
                    stdout=subprocess.PIPE,
                )
                for _ in range(10)
            ]
        ]  # fmt: skip
    records = read_records(tmp_path / "records.jsonl")
    for pid in pids:
        assert qualities_of(records, pid).keys() == {"exact"}
    named = [
        record["process"] for record in traffic_of(records)
        if record.get("process", {}).get("pid") in pids
    ]  # fmt: skip
    assert all(process["executable"]["path"] for process in named)
    assert all(process["creation"]["time"] for process in named)
    assert_conserved(records)


def test_a_container_of_the_host_is_counted_too(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    host, container = container_veth
    with (
        counting(host, config(tmp_path, by_flow=True)),
        peer(container, "serve", "127.0.0.1", "10.77.0.2") as server,
        peer(container, "talk", SIZE, json.dumps(server["servers"])) as client,
        peer(host, "talk", SIZE, json.dumps(server["servers"][2:])) as caller,
    ):
        time.sleep(1)
    records = read_records(tmp_path / "records.jsonl")
    for process in (server, client, caller):
        assert moved_by(records, process["pid"]) > 2 * int(SIZE)
        assert set(qualities_of(records, process["pid"])) <= {"exact", "listener"}
    none = [record for record in traffic_of(records) if "none" in record["attribution"]]
    ports = {port for process in (server, client, caller) for _, port in process["ports"]}
    assert not [one for one in none if one["network"]["local"].get("port") in ports]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_echoes_are_the_pinging_processes(netns: Namespace, tmp_path: Path, host: str) -> None:
    family, protocol, size = (10, 58, 148) if ":" in host else (2, 1, 128)
    kind = 128 if ":" in host else 8
    netns.call(lambda: Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 100000"))
    ping = (
        f"import os, socket\n"
        f"with socket.socket({family}, socket.SOCK_DGRAM, {protocol}) as end:\n"
        f"    for _ in range(5):\n"
        f"        end.sendto(bytes([{kind}]) + bytes(107), ('{host}', 0))\n"
        f"        end.recv(1000)\n"
    )
    with counting(netns, config(tmp_path)):
        done = netns.popen(sys.executable, "-c", ping)
        assert done.wait() == 0
    moved = sum_moved(read_records(tmp_path / "records.jsonl"), done.pid)
    assert moved == (5 * size, 5, 5 * size, 5)


def test_with_tiny_maps_processes_keep_their_totals(netns: Namespace, tmp_path: Path) -> None:
    require("ip", "tcpdump")
    with (
        tcpdump(netns, "lo", tmp_path / "wire.pcap") as dump,
        counting(netns, config(tmp_path, "max_flows = 16", interval=0.3)),
    ):
        with (
            peer(netns, "serve", *["127.0.0.1", "::1"] * 10) as server,
            peer(netns, "talk", "20000", json.dumps(server["servers"])) as client,
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        dump.end()
    records = read_records(tmp_path / "records.jsonl")
    packets = list(read_packets(tmp_path / "wire.pcap"))
    assert sum_moved(records, client["pid"]) == count(packets, client["ports"])
    assert_conserved(records)
    assert sum(one["capture"]["overflowed"]["bytes"] for one in stats_of(records)) > 0


def test_windows_are_contiguous_and_end_at_multiples_of_the_interval(
    netns: Namespace, tmp_path: Path
) -> None:
    with counting(netns, config(tmp_path, interval=0.2)):
        time.sleep(1.5)
    windows = [record["window"] for record in stats_of(read_records(tmp_path / "records.jsonl"))]
    assert len(windows) >= 5
    for earlier, later in pairwise(windows):
        assert earlier["end"] == later["start"]
    for window in windows[1:-1]:
        assert window["end"][-4:-1] in {"000", "200", "400", "600", "800"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_attached_when_a_run_has_ended(
    netns: Namespace, tmp_path: Path, number: signal.Signals
) -> None:
    require_bpf()
    root = find_cgroup_root()
    words = netns.enter(sys.executable, "-m", "hogpipe", "-v", "run", config(tmp_path))
    with running(None, *words) as run:
        run.wait_for("owners come from")
        ours = attached_by(run.process.pid) & all_attached(root)
        assert ours
        run.end(number)
    wait_until(lambda: not ours & all_attached(root))


def test_in_a_pid_namespace_the_run_ends_with_the_remedy(netns: Namespace, tmp_path: Path) -> None:
    require_bpf()
    words = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "hogpipe", "run")
    with running(None, *netns.enter(*words, config(tmp_path))) as run:
        assert run.wait() == 78
    (line,) = run.errors
    assert re.match('hogpipe: capture.source: "ebpf" needs .*; set attribution.procfs', line)
