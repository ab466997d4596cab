"""Short connections of growth.py: their cost by the idle sockets, processes and containers beside.

Each load is a workload of attribution.py (docs/benchmark.md) at several sizes. As there, the tools
run at the same time, since they are compared with one truth; on two cores they compete.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from figures import Figure, Point
from generator import MOST_SOCKETS, split
from stage import Result, run_workload
from tools import EBPF, LEDGER, NETHOGS, PROCFS, TCPDUMP
from verdict import Verdict
from workloads import WORKLOADS, Workload

TOOLS = (TCPDUMP, PROCFS, LEDGER, EBPF, NETHOGS)
SHORT = WORKLOADS["outbound-1ms-own"]
IN_CONTAINERS = Workload(
    "containers", 1000, inbound=True, wire="bridge", lifetime=0.1, endpoints="shared"
)


@dataclass(frozen=True)
class ConnectionLoad:
    """A workload by what surrounds it."""

    title: str
    sizes: str
    make: Callable[[int], Workload]


def beside_idle_sockets(size: int) -> Workload:
    return replace(SHORT, idle=tuple((part, 0) for part in split(size, MOST_SOCKETS)))


def beside_processes(size: int) -> Workload:
    return replace(SHORT, crowd=size)


def in_containers(size: int) -> Workload:
    return replace(IN_CONTAINERS, containers=size, clients=size)


LOADS = {
    "sockets": ConnectionLoad(
        "Connections under 1 ms beside idle sockets", "idle sockets", beside_idle_sockets
    ),
    "processes": ConnectionLoad(
        "Connections under 1 ms beside idle processes", "processes", beside_processes
    ),
    "containers": ConnectionLoad(
        "Connections of 100 ms from containers to their host", "containers", in_containers
    ),
}


def measure_point(
    size: int, load: ConnectionLoad, tools: Sequence[str], *, seconds: float, rounds: int
) -> Point:
    """Measure the tools at one size. Raises RUN_ERRORS."""
    results = [
        run_workload(
            load.make(size),
            seconds,
            by_flow=False,
            modes=[tool for tool in tools if tool in {PROCFS, LEDGER, EBPF}],
            nethogs=NETHOGS in tools,
            with_tcpdump=TCPDUMP in tools,
        )
        for _ in range(rounds)
    ]
    return Point(
        size,
        min(result.load.opened for result in results),
        [make_figure(tool, results) for tool in tools],
    )


def make_figure(tool: str, results: Sequence[Result]) -> Figure:
    """Return what a tool had in all rounds."""
    found = [
        (result, outcome, verdict)
        for result in results
        for outcome, verdict in result.tools
        if outcome.tool == tool
    ]
    good = [(result, outcome, verdict) for result, outcome, verdict in found if verdict]
    remarks = [outcome.error for _, outcome, _ in found if outcome.error]
    if any(outcome.unfinished for _, outcome, _ in good):
        remarks.append("killed while behind: a lower bound")
    names_owners = tool != TCPDUMP
    return Figure(
        tool,
        [1e6 * outcome.cpu_seconds / result.load.opened for result, outcome, _ in good],
        a_second=statistics.median(one.load.opened / one.load.seconds for one in results),
        right=min((share_right(one) for *_, one in good), default=None) if names_owners else None,
        dropped=max(
            (
                outcome.dropped / result.load.packets
                for result, outcome, _ in good
                if outcome.dropped is not None
            ),
            default=None,
        ),
        peak_bytes=max((outcome.peak_bytes for _, outcome, _ in good), default=0),
        remark="; ".join(dict.fromkeys(remarks)),
    )


def share_right(verdict: Verdict) -> float:
    return verdict.right / verdict.truth
