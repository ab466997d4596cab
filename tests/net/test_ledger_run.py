"""`hogpipe run` with the ledger: connections and exchanges that no look into /proc could catch."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import (
    all_attached,
    attached_by,
    find_cgroup_root,
    nothing_stays_attached,
    require_bpf,
)
from support.ledger import LEDGER_RUN
from support.namespaces import Namespace
from support.running import (
    Running,
    assert_conserved,
    read_records,
    running,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

from hogpipe.records.tcp_health import parse_tcp

PORT, EXCHANGES = 900, 150
# Answers on TCP and UDP, and ends with its input.
SERVER = """
import os, selectors, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, port), family=family, backlog=1024)
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((host, port))
selector = selectors.DefaultSelector()
for one in (listener, datagrams, sys.stdin):
    selector.register(one, selectors.EVENT_READ)
print("ready", os.getpid(), file=sys.stderr, flush=True)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))
        elif key.fileobj is datagrams:
            data, peer = datagrams.recvfrom(100)
            datagrams.sendto(data, peer)
        else:
            sys.exit()
"""
# Prints its pid, and the local ports of its exchanges by transport.
CLIENT = """
import json, os, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
ports = {"tcp": [], "udp": []}
for number in range(count):
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.connect((host, port))
        end.sendall(b"x" * 50)
        ports["tcp"].append(end.getsockname()[1])
        assert end.recv(100) and not end.recv(100)
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.settimeout(10)
        if number % 2:
            end.connect((host, port))
            end.send(b"x" * 50)
        else:
            end.sendto(b"x" * 50, (host, port))
        ports["udp"].append(end.getsockname()[1])
        end.recv(100)
print(json.dumps([os.getpid(), ports]))
"""

# Prints its pid. The server ends each connection first, so that the local port is free at once.
REUSING_CLIENT = """
import os, socket, sys
for _ in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as end:
        end.sendall(b"x" * 50)
        assert end.recv(100) and not end.recv(100)
print(os.getpid())
"""

# Connects from one port, by one child after the other.
FORKING_CLIENT = """
import os, socket, sys
pids = []
for _ in range(int(sys.argv[2])):
    pids.append(os.fork())
    if pids[-1] == 0:
        with socket.create_connection(
            ("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.1", 40000)
        ) as end:
            end.sendall(b"x" * 50)
            assert end.recv(100) and not end.recv(100)
        os._exit(0)
    os.waitpid(pids[-1], 0)
print(*pids)
"""

Owners = dict[tuple[str, int], int]


@contextmanager
def server(where: Namespace, host: str) -> Iterator[int]:
    """Run a server; give its pid."""
    words = (sys.executable, "-c", SERVER, host, str(PORT))
    with running(where, *words, stdin=subprocess.PIPE) as run:
        run.wait_for("ready")
        yield run.process.pid


def exchange(where: Namespace, host: str, clients: int = 2) -> Owners:
    """Let clients talk to the server; give the owners of ports that one client alone had."""
    words = (sys.executable, "-c", CLIENT, host, str(PORT), str(EXCHANGES))
    started = [where.popen(*words, stdout=subprocess.PIPE) for _ in range(clients)]
    reports = [json.loads(one.communicate()[0]) for one in started]
    owners: dict[tuple[str, int], set[int]] = {}
    for pid, by_transport in reports:
        for transport, ports in by_transport.items():
            for port in ports:
                owners.setdefault((transport, port), set()).add(pid)
    return {end: pids.pop() for end, pids in owners.items() if len(pids) == 1}


def bytes_by_rightness(
    records: Sequence[dict[str, Any]], owners: Owners, served_by: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of clients, and of the server, whose owner is right, wrong or none."""
    sides: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for record in traffic_of(records):
        network = record["network"]
        local, peer = network["local"].get("port"), network["peer"].get("port")
        moved = sum(one["bytes"] for one in network["io"].values())
        pid = record.get("process", {}).get("pid")
        if local == PORT:
            side, owner = sides[1], served_by
        elif peer == PORT and (network["transport"], local) in owners:
            side, owner = sides[0], owners[network["transport"], local]
        else:
            continue
        outcome = "none" if pid is None else "right" if pid == owner else "wrong"
        side[outcome] = side.get(outcome, 0) + moved
    return sides


@contextmanager
def hogpipe(where: Namespace, config: Path) -> Iterator[Running]:
    """Run hogpipe with the ledger, which needs to see the control groups."""
    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    with running(None, *words) as run:
        yield run


