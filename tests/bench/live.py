"""Live loads of growth.py: the cost of a packet for each tool, by the number of flows.

The tools run in one of two namespaces on a wire, and one after another under the same load, so that
no tool takes the cores of another one: first as long as all flows are new, then without a pause as
long as it is measured. A tool that is still busy after the load is given time; its CPU time counts
until it is idle.

A flow is a connected socket, a port that one socket sends to, or an address that sends to one
server. Only a load that is `received` has a socket at the other end of the wire, too: source =
"ebpf" counts at each socket of the host, and so counts it twice. The run time of its programs is
measured in a run of its own, since measuring it costs time itself.

Known limits: a load of sockets, or at the highest rate, shares the cores with the tool. A flood may
lose packets on the wire before the tools see them; the interface's own counter is what counts.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from figures import Figure, Point
from generator import FIRST_PORT, IP_AND_UDP, Sender, Sent, role, sockets
from packet_cost import program_statistics, read_program_times
from stage import INTERFACE, prepare
from support.namespaces import Namespace, pair
from tools import (
    EBPF,
    LEDGER,
    NETHOGS,
    PROCFS,
    START_ERRORS,
    TCPDUMP,
    Outcome,
    Tool,
    hogpipe_tool,
    nethogs_tool,
    tcpdump_tool,
    wait_until_idle,
)
from verdict import ETHERNET_HEADER

NEAR, FAR, PORT = "10.78.0.1", "10.78.0.2", 9000
PEERS = "10.128.0.0"  # the addresses of a flood follow
NO_HARDWARE = "02:00:00:00:00:99"  # the far end drops what is sent there
PAYLOAD = 32
WARM = 3.0  # seconds until the first comparisons of attributions have passed, at most
IDLE_AFTER = 0.5  # seconds after the load until a tool may be called idle
ENOUGH_FLOWS = 1000  # fewer new ones cost less than the noise
TOOLS = (TCPDUMP, PROCFS, LEDGER, EBPF, NETHOGS)


class Flow(Enum):
    """What a flow is."""

    SOCKET = "a socket each"
    PORT = "one socket to many ports"
    PEER = "one server with many peers"


@dataclass(frozen=True)
class LiveLoad:
    """A rate in datagrams a second, 0 for as many as possible, and what a flow is."""

    rate: float
    flow: Flow
    received: bool = False
    """Whether the other end has a socket."""

    @property
    def title(self) -> str:
        pace = f"{self.rate:,.0f} packets a second" if self.rate else "as many as possible"
        ends = ", with the receiver on the same host" if self.received else ""
        return f"Live, {pace}, {self.flow.value}{ends}"


@dataclass(frozen=True)
class Run:
    """A run of a tool: its outcome, both parts of the load, and its CPU seconds for each."""

    outcome: Outcome
    parts: tuple[Sent, Sent]
    cpu: tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """The near namespace, with a sender that is ready."""

    near: Namespace
    sender: Sender
    pids: frozenset[int]
    """The processes on the near side."""
    counts_received: bool
    """Whether what passed is what the near interface received, instead of what was sent."""
    folder: Path

    def send(self, rate: float, seconds: float) -> Sent:
        """Send a part of the load, and return what passed the near interface."""
        if not self.counts_received:
            return self.sender.send(rate, seconds)
        before = read_received(self.near)
        sent = self.sender.send(rate, seconds)
        return replace(sent, packets=read_received(self.near) - before)

    @contextmanager
    def tool(self, name: str) -> Iterator[Tool]:
        """Run a tool with its files in a new folder."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            self._start(name, Path(folder)) as tool,
        ):
            yield tool

    def _start(self, name: str, folder: Path) -> AbstractContextManager[Tool]:
        if name == TCPDUMP:
            return tcpdump_tool(self.near, INTERFACE)
        if name == NETHOGS:
            return nethogs_tool(self.near, INTERFACE, folder, udp=True)
        return hogpipe_tool(
            self.near, INTERFACE, folder / "run", mode=name, group_by=["process"],
            is_of_load=lambda record: record.get("process", {}).get("pid") in self.pids,
        )  # fmt: skip


