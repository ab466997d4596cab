"""One run of one workload: namespaces, load and tools at the same time, and their result."""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from support.namespaces import Namespace, host_and_container, host_and_containers, pair
from support.running import Running, running, tcpdump
from tools import (
    EBPF,
    NETHOGS,
    PROCFS,
    START_ERRORS,
    TCPDUMP,
    Outcome,
    Tool,
    hogpipe_tool,
    nethogs_tool,
    read_tcpdump_count,
    tcpdump_tool,
    wait_until_idle,
)
from truth import Owner, Truth, read_truth
from verdict import Verdict, judge
from workloads import UDP, Workload

LOADS = Path(__file__).with_name("loads.py")
INTERFACE = "left"  # the measured end, of support.namespaces.pair and of host_and_container
PORT_RANGE = "10000 65000"
TAIL = 0.5  # seconds for the last packets to pass
RUN_ERRORS = (*START_ERRORS, subprocess.SubprocessError)
"""What `run_workload` may raise."""


@dataclass
class LoadResult:
    """The load as it was; times in milliseconds."""

    opened: int
    failed: int
    seconds: float
    median_ms: float
    p99_ms: float
    packets: int
    bytes: int
    stray_packets: int
    dropped: int
    """Packets that tcpdump dropped, which the truth therefore lacks."""


@dataclass
class Result:
    """A run of a workload: the load, and each tool with its verdict (None if the tool failed)."""

    workload: str
    sides: tuple[Sequence[str], Sequence[str]]
    """The addresses of the near and of the far side."""
    load: LoadResult
    tools: list[tuple[Outcome, Verdict | None]] = field(default_factory=list)


def stop_at_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt once; later ones are ignored meanwhile."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


