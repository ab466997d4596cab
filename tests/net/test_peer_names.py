"""Names of peers, of connections that several processes make by name, through libc's resolver.

Names are reached over IPv4 and IPv6, through aliases, and over TCP where the answer is too long for
a datagram. Each process asks for names of its own; two of them get the same addresses, so that a
name of the other one's answer would be wrong.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, pair, require
from support.running import (
    hogpipe,
    read_records,
    running,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

HERE, SERVER, PORT = ("10.53.0.1/16", "fd53::1:1/64"), ("10.53.0.2/16", "fd53::1:2/64"), 8080
SUPPORT = Path(__file__).parents[1] / "support"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SUPPORT.parent}:{SUPPORT.parents[1]}"}
ACCEPT = f"""
import socket, sys
family = socket.AF_INET6
server = socket.create_server(("::", {PORT}), family=family, dualstack_ipv6=True, backlog=500)
print("listening", file=sys.stderr, flush=True)
while True:
    client, _ = server.accept()
    client.recv(1000)
    client.sendall(b"y" * 1000)
    client.close()
"""
CONFIG = """
[capture]
source = "{source}"
[aggregation]
group_by = ["process", "flow", "domain"]
interval = 0.5
[enrichment]
peer_names = "{names}"
[[sinks]]
type = "jsonl"
path = "records.jsonl"
stats = true
"""
KINDS = 8 * ("", "cname-", "big-")
CLIENTS = {"one": 1, "two": 30, "three": 60, "shares": 60}
"""By the zone of its names: the number of the first address of each process."""
ALONE = ("one.", "two.")
ADDRESSES = 90


class Connection(NamedTuple):
    local_port: int
    address: str


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """A host whose resolver asks a DNS server beyond a wire, where all names lead to."""
    require("ip", "nsenter")
    with pair([(HERE[0], SERVER[0]), (HERE[1], SERVER[1])]) as (here, there):
        for number in range(1, ADDRESSES):
            there.ip("address", "add", f"10.53.1.{number}/16", "dev", "right")
            there.ip("address", "add", f"fd53::{number}/64", "dev", "right", "nodad")
        folder = Path(f"/etc/netns/{here.name}")
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text("nameserver 10.53.0.2\n")
        resolves = [sys.executable, "-m", "support.dns_server", "10.53.0.2"]
        try:
            with (
                running(there, *resolves, env=ENVIRONMENT) as resolver,
                running(there, sys.executable, "-c", ACCEPT) as server,
            ):
                resolver.wait_for("listening")
                server.wait_for("listening")
                yield here
        finally:
            (folder / "resolv.conf").unlink()
            folder.rmdir()


def connect_in_turn(host: Namespace, *names: str) -> dict[Connection, str]:
    """Connect from one process; return the name, or address, of each connection."""
    client = host.command(sys.executable, SUPPORT / "named_client.py", str(PORT), *names)
    lines = subprocess.run(client, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = map(json.loads, lines.splitlines())
    return {Connection(one["port"], one["address"]): one["name"] for one in made}


def connect(host: Namespace) -> dict[Connection, tuple[int, str]]:
    """Connect from a process for each zone at once; return pid and name of each connection."""
    clients = [
        subprocess.Popen(
            host.command(
                sys.executable,
                SUPPORT / "named_client.py",
                str(PORT),
                *2 * [f"{kind}a{first + n}.{zone}.test" for n, kind in enumerate(KINDS)],
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for zone, first in CLIENTS.items()
    ]
    made = [json.loads(line) for client in clients for line in client.communicate()[0].splitlines()]
    return {Connection(one["port"], one["address"]): (one["pid"], one["name"]) for one in made}


def find_names(records: list[dict[str, Any]]) -> dict[Connection, set[tuple[Any, Any, Any]]]:
    """Return pid, name and quality of the records of each connection."""
    found: dict[Connection, set[tuple[Any, Any, Any]]] = {}
    for record in traffic_of(records):
        network, peer = record["network"], record["network"].get("peer", {})
        if peer.get("port") == PORT:
            connection = Connection(network["local"]["port"], peer["address"])
            pid = record.get("process", {}).get("pid")
            names = pid, peer.get("domain"), peer.get("domain_quality")
            found.setdefault(connection, set()).add(names)
    return found


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_connections_have_the_names_that_their_processes_asked_for(
    host: Namespace, tmp_path: Path, source: str
) -> None:
    require_bpf()
    config = write_config(tmp_path, CONFIG.format(source=source, names="passive"))
    with hogpipe(host, "run", config) as run:
        run.wait_for("owners come from")
        expected = connect(host)
        assert run.end() == 0
    records = read_records(tmp_path / "records.jsonl")
    found = find_names(records)
    assert len(expected) == len(CLIENTS) * 2 * len(KINDS)
    wrong = {
        connection: found[connection]
        for connection, (_pid, name) in expected.items()
        if any(one[1] not in {None, name} for one in found[connection])
    }
    assert wrong == {}
    alone = [one for one, (_pid, name) in expected.items() if name.split(".", 1)[1][:4] in ALONE]
    unnamed = [one for one in alone if {name for _, name, _ in found[one]} != {expected[one][1]}]
    assert len(unnamed) <= 0.01 * len(alone), unnamed
    if source == "ebpf":  # with pcap two processes on one port of UDP are not kept apart
        own = {one: {(*known, "process")} for one, known in expected.items()}
        less = [one for one in expected if found[one] != own[one]]
        assert len(less) <= 0.01 * len(expected), less
    counts = [one["peer_names"] for one in stats_of(records)]
    assert sum(one["queries"] for one in counts) == sum(one["answers"] for one in counts)
    assert max(one["addresses"] for one in counts) == 2 * 3 * len(KINDS)
    assert not any(one["dropped"] or one["malformed"] for one in counts)


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_addresses_without_a_name_are_asked_about_in_reverse_dns(
    host: Namespace, tmp_path: Path, source: str
) -> None:
    require_bpf()
    config = write_config(tmp_path, CONFIG.format(source=source, names="reverse"))
    records = tmp_path / "records.jsonl"
    names = "10.53.1.80", "10.53.1.81", "fd53::80", "a82.one.test"
    made: dict[Connection, str] = {}

    def are_known() -> bool:
        made.update(connect_in_turn(host, *names))
        return {f"r{number}.reverse.test" for number in (80, 81)} <= set(
            re.findall('"domain":"([^"]+)"', records.read_text())
        )

    with hogpipe(host, "run", config) as run:
        run.wait_for("owners come from")
        wait_until(are_known)
        last = connect_in_turn(host, *names)
        assert run.end() == 0
    lines = read_records(records)
    found = find_names(lines)
    reverse = {
        "10.53.1.80": ("r80.reverse.test", "reverse"),
        "10.53.1.81": ("r81.reverse.test", "reverse"),
        "fd53::80": (None, None),
        "a82.one.test": ("a82.one.test", "process"),
    }
    assert {name: one[1:] for flow, name in last.items() for one in found[flow]} == reverse
    # Those that were there before the name was known have none, or have it since then.
    for flow, name in made.items():
        assert {one[1:] for one in found[flow]} <= {reverse[name], (None, None)}
    if source == "pcap":  # the other one sees what other tests do, too
        counts = [one["peer_names"]["reverse"] for one in stats_of(lines)]
        total = {key: sum(one[key] for one in counts) for key in counts[0]}
        # The server of the queries is not asked about, and nothing is asked about twice.
        assert total == {"asked": 3, "answered": 3, "failed": 0, "dropped": 0}
