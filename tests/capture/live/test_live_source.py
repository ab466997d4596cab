"""Live capture on real links, in namespaces of the test."""

import errno
import fcntl
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.captures import read_pcap
from support.namespaces import Namespace, namespace, require
from support.running import PATIENCE, tcpdump
from support.shortage import no_descriptors

from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.live.link_follower import LinkFollower
from hogpipe.capture.live.live_source import LiveSource
from hogpipe.capture.live.open_handles import LiveOptions
from hogpipe.capture.pcap import BATCH_FRAMES, choose_timeout_ms
from hogpipe.errors import CaptureError, ConfigurationError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.rtnetlink import LinkMonitor, LinkTable
from hogpipe.model import CaptureCounts, FlowKey

UDP = 17
IP_AND_UDP = 28
# include/uapi/linux/if_tun.h, if_arp.h
TUNSETIFF, TUNSETLINK = 0x400454CA, 0x400454CD
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
ARPHRD_IEEE80211_RADIOTAP = 803


def make_table() -> FlowTable:
    return FlowTable(10_000, 10_000)


class Offered:
    """The batches that a running source has offered so far, each with all of its flows."""

    def __init__(self) -> None:
        self.table = make_table()
        self.batches: list[FlowBatch] = []

    def take(self, batch: FlowBatch) -> None:
        if batch.rows is not None:
            batch.flows = self.table.count(batch.rows, time.monotonic())
        self.batches.append(batch)

    @property
    def counts(self) -> CaptureCounts:
        counts = CaptureCounts()
        for batch in list(self.batches):
            counts.add(batch.counts)
        return counts

    def bytes_of(self, wanted: Callable[[FlowKey], bool]) -> int:
        return sum(
            delta.total_bytes
            for batch in list(self.batches)
            for flow, delta in batch.flows.items()
            if wanted(flow)
        )

    def wait(self, condition: Callable[[], bool]) -> None:
        patience = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < patience, self.counts
            time.sleep(0.01)


@contextmanager
def capturing(
    where: Namespace, *, batch_interval: float = 0.02, **options: object
) -> Iterator[Offered]:
    """Capture in a thread inside a namespace; all packets are in `Offered` after the context."""
    offered = Offered()
    source = LiveSource(
        LiveOptions(**options),  # type: ignore[arg-type]
        offered.table,
        time.monotonic,
    )
    source.set_batch_interval(batch_interval)
    opened = threading.Event()

    def capture() -> None:
        try:
            source.open()
        finally:
            opened.set()
        source.run(offered.take)

    thread = threading.Thread(target=lambda: where.call(capture))
    thread.start()
    assert opened.wait(PATIENCE)
    try:
        yield offered
    finally:
        source.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def send(where: Namespace, to: str, port: int, size: int = 100, source: str = "") -> None:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            if source:
                made.bind((source, 0))
            made.sendto(bytes(size), (to, port))

    where.call(work)


def on_port(port: int) -> Callable[[FlowKey], bool]:
    return lambda flow: port in {flow.local_port, flow.remote_port}


def test_a_packet_is_offered_soon(veth: tuple[Namespace, Namespace]) -> None:
    left, right = veth
    with capturing(left, interfaces=["left"]) as offered:
        send(right, "10.77.0.1", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 100 + IP_AND_UDP)
    (flow,) = {flow for batch in offered.batches for flow in batch.flows if on_port(5001)(flow)}
    assert flow.interface == "left"
    assert flow.local_address == socket.inet_aton("10.77.0.1")


@pytest.fixture
def monitor(netns: Namespace) -> Iterator[str]:
    """An interface whose frames are those of a Wi-Fi monitor."""
    netns.ip("tuntap", "add", "mon0", "mode", "tap")

    def open_tap() -> int:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"mon0", IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(tap, TUNSETLINK, ARPHRD_IEEE80211_RADIOTAP)
        return tap

    tap = netns.call(open_tap)
    netns.ip("link", "set", "mon0", "up")
    yield "mon0"
    os.close(tap)


NOT_DECODED = "mon0: link type 127 (802.11 with radiotap header) cannot be decoded; capture on "