@contextmanager
def recording(where: Namespace, interface: str, folder: Path, ready: str) -> Iterator[Path]:
    """Run hogpipe with the ledger for as long as the context lasts; give the records' path."""
    config = write_config(folder, LEDGER_RUN.format(interface=interface))
    with hogpipe(where, config) as run:
        run.wait_for_each("owners come from the ledger", ready)
        yield folder / "records.jsonl"
        time.sleep(0.5)
        assert run.end() == 0, run.errors


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_of_two_clients_and_the_server_get_all_bytes_of_short_exchanges(
    netns: Namespace, tmp_path: Path, host: str
) -> None:
    require_bpf()
    with server(netns, host) as pid:
        with recording(netns, "lo", tmp_path, "capturing on lo") as path:
            owners = exchange(netns, host)
        records = read_records(path)
    assert len(owners) > EXCHANGES
    outbound, inbound = bytes_by_rightness(records, owners, pid)
    assert outbound.keys() == {"right"}, outbound
    assert inbound.keys() == {"right"}, inbound
    assert_conserved(records)
    counts = stats_of(records)[-1]["attribution"]["ledger"]
    lost = (counts["events_lost"], counts["sockets_lost"], counts["malformed_events"])
    assert lost == (0, 0, 0)


def test_a_port_that_processes_use_one_after_the_other_belongs_to_each_in_its_time(
    netns: Namespace, tmp_path: Path
) -> None:
    require_bpf()
    netns.call(lambda: Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40007"))
    command = netns.command(sys.executable, "-c", REUSING_CLIENT, str(PORT), "10")
    with server(netns, "127.0.0.1"), recording(netns, "lo", tmp_path, "capturing on lo") as path:
        pids = [int(subprocess.check_output(command)) for _ in range(6)]
    traffic = traffic_of(read_records(path))
    assert all("none" not in one["attribution"] for one in traffic)
    clients = [one for one in traffic if one["network"]["peer"].get("port") == PORT]
    assert {one["process"]["pid"] for one in clients} == set(pids)
    # A record may have health alone, and no bytes that are attributed.
    assert all(one["attribution"].keys() <= {"exact"} for one in clients)
    for pid in pids:
        flows = [one["network"] for one in clients if one["process"]["pid"] == pid]
        assert sum(one["io"]["transmit"]["bytes"] for one in flows) > 10 * 50


def test_a_port_that_processes_use_within_milliseconds_belongs_to_each_in_its_time(
    netns: Namespace, tmp_path: Path
) -> None:
    require_bpf()
    command = netns.command(sys.executable, "-c", FORKING_CLIENT, str(PORT), "6")
    with server(netns, "127.0.0.1"), recording(netns, "lo", tmp_path, "capturing on lo") as path:
        pids = [int(pid) for pid in subprocess.check_output(command).split()]
    clients = [
        one for one in traffic_of(read_records(path)) if one["network"]["peer"].get("port") == PORT
    ]
    moved: Counter[int] = Counter()
    opened: Counter[int] = Counter()
    for one in clients:
        assert one["attribution"].keys() <= {"exact"}
        moved[one["process"]["pid"]] += one["network"]["io"]["transmit"]["bytes"]
        if (health := parse_tcp(one["network"])) is not None:
            opened[one["process"]["pid"]] += health.opened
    assert moved.keys() == set(pids)
    assert len(set(moved.values())) == 1, moved
    assert opened == dict.fromkeys(pids, 1)


def test_short_exchanges_with_a_container_belong_to_the_processes_on_both_sides(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require_bpf()
    host, container = container_veth
    with server(container, "10.77.0.2") as pid:
        with recording(host, "left", tmp_path, "network namespaces at captured") as path:
            owners = exchange(host, "10.77.0.2")
        records = read_records(path)
    outbound, inbound = bytes_by_rightness(records, owners, pid)
    assert outbound.keys() == {"right"}, outbound
    assert inbound.keys() == {"right"}, inbound


def test_a_required_ledger_without_the_object_ends_the_run(
    netns: Namespace, tmp_path: Path
) -> None:
    config = write_config(tmp_path, LEDGER_RUN.format(interface="lo"))
    program = """
import pathlib, sys, hogpipe.linux.bpf.programs, hogpipe.cli
hogpipe.linux.bpf.programs.object_path = lambda: pathlib.Path("/nowhere/hogpipe.bpf.o")
sys.argv[0] = "hogpipe"
hogpipe.cli.main()
"""
    with running(netns, sys.executable, "-c", program, "run", config) as run:
        assert run.wait() == 78
    (line,) = run.errors
    assert "/nowhere/hogpipe.bpf.o cannot be read" in line
    assert not (tmp_path / "records.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_attached_when_a_run_has_ended(
    netns: Namespace, tmp_path: Path, number: signal.Signals
) -> None:
    require_bpf()
    root = find_cgroup_root()
    with hogpipe(netns, write_config(tmp_path, LEDGER_RUN.format(interface="lo"))) as run:
        run.wait_for("capturing on lo")
        ours = attached_by(run.process.pid) & all_attached(root)
        assert ours
        run.end(number)
    wait_until(lambda: not ours & all_attached(root))


def test_nothing_stays_attached_when_a_run_cannot_begin(netns: Namespace, tmp_path: Path) -> None:
    require_bpf()
    config = write_config(tmp_path, LEDGER_RUN.format(interface="eth7"))
    with nothing_stays_attached(), hogpipe(netns, config) as run:
        assert run.wait() == 78
        assert 'no interface "eth7"' in "".join(run.errors)