class LoadProcess:
    """A process of loads.py."""

    def __init__(self, run: Running) -> None:
        self._run = run
        self.ready = self._read()

    def _read(self) -> dict[str, Any]:
        line = self._run.process.stdout.readline()
        if not line:
            raise ValueError("a load ended: " + "".join(self._run.errors).strip())
        return json.loads(line)

    def go(self) -> None:
        self._run.process.stdin.write("go\n")
        self._run.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Wait for the end of the load and return its log."""
        return self._read()


def start_load(
    stack: ExitStack, where: Namespace, role: str, arguments: dict[str, Any]
) -> LoadProcess:
    words = [sys.executable, LOADS, role, json.dumps(arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return LoadProcess(stack.enter_context(running(where, *words, **pipes)))


def prepare(where: Namespace, version: int) -> None:
    """Silence everything but the load in a namespace, and give it enough ports.

    With IPv6 neighbour discovery (ICMPv6) remains; no table counts it.
    """

    def write() -> None:
        if version == 4:
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(PORT_RANGE)
        Path("/proc/sys/net/core/somaxconn").write_text("4096")

    where.call(write)


def start_tools(
    stack: ExitStack,
    near: Namespace,
    workload: Workload,
    folder: Path,
    *,
    by_flow: bool,
    modes: Sequence[str],
    nethogs: bool,
    with_tcpdump: bool,
) -> tuple[list[Tool], list[Outcome]]:
    """Start the tools; return those that run, and the outcomes of those that failed to start."""
    tools, failed = [], []
    wanted = [
        (mode, start_hogpipe(near, workload, folder / f"run-{number}", by_flow=by_flow, mode=mode))
        for number, mode in enumerate(modes)
    ]
    if nethogs:
        made = nethogs_tool(near, INTERFACE, folder, workload.protocol == UDP)
        wanted.append((NETHOGS, made))
    if with_tcpdump:
        wanted.append((TCPDUMP, tcpdump_tool(near, INTERFACE)))
    for name, made in wanted:
        try:
            tools.append(stack.enter_context(made))
        except START_ERRORS as error:
            failed.append(Outcome(name, error=str(error) or repr(error)))
    return tools, failed


def sides_of(workload: Workload) -> AbstractContextManager[Sequence[Namespace]]:
    """Create the namespaces of a workload, the measured one first."""
    if workload.wire == "bridge":
        _, length = workload.addresses[1].split("/")
        fars = [f"{address}/{length}" for address in workload.fars]
        return host_and_containers(workload.addresses[0], fars)
    topology = host_and_container if workload.wire == "veth" else pair
    return topology([workload.addresses])


def start_hogpipe(
    near: Namespace, workload: Workload, folder: Path, *, by_flow: bool, mode: str
) -> AbstractContextManager[Tool]:
    """Run hogpipe; records of other protocols than the workload's are ignored.

    EBPF counts all sockets of the host, so records with other peers are ignored as well.
    """
    transport = "udp" if workload.protocol == UDP else "tcp"
    group_by = ["process", "flow"] if by_flow else ["process", "transport"]
    peers: Sequence[str] | None = None
    if mode == EBPF:
        peers = workload.peers
        group_by += [] if by_flow else ["remote"]

    def is_of_load(record: dict[str, Any]) -> bool:
        network = record["network"]
        if network.get("transport") != transport:
            return False
        return peers is None or network.get("peer", {}).get("address") in peers

    return hogpipe_tool(
        near, INTERFACE, folder, mode=mode, group_by=group_by, is_of_load=is_of_load,
        containers=workload.containers if workload.both_ends else 0,
    )  # fmt: skip


def run_workload(
    workload: Workload,
    seconds: float,
    *,
    by_flow: bool,
    modes: Sequence[str] = (PROCFS,),
    nethogs: bool = True,
    with_tcpdump: bool = False,
) -> Result:
    """Run a workload and return the verdict on each tool; everything created is removed.

    hogpipe runs once in each of the `modes` (tools.py). The truth is from a tcpdump of its own.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-bench-")))
        near, *fars = stack.enter_context(sides_of(workload))
        for side in (near, *fars):
            prepare(side, workload.version)
        for side, idle in ((near, workload.idle), (fars[0], workload.idle_inside)):
            for sockets, files in idle:
                start_load(stack, side, "hold", {"sockets": sockets, "files": files})
        if workload.crowd:
            start_load(stack, near, "crowd", {"processes": workload.crowd})
        server_side = near if workload.inbound else fars[0]
        server = start_load(stack, server_side, *workload.server_arguments())
        clients = [
            start_load(
                stack,
                fars[number % len(fars)] if workload.inbound else near,
                *workload.client_arguments(number, seconds),
            )
            for number in range(workload.clients)
        ]
        dump = stack.enter_context(tcpdump(near, INTERFACE, folder / "wire.pcap"))
        tools, outcomes = start_tools(
            stack,
            near,
            workload,
            folder,
            by_flow=by_flow,
            modes=modes,
            nethogs=nethogs,
            with_tcpdump=with_tcpdump,
        )
        for tool in tools:
            tool.mark()
        for client in clients:
            client.go()
        logs = [client.result() for client in clients]
        time.sleep(TAIL)
        wait_until_idle(tools)
        outcomes += [tool.finish() for tool in tools]
        dump.end()
        owners = name_owners(workload, server, clients, logs)
        truth = read_truth(folder / "wire.pcap", workload.measured, owners)
        load = sum_up(logs, truth, read_tcpdump_count(dump, "dropped"))
    verdicts = [(one, verdict_on(one, truth, owners)) for one in outcomes]
    return Result(workload.name, ([workload.near], workload.fars), load, verdicts)


def name_owners(
    workload: Workload,
    server: LoadProcess,
    clients: Sequence[LoadProcess],
    logs: Sequence[dict[str, Any]],
) -> list[Owner]:
    """Return the owners of the connections on the measured sides."""
    pids = frozenset(server.ready["pids"])
    serving = workload.server_address
    owners = [Owner("server", serving, pids, workload.protocol, workload.server_ports, None)]
    owners += [
        Owner(
            f"client {number}",
            workload.client_address(number),
            frozenset([client.ready["pid"]]),
            workload.protocol,
            log["ports"],
            workload.port_of(number),
        )
        for number, (client, log) in enumerate(zip(clients, logs, strict=True))
    ]
    return [owner for owner in owners if owner.address in workload.measured]


def verdict_on(outcome: Outcome, truth: Truth, owners: Sequence[Owner]) -> Verdict | None:
    if outcome.error is not None:
        return None
    return judge(outcome.reported, truth, owners, link_header=outcome.link_header)


def sum_up(logs: Sequence[dict[str, Any]], truth: Truth, dropped: int) -> LoadResult:
    lifetimes = sorted(1000 * one for log in logs for one in log["lifetimes"])
    return LoadResult(
        opened=len(lifetimes),
        failed=sum(log["failed"] for log in logs),
        seconds=max(log["seconds"] for log in logs),
        median_ms=statistics.median(lifetimes),
        p99_ms=lifetimes[len(lifetimes) * 99 // 100],
        packets=truth.packets.total(),
        bytes=truth.bytes.total(),
        stray_packets=truth.stray_packets,
        dropped=dropped,
    )
