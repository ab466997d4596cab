"""Health finds the captured flows of its connections, also those that are captured later."""

import socket
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.bpf import require_bpf
from support.health import encode_health
from support.lanes import open_lane
from support.namespaces import Namespace
from support.traffic import NGINX, exact, make_flow

from hogpipe.capture.live import health_reader
from hogpipe.capture.live.health_reader import HealthPlacement, HealthReader, choose_pause
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.health_columns import decode_health
from hogpipe.linux.bpf.connection_maps import ConnectionRows
from hogpipe.linux.bpf.health_rows import HealthRows
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.model import Attribution, FlowDelta, FlowKey, TcpHealth

OWN_COOKIE, INTERVAL_NS = 5, 1_000_000_000
CURL = replace(NGINX, pid=77, command="curl", executable="/usr/bin/curl")
OWNER, OTHER = exact(NGINX), exact(CURL)
ONE, TWO = TcpHealth(retransmits=1, rtt_min_us=9), TcpHealth(retransmits=2, rtt_min_us=7)


def know_no_owner(cookies: Sequence[int]) -> list[Attribution | None]:
    return [None for _ in cookies]


def make_epoch(*found: tuple[FlowKey, TcpHealth], namespace: int = OWN_COOKIE) -> ConnectionRows:
    rows = np.zeros(len(found), TRAFFIC_ROW)
    for row, (flow, _health) in zip(rows, found, strict=True):
        ends = (flow.local_address, flow.local_port, flow.remote_address, flow.remote_port, 6)
        row["endpoints"] = np.frombuffer(encode_endpoints(*ends), np.uint64)
    rows["namespace"] = namespace
    rows["cookie"] = np.arange(len(found)) + 1
    health = HealthRows(rows["cookie"].copy(), encode_health([one for _, one in found]))
    return ConnectionRows(rows, rows[:0], health)


class Captured:
    """A table that captures flows, and their health."""

    def __init__(self) -> None:
        self.table = FlowTable(100, 100)
        self.owners: dict[int, Attribution] = {}
        """The owners of sockets by cookie, as the ledger has them."""
        self.placement = HealthPlacement(
            self.table, OWN_COOKIE, lambda cookies: [self.owners.get(one) for one in cookies]
        )

    def capture(self, flow: FlowKey, owner: Attribution = OWNER) -> None:
        self.table.receive({flow: FlowDelta()}, 0.0)
        open_lane(self.table, flow, owner, due_at=100.0)

    def drain(self) -> list[TcpHealth | None]:
        sums = self.table.drain()
        return [] if sums.health is None else decode_health(sums.health.tolist())

    def drain_by_owner(self) -> dict[int, TcpHealth | None]:
        """Return the health by the pid of its owner."""
        sums = self.table.drain()
        assert sums.health is not None
        owners = [sums.attributions[place].process for place in sums.owners.tolist()]
        health = decode_health(sums.health.tolist())
        assert len(owners) == len({*owners})
        return {owner.pid: one for owner, one in zip(owners, health, strict=True) if owner}


def test_two_connections_with_one_five_tuple_both_count() -> None:
    captured, flow = Captured(), make_flow()
    captured.capture(flow)
    captured.placement.add(make_epoch((flow, ONE), (flow, TWO)))
    assert captured.drain() == [TcpHealth(retransmits=3, rtt_min_us=7)]
    assert captured.drain() == []


def test_each_connection_of_one_five_tuple_counts_for_its_own_owner() -> None:
    """Where one reading has both, the ledger knows them apart."""
    captured, flow = Captured(), make_flow()
    captured.capture(flow, OTHER)
    captured.owners = {1: OWNER, 2: OTHER}
    captured.placement.add(make_epoch((flow, ONE), (flow, TWO)))
    assert captured.drain_by_owner() == {NGINX.pid: ONE, CURL.pid: TWO}


def test_health_stays_with_the_owner_that_the_flow_had() -> None:
    captured, flow = Captured(), make_flow()
    captured.capture(flow, OWNER)
    captured.placement.add(make_epoch((flow, ONE)))
    captured.capture(flow, OTHER)
    captured.placement.add(make_epoch((flow, TWO)))
    assert captured.drain_by_owner() == {NGINX.pid: ONE, CURL.pid: TWO}


@given(st.integers(0, 1 << 62), st.integers(50_000_000, 1 << 40))
def test_the_maps_are_read_twice_a_second_and_before_each_window_ends(
    now_ns: int, interval_ns: int
) -> None:
    due_ns = now_ns + round(choose_pause(now_ns, interval_ns) * 1e9)
    assert now_ns < due_ns <= now_ns + 500_000_000
    end_ns = now_ns - now_ns % interval_ns + interval_ns
    if now_ns < end_ns - 40_000_000:
        assert due_ns <= end_ns - 19_000_000


def test_health_that_is_read_before_its_packets_counts_once_with_them() -> None:
    captured, flow = Captured(), make_flow()
    captured.placement.add(make_epoch((flow, ONE)))
    assert captured.placement.has_waiting
    captured.capture(flow)
    captured.placement.add(make_epoch((flow, TWO)))
    assert not captured.placement.has_waiting
    captured.placement.add(make_epoch())
    assert captured.drain() == [TcpHealth(retransmits=3, rtt_min_us=7)]


def test_health_of_connections_that_are_not_captured_is_dropped() -> None:
    captured, flow = Captured(), make_flow()
    captured.placement.add(make_epoch((flow, ONE)))
    for _ in range(10):
        captured.placement.add(make_epoch())
    assert not captured.placement.has_waiting
    captured.capture(flow)
    captured.placement.add(make_epoch())
    assert captured.drain() == []


def test_a_connection_of_a_container_is_not_that_of_the_host() -> None:
    captured, flow = Captured(), make_flow()
    captured.capture(flow)
    captured.placement.add(make_epoch((flow, ONE), namespace=OWN_COOKIE + 1))
    assert captured.drain() == []
    captured.placement.add(make_epoch((flow, TWO), namespace=0))  # it is not known
    assert captured.drain() == [TWO]


def test_without_the_programs_there_is_no_health_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_options: int) -> None:
        raise BpfUnavailableError(Obstacle.LIMITS, "eBPF: no room")

    monkeypatch.setattr(health_reader, "attach_health_programs", refuse)
    caplog.set_level("INFO")
    reader = HealthReader(FlowTable(100, 100), INTERVAL_NS)
    reader.open(know_no_owner)
    assert "no health of TCP connections: eBPF: no room" in caplog.text
    assert reader.take_lost() == 0
    reader.close()
    reader.close()


def test_readings_for_which_there_was_no_room_are_counted(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_bpf()
    monkeypatch.setattr(health_reader, "_MAX_CONNECTIONS", 2)
    reader = HealthReader(FlowTable(100, 100), INTERVAL_NS)
    reader.open(know_no_owner)
    try:
        with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
            for _ in range(5):
                netns.call(lambda: socket.create_connection(listener.getsockname())).close()
    finally:
        reader.close()
    assert reader.take_lost() >= 1
    assert reader.take_lost() == 0
