"""Address translation (NAT): each byte of a container's process counts once, at its veth."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.measured_run import (
    SIZE,
    TAIL,
    Process,
    assert_moved,
    configure,
    counted_run,
    measured_run,
    read_conserved_records,
    talk,
)
from support.namespaces import Namespace, require
from support.packet_files import read_packet_file
from support.running import PING, peer, read_records, running
from support.translation import (
    CONTAINER,
    CONTAINER6,
    HOST,
    HOST6,
    OUTSIDE,
    OUTSIDE6,
    Hosts,
    sum_translated,
    translating,
    unattributed,
)
from support.wire import Moved, count, read_packets, remove_fragment_headers, sum_moved

WAY = pytest.mark.parametrize("way", ["off", "auto", "ebpf"])

PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
PING_HEADERS = (28, 48)  # of IP and ICMP

pytestmark = pytest.mark.usefixtures("_programs")


@pytest.fixture
def _programs() -> None:
    require("ip", "nft", "tcpdump")


@contextmanager
def captured(folder: Path, hosts: Hosts, way: str) -> Iterator[None]:
    """Run hogpipe and tcpdump on both interfaces of the host; `way` is a ledger, or "ebpf"."""
    names = ("port0", "uplink0")
    dumps = [(hosts.host, name) for name in names]
    if way == "ebpf":
        require_bpf()
        with counted_run(folder, dumps, group_by=("process", "transport")):
            yield
        return
    group_by = ("process", "interface", "transport")
    with measured_run(
        folder, hosts.host, ["auto"], dumps, captures=names, ledger=way, group_by=group_by
    ):
        yield


@contextmanager
def talking(
    folder: Path, hosts: Hosts, way: str, where: Namespace, server: Process
) -> Iterator[Process]:
    """Run hogpipe while a client talks to a server; the client, returned, outlives the run."""
    with ExitStack() as clients:
        with captured(folder, hosts, way):
            client = clients.enter_context(talk(where, server))
            time.sleep(TAIL)
        yield client


def assert_counted_once(folder: Path, way: str, process: Process) -> None:
    """Assert that a process has its bytes at its veth, and all of the uplink is translated."""
    records = read_conserved_records(folder)
    if way == "ebpf":
        assert_counted_at_sockets(folder, records, "port0", process)
        return
    assert_moved(folder, records, "port0", process)
    assert unattributed(records) == []
    wire = list(read_packets(folder / "uplink0.pcap"))
    translated = sum_translated(records)
    assert translated == {"packets": len(wire), "bytes": sum(packet.size for packet in wire)}
    assert translated["bytes"] > SIZE


def assert_counted_at_sockets(
    folder: Path, records: Sequence[dict[str, Any]], interface: str, process: Process
) -> None:
    """Assert that a process has what passed an interface, and that nothing is translated."""
    packets = remove_fragment_headers(list(read_packets(folder / f"{interface}.pcap")))
    truth = count(packets, process["ports"], fragments=False)
    assert truth.transmit_bytes > SIZE
    assert sum_moved(records, process["pid"]) == truth
    assert not sum_translated(records)["packets"]


@WAY
def test_what_a_container_exchanges_through_a_masquerade_counts_once(
    way: str, tmp_path: Path
) -> None:
    with (
        translating() as hosts,
        peer(hosts.outside, "serve", OUTSIDE, OUTSIDE6) as server,
        talking(tmp_path, hosts, way, hosts.container, server) as client,
    ):
        assert_counted_once(tmp_path, way, client)


def test_packets_of_a_container_behind_a_masquerade_are_captured_at_its_veth(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.pcapng"
    words = ("-m", "hogpipe", "-v", "capture", "-w", path)
    with (
        translating() as hosts,
        peer(hosts.outside, "serve", OUTSIDE, OUTSIDE6) as server,
        running(None, *hosts.host.enter(sys.executable, *words)) as run,
    ):
        run.wait_for("capturing on uplink0")
        run.wait_for("owners come from")
        with talk(hosts.container, server) as client:
            run.process.send_signal(signal.SIGINT)
            assert run.wait() == 0, run.errors
    found: dict[str, set[str]] = {"port0": set(), "uplink0": set()}
    packets = [one for one in read_packet_file(path).packets if is_transport(one.frame)]
    for packet in packets:
        found[packet.interface] |= {text.partition(": ")[2] for text in packet.comments}
    assert found["uplink0"] == {"translated copy; none"}
    assert found["port0"]
    assert all(f", pid {client['pid']}," in text for text in found["port0"])
    assert {one.pid for one in packets} == {client["pid"], None}


def is_transport(frame: bytes) -> bool:
    """Return whether an Ethernet frame has a packet of TCP or UDP, and not of the kernel."""
    protocol = frame[20] if frame[12:14] == b"\x86\xdd" else frame[23]
    return frame[12:14] != b"\x08\x06" and protocol in {6, 17}


@WAY
def test_echoes_of_a_container_through_a_masquerade_count_once(way: str, tmp_path: Path) -> None:
    echoes, size = 5, 100
    words = (str(echoes), str(size), OUTSIDE, OUTSIDE6)
    # The processes outlive the run: its last lookups find their sockets.
    with translating() as hosts, ExitStack() as clients:
        hosts.container.call(lambda: PING_GROUPS.write_text("0 2147483647"))
        with captured(tmp_path, hosts, way):
            client, raw = (
                clients.enter_context(peer(hosts.container, kind, *words, program=PING))
                for kind in ("ping", "raw")
            )
            time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    passed = sum(echoes * (size + headers) for headers in PING_HEADERS)
    assert sum_moved(records, client["pid"]) == Moved(passed, 2 * echoes, passed, 2 * echoes)
    if way == "ebpf":
        assert sum_moved(records, raw["pid"]).transmit_bytes == passed
    else:
        assert sum_translated(records) == {"packets": 8 * echoes, "bytes": 4 * passed}


@WAY
def test_what_a_container_serves_on_a_published_port_counts_once(way: str, tmp_path: Path) -> None:
    with (
        translating() as hosts,
        peer(hosts.container, "serve", CONTAINER, CONTAINER6) as server,
        talking(tmp_path, hosts, way, hosts.outside, hosts.publish(server)),
    ):
        assert_counted_once(tmp_path, way, server)


@WAY
def test_a_proxy_that_listens_on_the_published_port_has_none_of_the_bytes(
    way: str, tmp_path: Path
) -> None:
    listen = "import socket, sys; one = socket.create_server(('', 8000)); sys.stdin.read()"
    with (
        translating() as hosts,
        peer(hosts.container, "serve", CONTAINER) as server,
        running(hosts.host, sys.executable, "-c", listen, stdin=subprocess.PIPE) as proxy,
        talking(tmp_path, hosts, way, hosts.outside, hosts.publish(server)),
    ):
        assert_counted_once(tmp_path, way, server)
        records = read_records(tmp_path / "records.jsonl")
        assert sum_moved(records, proxy.process.pid) == Moved(0, 0, 0, 0)


@WAY
def test_a_redirected_port_of_the_host_belongs_to_the_process_behind_it(
    way: str, tmp_path: Path
) -> None:
    with (
        translating() as hosts,
        peer(hosts.host, "serve", HOST, HOST6) as server,
        talking(tmp_path, hosts, way, hosts.outside, hosts.publish(server)) as client,
    ):
        records = read_conserved_records(tmp_path)
        packets = list(read_packets(tmp_path / "uplink0.pcap"))
        if way == "ebpf":
            packets = remove_fragment_headers(packets)
        truth = count(packets, client["ports"], fragments=way != "ebpf")
        moved = sum_moved(records, server["pid"])
        assert (moved.receive_bytes, moved.receive_packets) == truth[:2]
        assert (moved.transmit_bytes, moved.transmit_packets) == truth[2:]
        assert way == "ebpf" or unattributed(records) == []
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
            assert run.end() == 0, run.errors  # its last lookups find the client's sockets
    return client, read_conserved_records(folder), run.errors


def test_the_only_copy_of_a_translated_packet_belongs_to_its_process(tmp_path: Path) -> None:
    config = configure(tmp_path, "uplink0", group_by=("process", "transport"))
    client, records, _errors = run_and_talk(tmp_path, config, ["uplink0"])
    assert sum_moved(records, client["pid"]).transmit_bytes > SIZE
    assert unattributed(records) == []
    assert not sum_translated(records)["packets"]


def test_with_a_filter_no_packet_is_taken_for_a_copy(tmp_path: Path) -> None:
    config = configure(tmp_path, "auto", more=f'filter = "not host {CONTAINER}"')
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
