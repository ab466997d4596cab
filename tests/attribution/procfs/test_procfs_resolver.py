"""From flows to owners, on a fake /proc."""

import ipaddress
import itertools
import pwd
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.fake_proc import CLOSE, LISTEN, FakeProc, format_row, format_time_wait
from support.resolving import attribute

from hogpipe.attribution.procfs import endpoint_heuristic
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint, EndpointHeuristic
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import Resolution
from hogpipe.errors import ConfigurationError
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Process, Quality, User

TCP, UDP, SCTP = 6, 17, 132
HERE, THERE = ipaddress.ip_address("10.0.0.1").packed, ipaddress.ip_address("10.0.0.2").packed
HERE6, THERE6 = ipaddress.ip_address("fd00::1").packed, ipaddress.ip_address("fd00::2").packed
NOBODY_KNOWN = 2**32 - 2


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def tcp_flow(local_port: int, remote_port: int) -> FlowKey:
    return FlowKey(TCP, HERE, local_port, THERE, remote_port, "eth0")


def connection(local_port: int, remote_port: int, *, inode: int, uid: int = 0) -> bytes:
    return format_row((HERE, local_port), (THERE, remote_port), inode=inode, uid=uid)


def listener(port: int, *, inode: int, uid: int = 0) -> bytes:
    return format_row((bytes(4), port), (bytes(4), 0), inode=inode, state=LISTEN, uid=uid)


def found(resolver: ProcfsResolver, flow: FlowKey) -> tuple[Quality, int | None]:
    attribution = attribute(resolver, [flow])[flow]
    process = attribution.process
    return attribution.quality, None if process is None else process.pid


def test_an_invalid_root_is_an_error_when_the_resolver_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        ProcfsResolver(tmp_path / "nowhere")


def test_a_flow_without_a_socket_in_a_table_that_never_ends_has_no_resolution(
    fake: FakeProc,
) -> None:
    fake.table("tcp", connection(1000, 80, inode=5))
    (fake.root / "net" / "tcp6").symlink_to("/dev/zero")
    fake.process(20, sockets={3: 5, 4: 6})
    resolver = ProcfsResolver(fake.root, clock=itertools.count(0.0, 0.25).__next__)
    found_first = resolver.resolve([tcp_flow(1000, 80), tcp_flow(1001, 80)])
    assert found_first.keys() == {tcp_flow(1000, 80)}
    assert resolver.counts().tables_incomplete == 1
    (fake.root / "net" / "tcp6").unlink()
    fake.table("tcp6", connection(1001, 80, inode=6))
    assert found(resolver, tcp_flow(1001, 80)) == (Quality.EXACT, 20)
    assert resolver.counts().tables_incomplete == 1


def test_a_batch_reads_each_table_that_it_needs_once(fake: FakeProc) -> None:
    for name in ("tcp", "tcp6", "udp", "udp6"):
        fake.table(name)
    resolver = ProcfsResolver(fake.root)
    flows = [tcp_flow(port, 80) for port in range(1000, 1100)]
    flows.append(FlowKey(TCP, HERE6, 1, THERE6, 2, "eth0"))
    assert attribute(resolver, flows) == dict.fromkeys(flows, UNATTRIBUTED)
    assert resolver.counts().table_reads == 2
    resolver.resolve([FlowKey(UDP, HERE6, 1, THERE6, 2, "eth0")])
    assert resolver.counts().table_reads == 3


def test_one_batch_resolves_flows_of_all_protocols(fake: FakeProc) -> None:
    fake.table(
        "tcp",
        connection(4000, 80, inode=100),
        listener(443, inode=101),
        format_time_wait((HERE, 443), (THERE, 5000)),
    )
    fake.table("udp6", format_row((HERE6, 53), (bytes(16), 0), inode=102, state=CLOSE))
    fake.process(10, sockets={3: 100})
    fake.process(20, sockets={3: 101, 4: 102})
    client, server = tcp_flow(4000, 80), tcp_flow(443, 5000)
    name_server = FlowKey(UDP, HERE6, 53, THERE6, 999, "eth0")
    unmatched, other = tcp_flow(1, 2), FlowKey(SCTP, HERE, 1, THERE, 2, "eth0")
    answer = attribute(ProcfsResolver(fake.root), [client, server, name_server, unmatched, other])
    pids = {
        flow: (attribution.quality, attribution.process and attribution.process.pid)
        for flow, attribution in answer.items()
    }
    assert pids == {
        client: (Quality.EXACT, 10),
        server: (Quality.LISTENER, 20),
        name_server: (Quality.LISTENER, 20),
        unmatched: (Quality.NONE, None),
        other: (Quality.NONE, None),
    }


