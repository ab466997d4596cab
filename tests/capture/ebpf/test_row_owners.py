"""Owners of rows on this host: processes that live, that have exited, and whose pid is reused."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from support.fake_proc import FakeProc

from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.row_owners import RowOwners
from hogpipe.enrichment.process_watch import read_new_processes
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.linux.bpf.process_events import ProcessEvent
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import RowOwner, encode_endpoints, set_owners
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.procfs import Procfs
from hogpipe.model import (
    OWN_NAMESPACE,
    FlowKey,
    Process,
    Quality,
    SnapshotSocket,
    SocketOwner,
)

PROC = Path("/proc")
CONTAINER = "0123456789abcdef" * 4


def make_owners(procfs: Path = PROC, flow_sockets: FlowSockets | None = None) -> RowOwners:
    paths = {1: "/", 7: f"/docker/{CONTAINER}"}
    return RowOwners(
        procfs,
        ProcessReader(Procfs(procfs)),
        paths.get,
        flow_sockets or FlowSockets(),
        NetworkNamespaces(procfs),
    )


def read_new(owners: RowOwners, event: ProcessEvent) -> None:
    read_new_processes([event], owners.processes, owners.starts, time.monotonic())


def make_owner(pid: int, boot_ns: int, cgroup: int = 1) -> RowOwner:
    return RowOwner(boot_ns, cgroup, pid, 0, "python", 3, 0)


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def process_of(owners: RowOwners, owner: RowOwner) -> Process:
    process = owners.attribute(owner, Quality.EXACT).process
    assert process is not None
    return process


def test_a_process_that_lives_is_read_from_proc() -> None:
    process = process_of(make_owners(), make_owner(os.getpid(), now()))
    assert process.pid == os.getpid()
    assert process.start is not None
    assert process.executable is not None


def test_a_process_that_was_read_while_it_lived_is_known_after_it_exited() -> None:
    owners = make_owners()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        read_new(owners, ProcessEvent(now(), child.pid))
        owner = make_owner(child.pid, now())
        child.communicate(b"\n")
    assert owners.find_start_ns(child.pid) is None
    process = process_of(owners, owner)
    assert process.start is not None
    assert process.executable is not None


def test_a_process_that_exited_unread_is_described_by_its_row_and_control_group() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    owners = make_owners()
    process = process_of(owners, make_owner(child.pid, now(), cgroup=7))
    assert (process.pid, process.start, process.command) == (child.pid, None, "python")
    assert process.container == CONTAINER
    assert owners.missed_processes == 1


def test_the_owner_of_a_socket_from_before_the_programs_is_known_while_it_lives() -> None:
    flow_sockets = FlowSockets()
    owners = make_owners(flow_sockets=flow_sockets)
    start = Procfs(PROC).read_stat(os.getpid())
    assert start is not None
    me = SocketOwner(os.getpid(), start.start, 0, "python", 0)
    others = [replace(me, start=start.start - 1), replace(me, command="systemd"), None]
    flow_sockets.ingest_snapshot(
        SnapshotSocket(cookie, 3, 17, bytes(4), 53, bytes(4), 0, owner)
        for cookie, owner in enumerate([me, *others], 1)
    )
    numbers, found = owners.find_earlier_owners(np.arange(1, 7, dtype=np.uint64))
    owner, *unknown = (found[number] for number in numbers)
    assert unknown == [None] * 5
    assert owner is not None
    assert (owner.pid, owner.namespace) == (os.getpid(), 3)
    assert process_of(owners, owner).start == start.start


def test_a_record_from_before_a_process_started_is_of_another_process() -> None:
    assert process_of(make_owners(), make_owner(os.getpid(), 1)).start is None


def test_the_start_of_the_process_that_has_a_pid_is_read_once_an_epoch() -> None:
    owners, before = make_owners(), now()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        started = owners.find_start_ns(child.pid)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert started is not None
    assert before - tick <= started <= now()
    assert owners.find_start_ns(child.pid) == started
    owners.begin_epoch()
    assert owners.find_start_ns(child.pid) is None


def test_equal_attributions_of_an_epoch_are_one_object() -> None:
    owners = make_owners()
    attributions = [
        owners.attribute(make_owner(os.getpid(), now()), Quality.EXACT) for _ in range(2)
    ]
    assert attributions[0] is attributions[1]
    listener = owners.attribute(make_owner(os.getpid(), now()), Quality.LISTENER)
    assert listener.quality is Quality.LISTENER


def test_a_pid_that_is_reused_within_an_epoch_is_identified_as_either_process(
    tmp_path: Path,
) -> None:
    """In whichever order their records come, and however lately the pid was read."""
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    proc = FakeProc(tmp_path)
    flow_sockets = FlowSockets()
    owners = make_owners(tmp_path, flow_sockets)
    proc.process(7, start=100)
    read_new(owners, ProcessEvent(150 * tick, 7))
    proc.process(7, start=200)
    records = [(250, 200), (150, 100), (260, 200), (160, 100), (270, 200)]
    for at, start in records:
        owner = make_owner(7, at * tick)
        assert process_of(owners, owner).start == start
        assert find_recorded(owners, flow_sockets, owner).start == start


def find_recorded(owners: RowOwners, flow_sockets: FlowSockets, owner: RowOwner) -> SocketOwner:
    """Return the owner that is recorded for the flow of a row that is looked up."""
    flow, _ = record(owners, owner)
    entry = flow_sockets.owner_of(flow, None)
    assert entry is not None
    return entry.owner


def record(owners: RowOwners, owner: RowOwner, cookie: int = 1) -> tuple[FlowKey, bool]:
    """Record the row of an owner; return its flow, and whether that was another socket's."""
    row = np.zeros(1, TRAFFIC_ROW)
    raw = encode_endpoints(b"\x0a\0\0\1", 1000, b"\x0a\0\0\2", 80, 6)
    row["cookie"], row["endpoints"] = cookie, np.frombuffer(raw, np.uint64)
    set_owners(row, np.zeros(1, np.intp), np.zeros(1, np.intp), [owner])
    start = owners.find_start_ns(owner.pid)
    exited = np.array([start is None or owner.boot_ns < start])
    flows, is_other = owners.record_unresolved(row, exited)
    packer = FlowPacker()
    return packer.unpack(flows.pack(packer)[0]), bool(is_other[0])