@contextmanager
def stage(program: Path, load: LiveLoad, flows: int) -> Iterator[Stage]:
    """Create the namespaces, and the sender of a load with what it needs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-bench-")))
        near, far = stack.enter_context(pair([(f"{NEAR}/8", f"{FAR}/8")]))
        prepare(near, 4)
        prepare(far, 4)
        if load.flow is Flow.PEER:
            server = stack.enter_context(role(near, program, "receive", NEAR, PORT))
            words = ("flood", "right", hardware_address(near, INTERFACE), PEERS, NEAR, PORT)
            flood = stack.enter_context(role(far, program, *words, PAYLOAD, flows))
            yield Stage(near, Sender([flood]), frozenset([server.pid]), True, folder)
            return
        hardware = NO_HARDWARE
        if load.received:
            stack.enter_context(role(far, program, "receive", FAR, PORT))
            hardware = hardware_address(far, "right")
        # Packets beyond the first hundred are lost while the kernel asks for an address.
        near.ip("neigh", "replace", FAR, "lladdr", hardware, "dev", INTERFACE)
        if load.flow is Flow.PORT:
            words = ("send", NEAR, FIRST_PORT, FAR, PORT, PAYLOAD, flows, "ports")
            sender = Sender([stack.enter_context(role(near, program, *words))])
        else:
            opened = sockets(near, program, NEAR, (FAR, PORT), PAYLOAD, flows)
            sender = stack.enter_context(opened)
        yield Stage(near, sender, sender.pids, False, folder)


def hardware_address(where: Namespace, interface: str) -> str:
    (link,) = json.loads(where.ip("-j", "link", "show", interface))
    return str(link["address"])


def read_received(where: Namespace) -> int:
    """Return the number of packets that the interface has received."""
    (link,) = json.loads(where.ip("-j", "-s", "link", "show", INTERFACE))
    return int(link["stats64"]["rx"]["packets"])


def run_tool(stage: Stage, name: str, rate: float, seconds: float) -> Run:
    """Run a tool during a load. Raises START_ERRORS."""
    with stage.tool(name) as tool:
        tool.mark()
        before = tool.cpu_seconds()
        first = stage.send(rate, min(WARM, seconds))
        between = tool.cpu_seconds()
        second = stage.send(rate, seconds)
        wait_until_idle([tool], IDLE_AFTER)
        after = tool.cpu_seconds()
        return Run(tool.finish(), (first, second), (between - before, after - between))


def measure_kernel_us(stage: Stage, rate: float, seconds: float) -> float:
    """Return the run time of hogpipe's programs in microseconds for each packet that was sent."""
    with stage.tool(EBPF) as tool, program_statistics():
        stage.send(rate, min(WARM, seconds))
        before, _ = read_program_times(tool.pid)
        sent = stage.send(rate, seconds)
        after, _ = read_program_times(tool.pid)
        tool.finish()
        return (after - before) / 1e3 / sent.packets


def measure_point(
    flows: int, program: Path, load: LiveLoad, tools: Sequence[str], *, seconds: float, rounds: int
) -> Point:
    """Measure all tools at one number of flows; the order of the tools alternates.

    Raises what `stage` does.
    """
    runs: dict[str, list[Run | str]] = {name: [] for name in tools}
    kernel_us = None
    with stage(program, load, flows) as made:
        for number in range(rounds):
            for name in tools if number % 2 == 0 else reversed(tools):
                try:
                    runs[name].append(run_tool(made, name, load.rate, seconds))
                except START_ERRORS as error:
                    runs[name].append(str(error) or repr(error))
        if EBPF in tools:
            kernel_us = measure_kernel_us(made, load.rate, seconds)
        figures = [make_figure(name, runs[name], flows, made.pids, kernel_us) for name in tools]
    done = [
        run.parts[1].packets for found in runs.values() for run in found if isinstance(run, Run)
    ]
    return Point(flows, statistics.median_low(done) if done else 0, figures)


def make_figure(
    name: str,
    found: Sequence[Run | str],
    flows: int,
    pids: frozenset[int],
    kernel_us: float | None,
) -> Figure:
    """Return what the runs of a tool have in common; each remark says what went wrong."""
    runs = [run for run in found if isinstance(run, Run)]
    remarks = [run for run in found if isinstance(run, str)]
    remarks += [run.outcome.error for run in runs if run.outcome.error]
    if any(run.outcome.unfinished for run in runs):
        remarks.append("killed while behind: a lower bound")
    good = [run for run in runs if not run.outcome.error]
    rates = [run.parts[1].packets / run.parts[1].seconds for run in good]
    return Figure(
        name,
        [1e6 * run.cpu[1] / run.parts[1].packets for run in good],
        a_second=statistics.median(rates) if rates else None,
        new_us=new_us_of(good, flows),
        kernel_us=kernel_us if name == EBPF else None,
        right=min((right_of(run, pids) for run in good), default=None) if name != TCPDUMP else None,
        dropped=max(map(dropped_of, good), default=None) if name != NETHOGS else None,
        peak_bytes=max((run.outcome.peak_bytes for run in good), default=0),
        remark="; ".join(dict.fromkeys(remarks)),
    )


def new_us_of(runs: Sequence[Run], flows: int) -> float | None:
    """Return what a flow cost in the first part, beyond the packets at the cost of the second."""
    if flows < ENOUGH_FLOWS or not runs:
        return None
    costs = []
    for run in runs:
        (first, second), (cpu_first, cpu_second) = run.parts, run.cpu
        usual = cpu_second * first.packets / second.packets
        costs.append(1e6 * (cpu_first - usual) / flows)
    return max(0.0, statistics.median(costs))


def right_of(run: Run, pids: frozenset[int]) -> float:
    """Return the share of the bytes sent that the tool gives to the sender's processes."""
    packets = sum(part.packets for part in run.parts)
    header = ETHERNET_HEADER if run.outcome.link_header else 0
    reported = sum(size for (pid, _), size in run.outcome.reported.items() if pid in pids)
    return reported / (packets * (IP_AND_UDP + PAYLOAD + header))


def dropped_of(run: Run) -> float:
    return (run.outcome.dropped or 0) / sum(part.packets for part in run.parts)
