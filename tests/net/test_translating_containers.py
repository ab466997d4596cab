"""Containers that translate addresses (NAT): whose bytes they are, in each of the three ways.

    outside --- uplink0  host  port0 --- container
                               port1 --- router --- nested

The host and the router masquerade. The container reaches `FAR` through the router: its packets pass
`port0`, then `port1` twice, the second time with the router's address, then `uplink0`. All
situations take place in one run of hogpipe on the host.
"""

import socket
import subprocess
import time
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
    counted_run,
    measured_run,
    read_conserved_records,
    talk,
)
from support.namespaces import Namespace, namespace, require
from support.offloads import segment_in_kernel
from support.running import inhabitant, peer
from support.translation import (
    CONTAINER,
    HOST,
    MASQUERADE,
    OUTSIDE,
    Hosts,
    sum_translated,
    translating,
    unattributed,
)
from support.wire import (
    Packet,
    count,
    read_packets,
    remove_fragment_headers,
    sum_by_interface,
    sum_moved,
)

FAR = "10.89.0.3"  # another address of the outside, which the container reaches through the router
ROUTER, NESTED, LOOPBACK = "10.87.0.2", "10.86.0.2", "127.0.0.1"
INTERFACES = ("port0", "port1", "uplink0")


class Outcome(NamedTuple):
    """The records of a run, the packets by interface, and the processes by situation."""

    way: str
    records: Sequence[dict[str, Any]]
    wire: dict[str, list[Packet]]
    processes: dict[str, Process]


def connect(host: Namespace, port: str, there: Namespace, address: str) -> None:
    """Join `there` to a host by a veth, and route everything through it."""
    network = address.rpartition(".")[0]
    host.ip("link", "add", port, "type", "veth", "peer", "eth0", "netns", there.name)
    host.ip("address", "add", f"{network}.1/24", "dev", port)
    there.ip("address", "add", f"{address}/24", "dev", "eth0")
    host.ip("link", "set", port, "up")
    there.ip("link", "set", "eth0", "up")
    segment_in_kernel(host, port)
    segment_in_kernel(there, "eth0")
    there.ip("route", "add", "default", "via", f"{network}.1")


def translate(where: Namespace, rules: str) -> None:
    subprocess.run(where.command("nft", "-f", "-"), input=rules, text=True, check=True)


def set_sysctl(where: Namespace, name: str, value: int) -> None:
    where.call(lambda: Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value)))


@contextmanager
def routed(hosts: Hosts) -> Iterator[Namespace]:
    """Add the router and the network inside it, which is returned."""
    with namespace() as router, namespace() as nested, ExitStack() as stack:
        connect(hosts.host, "port1", router, ROUTER)
        connect(router, "port2", nested, NESTED)
        stack.enter_context(inhabitant(router))
        stack.enter_context(inhabitant(nested))
        set_sysctl(router, "ip_forward", 1)
        translate(router, MASQUERADE.replace("uplink0", "eth0"))
        hosts.outside.ip("address", "add", f"{FAR}/24", "dev", "far0")
        hosts.host.ip("rule", "add", "iif", "port0", "to", FAR, "lookup", "100")
        hosts.host.ip("route", "add", "default", "via", ROUTER, "dev", "port1", "table", "100")
        yield nested


def redirect(hosts: Hosts, server: Process) -> Process:
    """Redirect ports of the container to those of its server; return it as seen from outside."""
    rules = [
        f"{transport} dport {8000 + number} redirect to :{port}"
        for number, (transport, _address, port) in enumerate(server["servers"])
    ]
    hook = "type nat hook prerouting priority -100"
    translate(
        hosts.container,
        f"table ip sidecar {{ chain arriving {{ {hook}\n" + "\n".join(rules) + "\n}\n}",
    )
    network = CONTAINER.rpartition(".")[0]
    via = ["via", HOST]
    hosts.outside.ip("route", "add", f"{network}.0/24", *via)
    return _served_at(server, CONTAINER, 8000)


def publish_to_host(hosts: Hosts, server: Process) -> Process:
    """Translate ports of the host's loopback to those of a server; return it as seen there."""
    rules = [
        f"ip daddr {LOOPBACK} {transport} dport {9000 + number} dnat to {address}:{port}"
        for number, (transport, address, port) in enumerate(server["servers"])
    ]
    hosts.translate(
        "table ip local {\n chain leaving { type nat hook output priority -100\n"
        + "\n".join(rules)
        + "\n}\nchain masquerading { type nat hook postrouting priority 100\n"
        'oifname "port0" ip saddr 127.0.0.0/8 masquerade\n}\n}'
    )
    set_sysctl(hosts.host, "conf/all/route_localnet", 1)
    return _served_at(server, LOOPBACK, 9000)


