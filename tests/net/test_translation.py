"""Address translation (NAT): each byte of a container's process counts once, at its veth.

A host translates between a container behind `port0` and another host behind `uplink0`. The other
host is on a wire of its own, so that the uplink leads to no container.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.bpf import require_bpf
from support.measured_run import (
    SIZE,
    TAIL,
    Process,
    assert_moved,
    configure,
    measured_run,
    read_conserved_records,
    talk,
)
from support.namespaces import Namespace, namespace, require
from support.running import balance, hogpipe, peer, read_records, running, stats_of, traffic_of
from support.wire import Moved, count, read_packets, sum_moved

HOST, CONTAINER, OUTSIDE = "10.89.0.1", "10.88.0.2", "10.89.0.2"
HOST6, CONTAINER6, OUTSIDE6 = "fd89::1", "fd88::2", "fd89::2"
MASQUERADE = """
table inet translation {
    chain leaving {
        type nat hook postrouting priority 100
        oifname "uplink0" masquerade
    }
}
"""
LEDGER = pytest.mark.parametrize("ledger", ["off", "auto"])

pytestmark = pytest.mark.usefixtures("_programs")


@pytest.fixture
def _programs() -> None:
    require("ip", "nft", "tcpdump")


class Hosts(NamedTuple):
    host: Namespace
    container: Namespace
    outside: Namespace

    def translate(self, rules: str) -> None:
        """Add rules of nftables to the host."""
        subprocess.run(self.host.command("nft", "-f", "-"), input=rules, text=True, check=True)

    def publish(self, server: Process) -> Process:
        """Translate ports of the host to those of a server in the container; return it as seen."""
        published = []
        rules = []
        for number, (transport, address, port) in enumerate(server["servers"]):
            family, here = ("ip6", HOST6) if ":" in address else ("ip", HOST)
            there = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            outer = 8000 + number
            rules.append(
                f"{family} daddr {here} {transport} dport {outer} dnat {family} to {there}"
            )
            published.append([transport, here, outer])
        hook = "type nat hook prerouting priority -100"
        self.translate(
            f"table inet publication {{ chain arriving {{ {hook}\n" + "\n".join(rules) + "\n}\n}"
        )
        return server | {"servers": published}


@contextmanager
def translating(rules: str = MASQUERADE) -> Iterator[Hosts]:
    """Create the namespaces, with a process in the container, and the host's `rules`."""
    with ExitStack() as stack:
        host, container, outside, wire = (stack.enter_context(namespace()) for _ in range(4))
        stack.enter_context(running(container, "sleep", "60"))
        wire.call(lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        wire.ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        wire.ip("link", "set", "bridge", "up")
        for one, end in (("uplink0", host), ("far0", outside)):
            end.ip("link", "add", one, "type", "veth", "peer", "name", one, "netns", wire.name)
            wire.ip("link", "set", one, "master", "bridge", "up")
        host.ip("link", "add", "port0", "type", "veth", "peer", "eth0", "netns", container.name)
        for where, device, addresses in (
            (host, "port0", ("10.88.0.1/24", "fd88::1/64")),
            (container, "eth0", (f"{CONTAINER}/24", f"{CONTAINER6}/64")),
            (host, "uplink0", (f"{HOST}/24", f"{HOST6}/64")),
            (outside, "far0", (f"{OUTSIDE}/24", f"{OUTSIDE6}/64")),
        ):
            for address in addresses:
                no_dad = ["nodad"] if ":" in address else []
                where.ip("address", "add", address, "dev", device, *no_dad)
            where.ip("link", "set", device, "up")
        container.ip("route", "add", "default", "via", "10.88.0.1")
        container.ip("-6", "route", "add", "default", "via", "fd88::1")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            host.call(lambda key=key: Path(f"/proc/sys/net/{key}").write_text("1"))  # type: ignore[misc]
        hosts = Hosts(host, container, outside)
        hosts.translate(rules)
        yield hosts


@contextmanager
def captured(folder: Path, hosts: Hosts, ledger: str) -> Iterator[None]:
    """Run hogpipe and tcpdump on both interfaces of the host."""
    names = ("port0", "uplink0")
    dumps = [(hosts.host, name) for name in names]
    group_by = ("process", "interface", "transport")
    with measured_run(
        folder, hosts.host, ["auto"], dumps, captures=names, ledger=ledger, group_by=group_by
    ):
        yield


def unattributed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of TCP and UDP without a process."""
    return [
        record
        for record in traffic_of(records)
        if "process" not in record and record["network"]["transport"] in {"tcp", "udp"}
    ]


def sum_translated(records: Sequence[dict[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in stats_of(records):
        total.update(record["attribution"]["translated"])
    return total


def assert_counted_once(folder: Path, process: Process) -> None:
    """Assert that a process has its bytes at its veth, and all of the uplink is translated."""
    records = read_conserved_records(folder)
    assert_moved(folder, records, "port0", process)
    assert unattributed(records) == []
    wire = list(read_packets(folder / "uplink0.pcap"))
    translated = sum_translated(records)
    assert translated == {"packets": len(wire), "bytes": sum(packet.size for packet in wire)}
    assert translated["bytes"] > SIZE


@LEDGER
def test_what_a_container_exchanges_through_a_masquerade_counts_once(
    ledger: str, tmp_path: Path
) -> None:
    with (
        translating() as hosts,
        peer(hosts.outside, "serve", OUTSIDE, OUTSIDE6) as server,
        captured(tmp_path, hosts, ledger),
        talk(hosts.container, server) as client,
    ):
        time.sleep(TAIL)
    assert_counted_once(tmp_path, client)


@LEDGER
def test_what_a_container_serves_on_a_published_port_counts_once(
    ledger: str, tmp_path: Path
) -> None:
    with (
        translating() as hosts,
        peer(hosts.container, "serve", CONTAINER, CONTAINER6) as server,
        captured(tmp_path, hosts, ledger),
        talk(hosts.outside, hosts.publish(server)),
    ):
        time.sleep(TAIL)
    assert_counted_once(tmp_path, server)


@LEDGER
def test_a_proxy_that_listens_on_the_published_port_has_none_of_the_bytes(
    ledger: str, tmp_path: Path
) -> None:
    listen = "import socket, sys; one = socket.create_server(('', 8000)); sys.stdin.read()"
    with (
        translating() as hosts,
        peer(hosts.container, "serve", CONTAINER) as server,
        running(hosts.host, sys.executable, "-c", listen, stdin=subprocess.PIPE) as proxy,
        captured(tmp_path, hosts, ledger),
        talk(hosts.outside, hosts.publish(server)),
    ):
        time.sleep(TAIL)
    assert_counted_once(tmp_path, server)
    records = read_records(tmp_path / "records.jsonl")
    assert sum_moved(records, proxy.process.pid) == Moved(0, 0, 0, 0)


@LEDGER
def test_a_redirected_port_of_the_host_belongs_to_the_process_behind_it(
    ledger: str, tmp_path: Path
) -> None:
    with (
        translating() as hosts,
        peer(hosts.host, "serve", HOST, HOST6) as server,
        captured(tmp_path, hosts, ledger),
        talk(hosts.outside, hosts.publish(server)) as client,
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    truth = count(list(read_packets(tmp_path / "uplink0.pcap")), client["ports"])
    moved = sum_moved(records, server["pid"])
    assert (moved.receive_bytes, moved.receive_packets) == truth[:2]
    assert (moved.transmit_bytes, moved.transmit_packets) == truth[2:]
    assert unattributed(records) == []
    assert not sum_translated(records)["packets"]


def run_and_talk(
    folder: Path, config: Path, captures: Sequence[str], *wrapper: str
) -> tuple[Process, list[dict[str, Any]], list[str]]:
    """Run hogpipe, behind `wrapper`, while the container talks through a masquerade."""
    with (
        translating() as hosts,
        peer(hosts.outside, "serve", OUTSIDE) as server,
        running(hosts.host, *wrapper, sys.executable, "-m", "hogpipe", "-v", "run", config) as run,
    ):
        run.wait_for_each(*(f"capturing on {name}$" for name in captures))
        with talk(hosts.container, server) as client:
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
    return client, read_conserved_records(folder), run.errors


@pytest.mark.parametrize(
    ("interfaces", "more"),
    [
        pytest.param(["uplink0"], "", id="only the uplink is captured"),
        pytest.param(["auto"], f'filter = "not host {CONTAINER}"', id="a filter"),
    ],
)
def test_the_only_copy_of_a_translated_packet_is_recorded(
    interfaces: list[str], more: str, tmp_path: Path
) -> None:
    config = configure(tmp_path, *interfaces, more=more)
    client, records, _errors = run_and_talk(tmp_path, config, ["uplink0"])
    assert sum_moved(records, client["pid"]) == Moved(0, 0, 0, 0)
    assert sum_moved(records, None).transmit_bytes > SIZE
    assert not sum_translated(records)["packets"]


def test_without_the_right_to_ask_the_second_copy_is_unattributed_and_the_log_says_why(
    tmp_path: Path,
) -> None:
    require("setpriv")
    rights = "-all,+net_raw,+sys_ptrace,+dac_read_search"
    without = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")
    config = configure(tmp_path, "auto")
    client, records, errors = run_and_talk(tmp_path, config, ["port0", "uplink0"], *without)
    assert sum_moved(records, client["pid"]).transmit_bytes > SIZE
    assert sum_moved(records, None).transmit_bytes > SIZE
    assert not sum_translated(records)["packets"]
    assert len([line for line in errors if "conntrack cannot be asked" in line]) == 1


def test_the_source_ebpf_counts_translated_packets_at_their_socket_only(tmp_path: Path) -> None:
    require_bpf()
    path = configure(tmp_path, "auto", group_by=("process", "transport"))
    path.write_text(path.read_text().replace('interfaces = ["auto"]', 'source = "ebpf"'))
    with (
        translating() as hosts,
        peer(hosts.outside, "serve", OUTSIDE) as server,
        hogpipe(None, "-v", "run", path) as run,
    ):
        run.wait_for("owners come from")
        with talk(hosts.container, server) as client:
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
    records = read_records(tmp_path / "records.jsonl")
    recorded, counted = balance(records)
    assert recorded == counted
    assert sum_moved(records, client["pid"]).transmit_bytes > SIZE
    assert not sum_translated(records)["packets"]
