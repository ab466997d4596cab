"""Traffic of containers, measured on the host's interfaces and compared with tcpdump.

A namespace plays the host and hogpipe runs in it; containers are further namespaces with a process.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from support.measured_run import (
    TAIL,
    assert_moved,
    configure,
    measured_run,
    read_conserved_records,
    talk,
)
from support.namespaces import Namespace, namespace, require
from support.running import Running, inhabitant, peer, running, tcpdump, traffic_of
from support.wire import Moved, read_packets, sum_moved

KNOWN_CONTAINERS = "network namespaces at captured interfaces: "

pytestmark = pytest.mark.usefixtures("_programs")


@pytest.fixture
def _programs() -> None:
    require("ip", "tcpdump")


@contextmanager
def inhabited(*containers: Namespace) -> Iterator[None]:
    """Run a process in each namespace: hogpipe finds a container by its processes."""
    with ExitStack() as stack:
        for container in containers:
            stack.enter_context(inhabitant(container))
        yield


@contextmanager
def bridged(count: int, *, empty: bool = False) -> Iterator[tuple[Namespace, list[Namespace]]]:
    """Create a host with a bridge br0, and containers whose veths are its ports: port0, port1, …

    Unless `empty`, each has a process before it has an interface, as containers do.
    """
    with ExitStack() as stack:
        host = stack.enter_context(namespace())
        host.ip("link", "add", "br0", "type", "bridge")
        host.ip("address", "add", "10.88.0.1/24", "dev", "br0")
        host.ip("address", "add", "fd88::1/64", "dev", "br0", "nodad")
        host.ip("link", "set", "br0", "up")
        made = [stack.enter_context(namespace()) for _ in range(count)]
        if not empty:
            stack.enter_context(inhabited(*made))
        for number, container in enumerate(made):
            plug_in(host, container, number)
        yield host, made


def plug_in(host: Namespace, container: Namespace, number: int) -> None:
    join(host, container, f"port{number}", f"10.88.0.{number + 2}/24", f"fd88::{number + 2}/64")
    host.ip("link", "set", f"port{number}", "master", "br0")


def join(host: Namespace, container: Namespace, port: str, *addresses: str) -> None:
    """Add eth0 with these addresses to a container; its peer is `port` of the host."""
    host.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", container.name)
    for address in addresses:
        container.ip(
            "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])
        )
    container.ip("link", "set", "eth0", "up")
    host.ip("link", "set", port, "up")


def address(number: int) -> tuple[str, str]:
    return f"10.88.0.{number + 2}", f"fd88::{number + 2}"


HOST = ("10.88.0.1", "fd88::1")


def capturing(
    folder: Path,
    host: Namespace,
    on: Sequence[str],
    interfaces: Sequence[str],
    ledger: str = "off",
) -> AbstractContextManager[Running]:
    """Run hogpipe on `interfaces` and tcpdump on each of `on`, which hogpipe must have open."""
    dumps = [(host, name) for name in on]
    return measured_run(folder, host, interfaces, dumps, captures=on, ledger=ledger)


def test_a_container_and_the_host_talk_over_a_bridge_and_each_has_its_bytes(tmp_path: Path) -> None:
    with (
        bridged(1) as (host, (container,)),
        capturing(tmp_path, host, ["br0", "port0"], ["auto"]),
        peer(container, "serve", *address(0)) as far_server,
        peer(host, "serve", *HOST) as near_server,
        talk(host, far_server) as near_client,
        talk(container, near_server) as far_client,
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    for process in (far_server, far_client):
        assert_moved(tmp_path, records, "port0", process)
    for process in (near_server, near_client):
        assert_moved(tmp_path, records, "br0", process)


def test_on_a_bridge_selected_by_name_both_sides_of_a_packet_count(tmp_path: Path) -> None:
    with (
        bridged(1) as (host, (container,)),
        capturing(tmp_path, host, ["br0"], ["br0"]),
        peer(container, "serve", *address(0)) as server,
        talk(host, server) as client,
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    for process in (server, client):
        assert_moved(tmp_path, records, "br0", process)


def test_on_the_hosts_end_of_a_veth_both_sides_of_a_packet_count(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    host, container = container_veth
    with (
        inhabited(container),
        capturing(tmp_path, host, ["left"], ["auto"]),
        peer(container, "serve", "10.77.0.2", "fd77::2") as server,
        talk(host, server) as client,
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    for process in (server, client):
        assert_moved(tmp_path, records, "left", process)


def test_two_containers_on_a_bridge_each_have_their_bytes_on_their_own_port(tmp_path: Path) -> None:
    with (
        bridged(2) as (host, (one, other)),
        capturing(tmp_path, host, ["port0", "port1"], ["auto"]),
        peer(one, "serve", *address(0)) as server,
        talk(other, server) as client,
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    assert_moved(tmp_path, records, "port0", server)
    assert_moved(tmp_path, records, "port1", client)


def test_a_routed_packet_counts_at_its_containers_and_not_on_its_way(tmp_path: Path) -> None:
    with namespace() as host, namespace() as container, namespace() as outside:
        join(host, container, "port0", "10.88.0.2/24")
        join(host, outside, "uplink0", "10.89.0.2/24")
        host.ip("address", "add", "10.88.0.1/24", "dev", "port0")
        host.ip("address", "add", "10.89.0.1/24", "dev", "uplink0")
        container.ip("route", "add", "default", "via", "10.88.0.1")
        outside.ip("route", "add", "default", "via", "10.89.0.1")
        host.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        with (
            inhabited(container, outside),
            capturing(tmp_path, host, ["port0", "uplink0"], ["auto"]),
            peer(container, "serve", "10.88.0.2") as server,
            talk(outside, server) as client,
        ):
            time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    assert_moved(tmp_path, records, "port0", server)
    assert_moved(tmp_path, records, "uplink0", client)


def test_containers_that_start_and_stop_during_a_run_are_followed(tmp_path: Path) -> None:
    with bridged(1) as (host, (first,)):
        dump_path = tmp_path / "port1.pcap"
        with capturing(tmp_path, host, ["port0"], ["auto"]) as run, ExitStack() as stack:
            with (
                peer(first, "serve", *address(0)) as first_server,
                talk(host, first_server),
                namespace() as second,
            ):
                # As in a container engine, there is a process before there is an interface.
                processes = stack.enter_context(ExitStack())
                processes.enter_context(inhabitant(second))
                plug_in(host, second, 1)
                run.wait_for("capturing on port1")
                with (
                    tcpdump(host, "port1", dump_path) as dump,
                    peer(second, "serve", *address(1)) as second_server,
                    talk(first, second_server) as first_client,
                ):
                    time.sleep(TAIL)
                dump.end()
                processes.close()
            run.wait_for("port1.*(gone|is up again)")
            with (
                peer(first, "serve", *address(0)) as third_server,
                talk(host, third_server),
            ):
                time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    assert_moved(tmp_path, records, "port1", second_server)
    for process in (first_server, first_client, third_server):
        assert_moved(tmp_path, records, "port0", process)


def test_a_process_that_enters_an_empty_namespace_is_known_from_its_first_packet(
    tmp_path: Path,
) -> None:
    with (
        bridged(1, empty=True) as (host, (container,)),
        capturing(tmp_path, host, ["port0"], ["port0"]) as run,
    ):
        for _ in range(2):
            with peer(host, "serve", *HOST) as near, talk(container, near) as far:
                time.sleep(TAIL)
        assert any(KNOWN_CONTAINERS + "1" in line for line in run.errors)
    assert_moved(tmp_path, read_conserved_records(tmp_path), "port0", far)


SEND = """
import socket, sys, time
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("10.99.0.2", 4000))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    made.sendto(bytes(int(sys.argv[1])), ("10.99.0.1", 5000))
    time.sleep(0.05)