def _served_at(server: Process, address: str, first_port: int) -> Process:
    servers = [
        [transport, address, first_port + number]
        for number, (transport, *_) in enumerate(server["servers"])
    ]
    return server | {"servers": servers}


@contextmanager
def captured(folder: Path, host: Namespace, way: str) -> Iterator[None]:
    dumps = [(host, name) for name in INTERFACES]
    if way == "ebpf":
        require_bpf()
        with counted_run(folder, dumps, group_by=("process", "transport")):
            yield
        return
    group_by = ("process", "interface", "transport")
    with measured_run(
        folder, host, ["auto"], dumps, captures=INTERFACES, ledger=way, group_by=group_by
    ):
        yield


@pytest.fixture(scope="module", params=["off", "auto", "ebpf"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Let all situations take place in one run."""
    require("ip", "nft", "tcpdump")
    way, folder = request.param, tmp_path_factory.mktemp("run")
    processes = {}
    # The processes outlive the run: its last lookups find their sockets.
    with translating() as hosts, routed(hosts) as nested, ExitStack() as stack:
        outside = stack.enter_context(peer(hosts.outside, "serve", OUTSIDE))
        far = stack.enter_context(peer(hosts.outside, "serve", FAR))
        inside = stack.enter_context(peer(hosts.container, "serve", CONTAINER))
        processes["sidecar"] = stack.enter_context(peer(hosts.container, "serve", CONTAINER))
        sidecar = redirect(hosts, processes["sidecar"])
        published = publish_to_host(hosts, inside)
        with captured(folder, hosts.host, way):
            processes["routed"] = stack.enter_context(talk(hosts.container, far))
            processes["nested"] = stack.enter_context(talk(nested, outside))
            stack.enter_context(talk(hosts.outside, sidecar))
            processes["local"] = stack.enter_context(talk(hosts.host, published))
            time.sleep(TAIL)
    records = read_conserved_records(folder)
    wire = {name: list(read_packets(folder / f"{name}.pcap")) for name in INTERFACES}
    return Outcome(way, records, wire, processes)


def assert_moved(outcome: Outcome, process: str, interface: str, remote: str) -> None:
    """Assert that a process has what it exchanged through one interface, and nothing else."""
    pid, ports = outcome.processes[process]["pid"], outcome.processes[process]["ports"]
    packets = [packet for packet in outcome.wire[interface] if is_between(packet, remote)]
    if outcome.way == "ebpf":
        truth = count(remove_fragment_headers(packets), ports, fragments=False)
        assert sum_moved(outcome.records, pid) == truth
    else:
        truth = count(packets, ports)
        assert sum_by_interface(outcome.records, pid) == {interface: truth}
    assert truth.transmit_bytes > SIZE


def test_what_a_container_exchanges_through_a_router_counts_once(outcome: Outcome) -> None:
    assert_moved(outcome, "routed", "port0", FAR)


def test_a_redirected_port_of_a_container_belongs_to_the_process_behind_it(
    outcome: Outcome,
) -> None:
    server = outcome.processes["sidecar"]
    moved = sum_moved(outcome.records, server["pid"])
    assert min(moved.transmit_bytes, moved.receive_bytes) > SIZE
    if outcome.way != "ebpf":
        assert sum_by_interface(outcome.records, server["pid"]).keys() == {"port0"}


def test_what_the_host_exchanges_with_a_port_that_is_published_to_it_is_its_own(
    outcome: Outcome,
) -> None:
    moved = sum_moved(outcome.records, outcome.processes["local"]["pid"])
    assert min(moved.transmit_bytes, moved.receive_bytes) > SIZE


def test_copies_at_other_interfaces_are_translated(outcome: Outcome) -> None:
    copies = [packet for packet in outcome.wire["uplink0"] if is_between(packet, HOST)]
    copies += [packet for packet in outcome.wire["port1"] if is_between(packet, ROUTER, FAR)]
    if outcome.way == "ebpf":
        copies = []
    assert sum_translated(outcome.records) == sum_up(copies)


def test_what_a_container_inside_another_exchanges_is_its_own(outcome: Outcome) -> None:
    assert_moved(outcome, "nested", "port1", OUTSIDE)


def test_no_connection_is_without_an_owner(outcome: Outcome) -> None:
    assert outcome.way == "ebpf" or unattributed(outcome.records) == []


def sum_up(packets: Sequence[Packet]) -> dict[str, int]:
    return {"packets": len(packets), "bytes": sum(packet.size for packet in packets)}


def is_between(packet: Packet, *addresses: str) -> bool:
    """Return whether a packet has each of these addresses as source or destination."""
    return {packet.source, packet.destination} >= {*map(socket.inet_aton, addresses)}