def test_a_flow_that_another_socket_has_now_is_reported() -> None:
    owners = make_owners()
    own_cookie = NetworkNamespaces(PROC).own_cookie
    own = replace(make_owner(os.getpid(), now()), namespace=own_cookie)
    flow, is_other_socket = record(owners, own)
    assert (flow.namespace, is_other_socket) == (OWN_NAMESPACE, False)
    assert record(owners, own, cookie=2) == (flow, True)


def test_a_socket_without_a_namespace_is_in_that_of_the_snapshot() -> None:
    flow_sockets = FlowSockets()
    owners = make_owners(flow_sockets=flow_sockets)
    own = replace(make_owner(os.getpid(), now()), namespace=0)
    assert record(owners, own, cookie=7)[0].namespace == OWN_NAMESPACE
    unknown = NetworkNamespaces(PROC).own_cookie + 1
    flow_sockets.ingest_snapshot([SnapshotSocket(7, unknown, 6, bytes(4), 1, bytes(4), 2, None)])
    assert record(owners, own, cookie=7)[0].namespace is None


def test_sockets_of_no_process_and_of_the_service_manager_have_no_recorded_owner() -> None:
    flow_sockets = FlowSockets()
    owners = make_owners(flow_sockets=flow_sockets)
    for owner in (make_owner(0, 0), replace(make_owner(1, now()), command="systemd")):
        flow, _ = record(owners, owner)
        assert flow_sockets.owner_of(flow, None) is None