sys.stdin.read()
"""
DATAGRAMS, HEADERS = 10, 28


@contextmanager
def sender(where: Namespace, size: int) -> Iterator[int]:
    """Send datagrams of `size` bytes from 10.99.0.2:4000; yields the pid."""
    words = (sys.executable, "-c", SEND, str(size))
    with running(where, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        assert run.process.stdin is not None
        assert run.process.stdout.readline() == "ready\n"
        run.process.stdin.write("\n")
        run.process.stdin.flush()
        yield run.process.pid
        run.process.stdin.close()
        assert run.wait() == 0, run.errors


def assert_ten_datagrams_passed(folder: Path, interface: str, size: int) -> None:
    packets = [one for one in read_packets(folder / f"{interface}.pcap") if one.protocol == 17]
    assert [one.size for one in packets].count(size + HEADERS) == DATAGRAMS


def test_equal_addresses_behind_two_veths_are_distinguished(tmp_path: Path) -> None:
    with namespace() as host, namespace() as red, namespace() as blue:
        for container, port in ((red, "red0"), (blue, "blue0")):
            join(host, container, port, "10.99.0.2/24")
        host.ip("address", "add", "10.99.0.1/24", "dev", "red0")
        host.ip("address", "add", "10.99.0.1/24", "dev", "blue0")
        with (
            inhabited(red, blue),
            capturing(tmp_path, host, ["red0", "blue0"], ["red0", "blue0"]),
            sender(red, 100) as red_pid,
            sender(blue, 300) as blue_pid,
        ):
            time.sleep(1.0)
    records = read_conserved_records(tmp_path)
    assert_ten_datagrams_passed(tmp_path, "red0", 100)
    assert_ten_datagrams_passed(tmp_path, "blue0", 300)
    assert sum_moved(records, red_pid) == Moved(1280, 10, 0, 0)
    assert sum_moved(records, blue_pid) == Moved(3280, 10, 0, 0)


@pytest.mark.parametrize("ledger", ["off", "auto"])
def test_equal_addresses_behind_one_bridge_have_an_owner_only_with_the_ledger(
    tmp_path: Path, ledger: str
) -> None:
    with bridged(2) as (host, (red, blue)):
        host.ip("address", "add", "10.99.0.1/24", "dev", "br0")
        for container in (red, blue):
            container.ip("address", "add", "10.99.0.2/24", "dev", "eth0")
        with (
            capturing(tmp_path, host, ["br0"], ["br0"], ledger) as run,
            sender(red, 100) as pid,
        ):
            time.sleep(1.0)
            assert any(KNOWN_CONTAINERS + "2" in line for line in run.errors)
    records = read_conserved_records(tmp_path)
    assert_ten_datagrams_passed(tmp_path, "br0", 100)
    if ledger == "auto":  # only one socket in either namespace has that port
        assert sum_moved(records, pid) == Moved(1280, 10, 0, 0)
        return
    assert sum_moved(records, pid) == Moved(0, 0, 0, 0)
    unattributed = [record for record in traffic_of(records) if "process" not in record]
    packets = [record["network"]["io"]["transmit"]["packets"] for record in unattributed]
    assert sum(packets) >= DATAGRAMS


def test_without_the_capability_to_see_processes_a_container_is_not_local(tmp_path: Path) -> None:
    require("setpriv")
    only_net_raw = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")
    path = configure(tmp_path, "port0")
    with (
        bridged(1) as (host, (container,)),
        running(host, *only_net_raw, sys.executable, "-m", "hogpipe", "-v", "run", path) as run,
    ):
        run.wait_for("capturing on")
        with peer(container, "serve", *address(0)) as server, talk(host, server):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
    assert sum_moved(read_conserved_records(tmp_path), server["pid"]) == Moved(0, 0, 0, 0)
    assert not any(KNOWN_CONTAINERS in line for line in run.errors)


@contextmanager
def hogpipe_in_a_container(container: Namespace, folder: Path, path: Path) -> Iterator[Running]:
    """Run hogpipe in a container with its own pid namespace; the host's /proc is in `folder`."""
    script = (
        f"mount --make-rprivate / && mount --rbind /proc {folder} && mount -t proc proc /proc"
        f" && exec {sys.executable} -m hogpipe -v run {path}"
    )
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount")
    with running(container, *unshare, "sh", "-c", script) as run:
        run.wait_for("capturing on eth0")
        yield run
        time.sleep(TAIL)
        parent = run.process.pid
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(child), signal.SIGINT)
        assert run.wait() == 0, run.errors