def test_a_closed_connection_is_unattributed(fake: FakeProc) -> None:
    # The row of a connection in TIME_WAIT has uid 0, whoever owned it.
    fake.table("tcp", format_time_wait((HERE, 4000), (THERE, 80)))
    fake.process(10, sockets={3: 0})
    flow = tcp_flow(4000, 80)
    assert attribute(ProcfsResolver(fake.root), [flow]) == {flow: UNATTRIBUTED}


def test_a_connection_without_a_known_holder_has_its_user(fake: FakeProc) -> None:
    fake.table(
        "tcp", connection(4000, 80, inode=100), connection(4001, 80, inode=7, uid=NOBODY_KNOWN)
    )
    known, unknown = tcp_flow(4000, 80), tcp_flow(4001, 80)
    assert attribute(ProcfsResolver(fake.root), [known, unknown]) == {
        known: Attribution(Quality.NONE, user=User(0, pwd.getpwuid(0).pw_name)),
        unknown: Attribution(Quality.NONE, user=User(NOBODY_KNOWN)),
    }


def test_a_connection_without_a_known_holder_does_not_fall_back_to_the_listener(
    fake: FakeProc,
) -> None:
    fake.table("tcp", connection(443, 5000, inode=100), listener(443, inode=101))
    fake.process(20, sockets={3: 101})
    assert found(ProcfsResolver(fake.root), tcp_flow(443, 5000)) == (Quality.NONE, None)


def test_two_candidate_owners_leave_no_owner(fake: FakeProc) -> None:
    fake.table("tcp", listener(443, inode=101, uid=5), listener(443, inode=102, uid=5))
    fake.process(20, sockets={3: 101})
    fake.process(21, sockets={3: 102})
    flow = tcp_flow(443, 5000)
    attribution = attribute(ProcfsResolver(fake.root), [flow])[flow]
    assert (attribution.quality, attribution.process) == (Quality.NONE, None)
    assert attribution.user is not None
    assert attribution.user.id == 5


def test_two_candidate_owners_of_different_users_leave_no_user(fake: FakeProc) -> None:
    fake.table("tcp", listener(443, inode=101, uid=5), listener(443, inode=102, uid=6))
    fake.process(20, sockets={3: 101})
    fake.process(21, sockets={3: 102})
    flow = tcp_flow(443, 5000)
    # The flow has a socket, so it is not UNATTRIBUTED.
    assert ProcfsResolver(fake.root).resolve([flow]) == {}


def test_an_owner_beside_an_unknown_one_is_no_owner(fake: FakeProc) -> None:
    fake.table("tcp", listener(443, inode=101), listener(443, inode=102))
    fake.process(20, sockets={3: 101})
    assert found(ProcfsResolver(fake.root), tcp_flow(443, 5000)) == (Quality.NONE, None)


def test_one_process_with_two_sockets_on_a_port_is_one_owner(fake: FakeProc) -> None:
    fake.table("tcp", listener(443, inode=101), listener(443, inode=102))
    fake.process(20, sockets={3: 101, 4: 102})
    assert found(ProcfsResolver(fake.root), tcp_flow(443, 5000)) == (Quality.LISTENER, 20)


def test_malformed_rows_are_counted(fake: FakeProc) -> None:
    fake.table("tcp", b"nonsense", connection(4000, 80, inode=100))
    fake.process(10, sockets={3: 100})
    resolver = ProcfsResolver(fake.root)
    assert found(resolver, tcp_flow(4000, 80)) == (Quality.EXACT, 10)
    assert resolver.counts().rows_skipped == 1
    assert resolver.counts().tuple_lookups == 0


def test_counters_only_grow(fake: FakeProc) -> None:
    fake.table("tcp", connection(4000, 80, inode=100))
    fake.process(10, sockets={3: 100})
    resolver = ProcfsResolver(fake.root)
    first = resolver.counts()
    resolver.resolve([tcp_flow(4000, 80)])
    second = resolver.counts()
    assert (first.table_reads, first.fd_scans, first.fds_read) == (0, 0, 0)
    assert (second.table_reads, second.fd_scans) == (1, 1)
    assert second.fds_read > 0


