"""One run of one workload: namespaces, load and tools at the same time, and their result."""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.namespaces import Namespace, host_and_container, pair
from support.running import Running, running, tcpdump
from tools import PROCFS, START_ERRORS, Outcome, Tool, hogpipe_tool, nethogs_tool, wait_until_idle
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
    sides: tuple[str, str]
    """The addresses of the near and the far side."""
    load: LoadResult
    tools: list[tuple[Outcome, Verdict | None]] = field(default_factory=list)


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
) -> tuple[list[Tool], list[Outcome]]:
    """Start the tools; return those that run, and the outcomes of those that failed to start."""
    tools, failed = [], []
    wanted = [
        (
            mode,
            hogpipe_tool(
                near, INTERFACE, workload, folder / f"run-{number}", by_flow=by_flow, mode=mode
            ),
        )
        for number, mode in enumerate(modes)
    ]
    if nethogs:
        made = nethogs_tool(near, INTERFACE, folder, workload.protocol == UDP)
        wanted.append(("nethogs", made))
    for name, made in wanted:
        try:
            tools.append(stack.enter_context(made))
        except START_ERRORS as error:
            failed.append(Outcome(name, error=str(error) or repr(error)))
    return tools, failed


def run_workload(
    workload: Workload,
    seconds: float,
    *,
    by_flow: bool,
    modes: Sequence[str] = (PROCFS,),
    nethogs: bool = True,
) -> Result:
    """Run a workload and return the verdict on each tool; everything created is removed.

    hogpipe runs once in each of the `modes` (tools.py).
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-bench-")))
        topology = host_and_container if workload.both_ends else pair
        near, far = stack.enter_context(topology([workload.addresses]))
        prepare(near, workload.version)
        prepare(far, workload.version)
        for sockets, files in workload.idle:
            start_load(stack, near, "hold", {"sockets": sockets, "files": files})
        server_side, client_side = (near, far) if workload.inbound else (far, near)
        server = start_load(stack, server_side, *workload.server_arguments())
        clients = [
            start_load(stack, client_side, *workload.client_arguments(number, seconds))
            for number in range(workload.clients)
        ]
        dump = stack.enter_context(tcpdump(near, INTERFACE, folder / "wire.pcap"))
        tools, outcomes = start_tools(
            stack, near, workload, folder, by_flow=by_flow, modes=modes, nethogs=nethogs
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
        load = sum_up(logs, truth, read_dropped(dump.errors))
    verdicts = [(one, verdict_on(one, truth, owners)) for one in outcomes]
    return Result(workload.name, (workload.near, workload.far), load, verdicts)


def name_owners(
    workload: Workload,
    server: LoadProcess,
    clients: Sequence[LoadProcess],
    logs: Sequence[dict[str, Any]],
) -> list[Owner]:
    """Return the owners of the connections on the measured sides."""
    pids = frozenset(server.ready["pids"])
    serving, calling = workload.server_address, workload.client_address
    owners = [Owner("server", serving, pids, workload.protocol, workload.server_ports, None)]
    owners += [
        Owner(
            f"client {number}",
            calling,
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


def read_dropped(errors: Sequence[str]) -> int:
    """Return the number of packets that tcpdump reports as dropped."""
    found = re.findall(r"^(\d+) packets? dropped", "".join(errors), re.MULTILINE)
    return sum(map(int, found))