def test_an_interface_whose_link_type_cannot_be_decoded_is_an_error_if_it_is_the_only_one(
    netns: Namespace, monitor: str
) -> None:
    def open_source() -> None:
        source = LiveSource(LiveOptions(interfaces=[monitor]), make_table(), time.monotonic)
        try:
            source.open()
        finally:
            source.close()

    with pytest.raises(CaptureError, match="^" + re.escape(NOT_DECODED)):
        netns.call(open_source)


def test_an_interface_whose_link_type_cannot_be_decoded_is_named_once_beside_others(
    netns: Namespace, monitor: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(netns, interfaces=[monitor, "lo"]) as offered:
        send(netns, "127.0.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 2 * 128)
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [text.startswith(NOT_DECODED) for text in warnings] == [True]


def test_an_idle_interface_is_stopped_at_once(netns: Namespace) -> None:
    with capturing(netns, interfaces=["lo"]) as offered:
        pass  # `capturing` asserts that the thread ends
    assert offered.counts.captured.packets == 0


def test_several_interfaces_are_captured(veth: tuple[Namespace, Namespace]) -> None:
    left, right = veth
    with capturing(left, interfaces=["lo", "le*"]) as offered:
        send(right, "10.77.0.1", 5001)
        send(left, "127.0.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 2 * 128)


def test_a_filter_lets_only_matching_packets_through(netns: Namespace) -> None:
    with capturing(netns, interfaces=["lo"], filter="udp port 5002") as offered:
        send(netns, "127.0.0.1", 5001)
        send(netns, "127.0.0.1", 5002)
        offered.wait(lambda: offered.counts.captured.packets == 1)
    assert offered.bytes_of(on_port(5001)) == 0


def test_addresses_added_and_deleted_during_a_run_are_followed(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    right.ip("route", "add", "10.78.0.1/32", "via", "10.77.0.1")
    port = 5000

    def deliver() -> int:
        nonlocal port
        port += 1
        send(right, "10.78.0.1", port)
        offered.wait(lambda: offered.counts.captured.packets > before)
        return offered.bytes_of(lambda flow: flow.local_port == port)

    with capturing(left, interfaces=["left"], filter="udp and dst 10.78.0.1") as offered:
        before = 0
        assert deliver() == 0
        left.ip("address", "add", "10.78.0.1/32", "dev", "left")
        wait_for_notification()
        before = offered.counts.captured.packets
        assert deliver() == 128
        left.ip("address", "delete", "10.78.0.1/32", "dev", "left")
        wait_for_notification()
        before = offered.counts.captured.packets
        assert deliver() == 0
    counts = offered.counts
    assert counts.not_local.packets == 2


def wait_for_notification() -> None:
    time.sleep(0.2)  # until rtnetlink has reported a change, which no test can observe


def test_an_interface_that_goes_down_and_comes_up_again_is_captured_again(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    with capturing(left, interfaces=["left"]) as offered:
        send(right, "10.77.0.1", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
        left.ip("link", "set", "left", "down")
        wait_for_notification()
        left.ip("link", "set", "left", "up")
        wait_for_notification()
        send(right, "10.77.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 128)
    assert offered.bytes_of(on_port(5001)) == 128


def test_an_interface_that_is_down_for_a_moment_only_is_captured_again(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    left.call(lambda: Path("/proc/sys/net/ipv6/conf/left/disable_ipv6").write_text("1"))
    with capturing(left, interfaces=["left"]) as offered:
        send(right, "10.77.0.1", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
        for port in range(5002, 5007):
            left.batch("link set left down", "link set left up")
            wait_for_notification()
            send(right, "10.77.0.1", port)
            offered.wait(lambda port=port: offered.bytes_of(on_port(port)) == 128)


def test_an_interface_added_during_a_run_is_captured_and_may_vanish(
    netns: Namespace,
) -> None:
    with capturing(netns, interfaces=["lo", "late*"]) as offered:
        netns.ip("link", "add", "late0", "type", "veth", "peer", "name", "other")
        netns.ip("address", "add", "10.80.0.1/24", "dev", "late0")
        netns.ip("link", "set", "other", "up")
        netns.ip("link", "set", "late0", "up")
        wait_for_notification()
        netns.ip("neighbour", "add", "10.80.0.2", "lladdr", "02:00:00:00:00:02", "dev", "late0")
        send(netns, "10.80.0.2", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
        netns.ip("link", "delete", "late0")
        wait_for_notification()
        send(netns, "127.0.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 2 * 128)


def test_a_renamed_interface_stays_captured_under_its_new_name(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    with capturing(left, interfaces=["auto"]) as offered:
        left.ip("link", "set", "left", "name", "renamed")
        left.ip("link", "set", "renamed", "up")
        wait_for_notification()
        send(right, "10.77.0.1", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
    (flow,) = {flow for batch in offered.batches for flow in batch.flows if on_port(5001)(flow)}
    assert flow.interface == "renamed"


def test_an_interface_whose_link_type_the_filter_does_not_fit_is_logged_and_harms_no_other(
    netns: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    expression = "not ether host 02:00:00:00:00:01"
    with capturing(netns, interfaces=["*"], filter=expression) as offered:
        netns.ip("tuntap", "add", "tun7", "mode", "tun")
        netns.ip("link", "set", "tun7", "up")
        wait_for_notification()
        netns.ip("address", "add", "10.80.0.1/24", "dev", "tun7")
        wait_for_notification()
        send(netns, "127.0.0.1", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 2 * 128)
    (line,) = [record.message for record in caplog.records if "tun7" in record.message]
    assert line.startswith(f'capture.filter: "{expression}" on tun7: ')


def test_an_interface_without_a_descriptor_is_logged_once_and_opened_later(
    netns: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = "ip link add late0 type veth peer name other && ip link set late0 up"
    with (
        capturing(netns, interfaces=["lo", "late*"]) as offered,
        netns.popen("sh", "-c", f"read line && {made}", stdin=subprocess.PIPE) as shell,
    ):
        assert shell.stdin is not None
        with no_descriptors():
            shell.stdin.write("go\n")
            shell.stdin.flush()
            offered.wait(lambda: "Too many open files" in caplog.text)
        offered.wait(lambda: "capturing on late0" in caplog.text)
        send(netns, "127.0.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 2 * 128)
    assert caplog.text.count("Too many open files") == 1


def test_links_that_cannot_be_listed_are_logged_once_and_followed_later(
    netns: Namespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe.capture.live.link_follower._RETRY_SECONDS", 0.05)
    refusals = [OSError(errno.ENOBUFS, "No buffer space available")] * 3
    read_table = LinkMonitor.read_table

    def refuse_first(monitor: LinkMonitor) -> LinkTable:
        if is_open and refusals:
            raise refusals.pop()
        return read_table(monitor)

    is_open = False
    monkeypatch.setattr(LinkMonitor, "read_table", refuse_first)
    with capturing(netns, interfaces=["lo", "late*"]) as offered:
        is_open = True
        netns.ip("link", "add", "late0", "type", "veth", "peer", "name", "other")
        netns.ip("link", "set", "late0", "up")
        offered.wait(lambda: not refusals)
        wait_for_notification()
        netns.ip("neighbour", "add", "10.80.0.2", "lladdr", "02:00:00:00:00:02", "dev", "late0")
        netns.ip("address", "add", "10.80.0.1/24", "dev", "late0")
        netns.ip("link", "set", "other", "up")
        wait_for_notification()
        send(netns, "10.80.0.2", 5001)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
    (line,) = [one.message for one in caplog.records if "changes" in one.message]
    assert line == (
        "changes of interfaces cannot be read now: No buffer space available; the host is out "
        "of memory; capture continues, and reading is retried"
    )


def test_veths_to_many_containers_have_small_rings_and_another_interface_a_full_one(
    netns: Namespace,
) -> None:
    require("ip")
    with ExitStack() as stack:
        for number in range(3):
            room = stack.enter_context(namespace())
            end = ("type", "veth", "peer", "name", "eth0", "netns", room.name)
            netns.ip("link", "add", f"v{number}", *end)
            netns.ip("link", "set", f"v{number}", "up")
        before = ring_sizes()
        with capturing(netns, interfaces=["*"], buffer_mib=8):
            assert sorted(ring_sizes() - before) == [2 << 20, 8 << 20]
            assert sum((ring_sizes() - before).elements()) == (3 * 2 + 8) << 20
        assert ring_sizes() == before


def ring_sizes() -> "Counter[int]":
    """The sizes of the packet rings that this process has mapped, in bytes."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in lines if "socket:[" in line]
    return Counter(int(end, 16) - int(start, 16) for start, end in places)


@pytest.mark.parametrize("mib", [1, 2, 4, 16, 1024])
def test_a_small_ring_lasts_as_long_as_the_reader_may_be_busy(mib: int) -> None:
    timeout = choose_timeout_ms(mib)
    assert mib * 4 * timeout >= 160
    assert 5 <= timeout <= 40


def test_any_captures_all_interfaces_and_the_loopback_on_both_sides(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    with capturing(left, interfaces=["any"]) as offered:
        send(right, "10.77.0.1", 5001)
        send(left, "127.0.0.1", 5002)
        offered.wait(lambda: offered.bytes_of(on_port(5001)) == 128)
        offered.wait(lambda: offered.bytes_of(on_port(5002)) == 2 * 128)


def test_an_interface_that_does_not_exist_is_named_with_those_that_do(netns: Namespace) -> None:
    source = LiveSource(LiveOptions(interfaces=["lo", "eth7"]), make_table(), time.monotonic)
    with pytest.raises(ConfigurationError) as raised:
        netns.call(source.open)
    assert str(raised.value) == 'capture.interfaces: no interface "eth7"; there are: lo'


def test_the_error_of_an_invalid_filter_is_libpcaps(netns: Namespace) -> None:
    source = LiveSource(
        LiveOptions(interfaces=["lo"], filter="host and"), make_table(), time.monotonic
    )
    with pytest.raises(ConfigurationError, match=r'^capture\.filter: "host and" on lo: .*syntax'):
        netns.call(source.open)


RTM_NEWLINK, NLM_F_REQUEST_ACK = 16, 5
GSO_IPV4_MAX_SIZE, GRO_IPV4_MAX_SIZE = 63, 64


def allow_big_tcp_v4(where: Namespace, name: str) -> None:
    """What `ip link set NAME gso_ipv4_max_size …` does, which older iproute2 lacks."""

    def work() -> None:
        attributes = b"".join(
            struct.pack("=HHI", 8, kind, 200_000) for kind in (GSO_IPV4_MAX_SIZE, GRO_IPV4_MAX_SIZE)
        )
        body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(name), 0, 0) + attributes
        header = struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST_ACK, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.send(header + body)
            (code,) = struct.unpack_from("=i", netlink.recv(4096), 16)
            assert code == 0, f"the kernel refused: {code}"

    where.call(work)


def transfer(server: Namespace, client: Namespace, family: int, address: str, size: int) -> None:
    def listen() -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((address, 0))
        listener.listen()
        return listener

    def connect() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        made.connect(listener.getsockname()[:2])
        return made

    with server.call(listen) as listener, client.call(connect) as sending:
        receiving, _peer = listener.accept()
        with receiving:
            writer = threading.Thread(target=sending.sendall, args=(bytes(size),))
            writer.start()
            while size:
                size -= len(receiving.recv(1 << 20))
            writer.join()


def ip_bytes(wire: Path) -> int:
    """Return the IP bytes of a capture of Ethernet frames, by the lengths in its record headers."""
    ethertypes = {b"\x08\x00", b"\x86\xdd"}
    return sum(one.length - 14 for one in read_pcap(wire) if one.frame[12:14] in ethertypes)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_big_tcp_packets_count_with_their_original_length(
    netns: Namespace, tmp_path: Path, family: int, address: str
) -> None:
    require("ip", "tcpdump")
    netns.ip("link", "set", "lo", "gso_max_size", "200000", "gro_max_size", "200000")
    allow_big_tcp_v4(netns, "lo")
    wire = tmp_path / "wire.pcap"
    with tcpdump(netns, "lo", wire) as dump, capturing(netns, interfaces=["lo"]) as offered:
        transfer(netns, netns, family, address, 20_000_000)
        wait_for_notification()
        dump.end()
    assert max(one.length for one in read_pcap(wire)) > 65_550, "no BIG TCP packet passed"
    assert offered.counts.length_floored.packets == 0
    assert offered.counts.captured.bytes == ip_bytes(wire)


def test_big_tcp_that_only_the_peer_announces_counts_with_the_least_length(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = container_veth
    allow_big_tcp_v4(right, "right")
    wire = tmp_path / "wire.pcap"
    with (
        tcpdump(left, "left", wire) as dump,
        capturing(left, interfaces=["left"], filter="ip") as offered,
    ):
        # How large packets get, TCP decides by the state of its connection.
        for _ in range(20):
            transfer(left, right, socket.AF_INET, "10.77.0.1", 20_000_000)
            wait_for_notification()
            if offered.counts.length_floored.packets:
                break
        dump.end()
    floored = offered.counts.length_floored
    assert floored.packets > 0, "no unannounced BIG TCP packet passed"
    assert floored.bytes == 65_536 * floored.packets
    lengths = [one.length - 14 for one in read_pcap(wire) if one.frame[12:14] == b"\x08\x00"]
    first_big = sum(sorted(size for size in lengths if size > 65_535)[-floored.packets :])
    truth = sum(lengths)  # IPv6 of the link itself may pass before both captures have begun
    assert truth - first_big + floored.bytes <= offered.counts.captured.bytes <= truth


def test_all_that_is_in_the_ring_when_a_run_stops_is_counted(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks are passed on when they are full, so that the ring lasts however slow the sender is.
    monkeypatch.setattr("hogpipe.capture.pcap.choose_timeout_ms", lambda _mib: 200)
    count, offered = 20_000, Offered()

    def capture() -> None:
        source = LiveSource(
            LiveOptions(interfaces=["lo"], filter="udp port 5003"), make_table(), time.monotonic
        )
        source.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(bytes(64), ("127.0.0.1", 5003))
        source.stop()
        source.run(offered.take)

    netns.call(capture)
    assert (offered.counts.captured.packets, offered.counts.kernel_dropped) == (count, 0)
    assert count > 2 * BATCH_FRAMES


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit()], ids=repr)
def test_what_was_captured_before_an_iteration_fails_is_counted_and_so_is_the_rest_of_the_ring(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    count, offered = 200, Offered()

    def send_datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(bytes(64), ("127.0.0.1", 5003))

    def fail(_follower: LinkFollower, _indices: object, captured: CapturedPackets) -> None:
        if captured.counts.captured.packets:
            send_datagrams()
            raise error

    def capture() -> None:
        source = LiveSource(
            LiveOptions(interfaces=["lo"], filter="udp port 5003"), make_table(), time.monotonic
        )
        source.open()
        send_datagrams()
        monkeypatch.setattr(LinkFollower, "close_failed", fail)
        with pytest.raises(type(error)):
            source.run(offered.take)

    netns.call(capture)
    assert (offered.counts.captured.packets, offered.counts.kernel_dropped) == (2 * count, 0)


FLOOD = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect((sys.argv[1], 5003))
count, rate = map(int, sys.argv[2:])
started = time.monotonic()
for number in range(count):
    if number % 100 == 0:
        time.sleep(max(0, started + number / rate - time.monotonic()))
    sender.send(bytes(64))
"""


def test_a_flood_is_captured_with_a_small_ring_as_with_a_large_one(
    veth: tuple[Namespace, Namespace],
) -> None:
    left, right = veth
    nowhere = "10.77.0.99"
    right.ip("neigh", "add", nowhere, "lladdr", "02:00:00:00:00:99", "dev", "right")
    # Ten times what the small ring takes, while frames may gather for as long as they ever may.
    count = 50_000
    options = {"interfaces": ["left"], "filter": "udp port 5003", "batch_interval": 0.12}
    with (
        capturing(left, buffer_mib=1, **options) as small,
        capturing(left, buffer_mib=16, **options) as large,
    ):
        # In the longest rest four times as many come as the small ring takes.
        flood = right.command(sys.executable, "-c", FLOOD, nowhere, str(count), "100000")
        subprocess.run(flood, check=True)
    for offered in (small, large):
        assert offered.counts.captured.packets + offered.counts.kernel_dropped == count
    assert small.counts.kernel_dropped <= large.counts.kernel_dropped + count // 10