class Clock:
    """`advance` exceeds the pause after a sample, but not the lifetime of a short-lived socket."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float = 0.9) -> None:
        self.now += seconds


MISSED, MISSED_TOO = tcp_flow(9999, 443), tcp_flow(9998, 443)


def inferred(resolver: ProcfsResolver) -> tuple[Quality, int | None]:
    """Look up two flows to one endpoint whose sockets are closed; return quality and owner."""
    answer = attribute(resolver, [MISSED, MISSED_TOO])
    assert answer[MISSED] == answer[MISSED_TOO]
    process = answer[MISSED].process
    return answer[MISSED].quality, None if process is None else process.pid


def open_connections(fake: FakeProc, *inodes: int) -> None:
    """Open connections to the same endpoint, on ports without flows."""
    fake.table("tcp", *(connection(1000 + inode, 443, inode=inode) for inode in inodes))


@pytest.mark.usefixtures("root")  # its sockets and its files are of user 0
def test_the_endpoint_heuristic_names_the_only_owner_at_an_endpoint(
    fake: FakeProc,
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    fake.process(500, command=b"curl")
    resolver.prepare()
    for inode in range(71, 79):
        open_connections(fake, inode)
        fake.process(500, command=b"curl", sockets={1: inode})  # the lowest free number
        assert inferred(resolver) == (Quality.NONE, None)
        clock.advance()
    open_connections(fake)
    assert inferred(resolver) == (Quality.INFERRED, 500)
    assert found(resolver, tcp_flow(9999, 444)) == (Quality.NONE, None)
    clock.advance(31.0)
    assert found(resolver, MISSED) == (Quality.NONE, None)


@pytest.mark.parametrize("owners", [1, 2])
def test_the_endpoint_heuristic_names_no_owner_at_an_endpoint_of_two_processes(
    fake: FakeProc, owners: int
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    open_connections(fake, *range(71, 81))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 12)})
    if owners == 2:
        fake.process(600, sockets={3: 80})
    else:
        fake.process(500, sockets={fd: 68 + fd for fd in range(3, 13)})
    resolver.prepare()
    inferred(resolver)
    open_connections(fake)
    clock.advance()
    assert inferred(resolver) == ((Quality.INFERRED, 500) if owners == 1 else (Quality.NONE, None))


@pytest.mark.parametrize("owners", [1, 2])
def test_a_flow_without_a_socket_is_final_once_the_heuristic_has_decided(
    fake: FakeProc, owners: int
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    assert resolver.resolve([MISSED]) == {MISSED: Resolution(UNATTRIBUTED, is_final=False)}
    open_connections(fake, *range(71, 81))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 14 - owners)})
    fake.process(600, sockets={3: 80} if owners == 2 else {})
    resolver.prepare()
    inferred(resolver)
    open_connections(fake)
    clock.advance()
    other = tcp_flow(9999, 444)
    found = resolver.resolve([MISSED, MISSED_TOO, other])
    assert [found[flow].is_final for flow in (MISSED, MISSED_TOO, other)] == [True, True, False]


def test_a_connection_matched_to_its_listener_is_final_and_an_open_one_is_not(
    fake: FakeProc,
) -> None:
    fake.table("tcp", listener(80, inode=100), connection(80, 4000, inode=101))
    fake.process(10, sockets={3: 100, 4: 101})
    resolver = ProcfsResolver(fake.root)
    connected, closed = tcp_flow(80, 4000), tcp_flow(80, 4001)
    found = resolver.resolve([connected, closed])
    assert [
        (found[flow].attribution.quality, found[flow].is_final) for flow in (connected, closed)
    ] == [
        (Quality.EXACT, False),
        (Quality.LISTENER, True),
    ]


def test_datagrams_at_the_port_of_an_unconnected_socket_are_final_once_many_had_no_other(
    fake: FakeProc,
) -> None:
    def udp(local_port: int, remote_port: int = 0, *, inode: int) -> bytes:
        there = THERE if remote_port else bytes(4)
        return format_row((HERE, local_port), (there, remote_port), inode=inode, state=CLOSE)

    def flow(remote_port: int) -> FlowKey:
        return FlowKey(UDP, HERE, 53, THERE, remote_port, "eth0")

    fake.table("udp", udp(53, inode=100))
    fake.process(10, sockets={3: 100, 4: 101})
    resolver = ProcfsResolver(fake.root, clock=lambda: 0.0)
    first, later = (
        resolver.resolve([flow(port) for port in range(start, start + 50)])
        for start in (1000, 2000)
    )
    assert {one.attribution.quality for one in first.values()} == {Quality.LISTENER}
    assert not any(one.is_final for one in first.values())
    assert later[flow(2049)].is_final
    fake.table("udp", udp(53, inode=100), udp(53, 3000, inode=101))
    connected = resolver.resolve([flow(3000)])[flow(3000)]
    assert (connected.attribution.quality, connected.is_final) == (Quality.EXACT, False)
    assert not resolver.resolve([flow(3001)])[flow(3001)].is_final


ESTABLISHED, SYN_RECV, FIN_WAIT2, CLOSE_WAIT = 0x01, 0x03, 0x05, 0x08
ALONE, WORKERS, ACTIVATION, ACTIVATED = {10}, {10, 11, 12}, {1}, {1, 10}


@pytest.mark.parametrize(
    ("state", "holders", "is_final"),
    [
        (ESTABLISHED, ALONE, True),
        (SYN_RECV, ALONE, True),
        (SYN_RECV, WORKERS, False),
        (ESTABLISHED, WORKERS, False),
        (CLOSE_WAIT, WORKERS, False),
        (FIN_WAIT2, WORKERS, True),
        (None, WORKERS, True),
        (ESTABLISHED, ACTIVATION, False),
        (ESTABLISHED, ACTIVATED, True),
    ],
)
def test_a_connection_that_one_of_several_processes_will_accept_has_no_final_owner(
    fake: FakeProc, state: int | None, holders: set[int], *, is_final: bool
) -> None:
    waiting = tcp_flow(80, 4000)
    rows = [] if state is None else [format_row((HERE, 80), (THERE, 4000), inode=0, state=state)]
    fake.table("tcp", listener(80, inode=100), *rows)
    fake.process(1, command=b"systemd", sockets={3: 100} if 1 in holders else {})
    for pid in holders - {1}:
        fake.process(pid, parent=1 if pid == 10 else 10, sockets={3: 100})
    resolver = ProcfsResolver(fake.root)
    resolution = resolver.resolve([waiting])[waiting]
    assert resolution.attribution.quality is Quality.LISTENER
    assert resolution.attribution.process is not None
    assert resolution.attribution.process.pid == (10 if 10 in holders else 1)
    assert (resolution.is_final, resolution.may_be_refined) == (is_final, not is_final)
    fake.table("tcp", listener(80, inode=100), connection(80, 4000, inode=101))
    fake.process(99, parent=10, sockets={5: 101})
    assert found(resolver, waiting) == (Quality.EXACT, 99)


def test_a_pool_of_open_connections_is_no_evidence(fake: FakeProc) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    open_connections(fake, *range(71, 91))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 23)})
    resolver.prepare()
    for _ in range(20):
        assert inferred(resolver) == (Quality.NONE, None)
        clock.advance()


@pytest.mark.parametrize("unseen", [1, 2])
def test_an_endpoint_is_sampled_after_two_flows_without_a_socket(
    fake: FakeProc, unseen: int
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    open_connections(fake, *range(71, 79))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 11)})
    resolver.prepare()
    for port in range(unseen):
        assert found(resolver, tcp_flow(9000 + port, 443)) == (Quality.NONE, None)
    open_connections(fake)
    clock.advance()
    assert inferred(resolver) == ((Quality.INFERRED, 500) if unseen == 2 else (Quality.NONE, None))


def test_a_batch_right_after_a_sample_uses_its_evidence(
    fake: FakeProc,
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    open_connections(fake, *range(71, 79))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 11)})
    resolver.prepare()
    assert inferred(resolver) == (Quality.NONE, None)
    open_connections(fake)
    clock.advance(endpoint_heuristic._SHORT_INTERVAL / 2)
    assert inferred(resolver) == (Quality.NONE, None)
    clock.advance()
    assert inferred(resolver) == (Quality.INFERRED, 500)
    assert resolver.infer(tcp_flow(1, 443)).quality is Quality.INFERRED


def test_a_sample_delays_samples_of_other_endpoints(fake: FakeProc) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    fake.table("tcp", *(connection(1000 + inode, 444, inode=inode) for inode in range(71, 79)))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 11)})
    resolver.prepare()
    others = [tcp_flow(9999, 444), tcp_flow(9998, 444)]
    assert inferred(resolver) == (Quality.NONE, None)
    clock.advance(endpoint_heuristic._SHORT_INTERVAL / 2)
    resolver.resolve(others)  # a sample now would find the open connections
    fake.table("tcp")
    clock.advance()
    assert {one.quality for one in attribute(resolver, others).values()} == {Quality.NONE}


def test_a_connection_that_stays_open_without_an_owner_is_ambiguous(fake: FakeProc) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    open_connections(fake, *range(71, 81))
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 11)})  # no process holds the last two
    resolver.prepare()
    inferred(resolver)
    open_connections(fake, 80)
    clock.advance(0.1)
    assert inferred(resolver) == (Quality.INFERRED, 500)  # it may just be closing
    clock.advance()
    assert inferred(resolver) == (Quality.NONE, None)


class WatchedHeuristic(EndpointHeuristic):
    """Records which methods were called, and whether `lock` was held each time."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self._lock = lock
        self.uses: set[tuple[str, bool]] = set()

    def record_match(
        self, endpoint: Endpoint, inode: int, owner: Process | None, now: float
    ) -> None:
        self.uses.add(("record_match", self._lock.locked()))
        super().record_match(endpoint, inode, owner, now)

    def record_sample(
        self, endpoint: Endpoint, owners: Mapping[int, Process | None], now: float
    ) -> None:
        self.uses.add(("record_sample", self._lock.locked()))
        super().record_sample(endpoint, owners, now)

    def is_conclusive(self, endpoint: Endpoint, now: float) -> bool:
        self.uses.add(("is_conclusive", self._lock.locked()))
        return super().is_conclusive(endpoint, now)

    def infer_owner(self, endpoint: Endpoint, now: float) -> Process | None:
        self.uses.add(("infer_owner", self._lock.locked()))
        return super().infer_owner(endpoint, now)


