"""Health finds the captured flows of its connections, also those that are captured later."""

import socket
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.bpf import require_bpf
from support.flow_rows import rows_of
from support.health import encode_health
from support.lanes import open_lane
from support.namespaces import Namespace
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.capture.live import health_origins
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

    def __init__(self, *, only_begun: bool = False) -> None:
        self.table = FlowTable(100, 100)
        self.owners: dict[int, Attribution] = {}
        """The owners of sockets by cookie, as the ledger has them."""
        self.placement = HealthPlacement(
            self.table,
            OWN_COOKIE,
            lambda cookies: [self.owners.get(one) for one in cookies],
            only_begun=only_begun,
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
    captured.capture(flow)
    captured.placement.add(make_epoch((flow, TWO)))
    captured.placement.add(make_epoch())
    assert captured.drain() == [TcpHealth(retransmits=3, rtt_min_us=7)]


def test_health_of_connections_that_are_not_captured_is_dropped() -> None:
    captured, flow = Captured(), make_flow()
    captured.placement.add(make_epoch((flow, ONE)))
    for _ in range(10):
        captured.placement.add(make_epoch())
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


def test_connections_that_began_before_the_run_are_left_out_where_nothing_else_is_known() -> None:
    """Their last tcp_info has what they moved before, too."""
    captured, flows = Captured(only_begun=True), [make_flow(local_port=port) for port in (1, 2)]
    for flow in flows:
        captured.capture(flow)
    syn = make_delta(transmit=(60, 1), opened=True)
    captured.table.count(rows_of(captured.table, {flows[0]: syn}, 0.0), 0.0)
    captured.placement.add(make_epoch((flows[0], ONE), (flows[1], TWO)))
    captured.placement.add(None)
    assert captured.drain() == [ONE]


def test_without_the_programs_there_is_no_health_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_options: int) -> None:
        raise BpfUnavailableError(Obstacle.LIMITS, "eBPF: no room")

    monkeypatch.setattr(health_origins, "attach_health_programs", refuse)
    caplog.set_level("INFO")
    reader = HealthReader(FlowTable(100, 100), INTERVAL_NS)
    reader.open_programs(know_no_owner)
    assert "the health of TCP connections is not counted: eBPF: no room" in caplog.text
    assert reader.take_lost() == 0
    reader.close()
    reader.close()


def test_readings_for_which_there_was_no_room_are_counted(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_bpf()
    monkeypatch.setattr(health_origins, "MAX_CONNECTIONS", 2)
    reader = HealthReader(FlowTable(100, 100), INTERVAL_NS)
    reader.open_programs(know_no_owner)
    try:
        with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
            for _ in range(5):
                netns.call(lambda: socket.create_connection(listener.getsockname())).close()
    finally:
        reader.close()
    assert reader.take_lost() >= 1
    assert reader.take_lost() == 0