def test_in_a_container_with_the_hosts_proc_the_interface_leads_to_the_host(
    tmp_path: Path,
) -> None:
    require("unshare", "mount")
    folder = tmp_path / "host"
    folder.mkdir()
    path = configure(tmp_path, "eth0", more=f'[attribution]\nprocfs = "{folder}"')
    with (
        bridged(1) as (host, (container,)),
        tcpdump(container, "eth0", tmp_path / "eth0.pcap") as dump,
    ):
        with (
            hogpipe_in_a_container(container, folder, path),
            peer(host, "serve", *HOST) as server,
            talk(container, server) as client,
        ):
            time.sleep(TAIL)
        dump.end()
    records = read_conserved_records(tmp_path)
    assert_moved(tmp_path, records, "eth0", client)
    assert_moved(tmp_path, records, "eth0", server)


def test_in_a_container_with_its_own_proc_others_are_not_local(tmp_path: Path) -> None:
    require("unshare", "mount")
    folder = tmp_path / "host"
    folder.mkdir()
    with (
        bridged(1) as (host, (container,)),
        hogpipe_in_a_container(container, folder, configure(tmp_path, "eth0")) as run,
        peer(host, "serve", *HOST) as server,
        talk(container, server),
    ):
        time.sleep(TAIL)
    assert not any(KNOWN_CONTAINERS in line for line in run.errors)
    assert sum_moved(read_conserved_records(tmp_path), server["pid"]) == Moved(0, 0, 0, 0)