def test_the_endpoint_heuristic_is_used_under_its_lock(fake: FakeProc) -> None:
    resolver = ProcfsResolver(fake.root)
    owners = resolver._endpoints = WatchedHeuristic(resolver._endpoints_lock)
    fake.table("tcp", connection(4000, 80, inode=71))
    fake.process(500, sockets={3: 71})
    resolver.prepare()
    resolver.resolve([tcp_flow(4000, 80), MISSED, MISSED_TOO])
    resolver.infer(MISSED)
    assert owners.uses == {
        ("record_match", True),
        ("record_sample", True),
        ("is_conclusive", True),
        ("infer_owner", True),
    }


def test_long_lived_connections_are_no_evidence(
    fake: FakeProc,
) -> None:
    clock = Clock()
    resolver = ProcfsResolver(fake.root, clock=clock)
    fake.process(500, sockets={fd: 68 + fd for fd in range(3, 23)})
    open_connections(fake, *range(71, 91))
    resolver.prepare()
    resolver.resolve(
        [MISSED, MISSED_TOO, *[tcp_flow(1000 + inode, 443) for inode in range(71, 91)]]
    )
    open_connections(fake)
    clock.advance()
    assert inferred(resolver) == (Quality.NONE, None)


def test_a_datagram_socket_has_been_open_since_its_inode_was_seen(fake: FakeProc) -> None:
    udp, tcp = FlowKey(UDP, HERE, 53, THERE, 9, "eth0"), tcp_flow(1000, 80)
    for name in ("tcp", "tcp6", "udp", "udp6"):
        fake.table(name)
    fake.table("udp", format_row((HERE, 53), (bytes(4), 0), inode=5, state=CLOSE))
    fake.table("tcp", connection(1000, 80, inode=6))
    fake.process(20, sockets={3: 5, 4: 6})
    now = 10.0
    resolver = ProcfsResolver(fake.root, clock=lambda: now)
    resolver.prepare()
    now = 14.0
    found = resolver.resolve([udp, tcp])
    assert [found[one].open_for for one in (udp, tcp)] == [4.0, 0.0]
    fake.table("udp", format_row((HERE, 53), (bytes(4), 0), inode=7, state=CLOSE))
    fake.process(20, sockets={3: 7})
    now = 15.0
    assert resolver.resolve([udp])[udp].open_for == 0.0
