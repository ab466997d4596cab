"""Situations by which network monitors are compared: who is named for which bytes.

    sudo .venv/bin/python tests/bench/scenarios.py [SCENARIO…] [--json FILE] [--page FILE]

In each scenario the processes of `acts` talk to a peer in another network namespace, while the
tools run side by side. nftables in the peer's namespace counts what passed (scenario_truth.py). A
tool is right about a scenario if it names each process of it, gives each one its bytes within
TOLERANCE, and gives none to others. Figures go to FILE, in place of those of the same scenario, by
default docs/data/scenarios.json; docs/scoreboard.md has the table.

Needs root, ip, nft, tcpdump and nethogs. Exits with 1 if a scenario failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from acts.common import BOX4, GROUP, LOOPBACK, NEAR4, PEER4, PEER6, UNAVAILABLE, Owners
from scenario_peer import SERVICE
from scenario_table import TOOLS, Score, Scores, refresh, score
from scenario_truth import Passed, count_at, read_counts
from stage import INTERFACE, RUN_ERRORS, stop_at_signals
from support.namespaces import Namespace, namespace, pair
from support.running import running
from tools import NETHOGS, Outcome, Tool, hogpipe_tool, nethogs_tool, wait_until_idle

HERE = Path(__file__).parent
FIGURES, PAGE = HERE.parents[1] / "docs/data/scenarios.json", HERE.parents[1] / "docs/scoreboard.md"
NETWORKS = [(f"{NEAR4}/24", f"{PEER4}/24"), ("fd00:97::1/64", f"{PEER6}/64")]
_OURS = {NEAR4, "fd00:97::1", BOX4, GROUP, LOOPBACK}
_PEERS = {PEER4, PEER6}
_HOST4 = "10.98.0.1"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Scenario:
    """A scenario: the name of its act, and what the peer does if the measured process serves."""

    act: str
    peer: Sequence[object] = ()
    interface: str = INTERFACE

    @property
    def loopback(self) -> bool:
        return self.interface == "lo"


_CLIENTS = ("clients", NEAR4, SERVICE, 60)
_SCENARIOS = (
    Scenario("tcp_long"),
    Scenario("tcp_short"),
    Scenario("tcp_burst"),
    Scenario("tcp_upload"),
    Scenario("tcp_download"),
    Scenario("tcp_v6"),
    Scenario("tcp_refused"),
    Scenario("tcp_time_wait"),
    Scenario("idle_sockets"),
    Scenario("killed"),
    Scenario("sendfile"),
    Scenario("splice"),
    Scenario("short_processes"),
    Scenario("forked_sender"),
    Scenario("executed_sender"),
    Scenario("passed_descriptor"),
    Scenario("deleted_executable"),
    Scenario("renamed_process"),
    Scenario("threads"),
    Scenario("udp_connected"),
    Scenario("udp_unconnected"),
    Scenario("udp_v6"),
    Scenario("udp_short"),
    Scenario("udp_tiny"),
    Scenario("udp_fragments"),
    Scenario("udplite"),
    Scenario("mptcp"),
    Scenario("ping"),
    Scenario("raw"),
    Scenario("packet_socket"),
    Scenario("multicast_sender"),
    Scenario("multicast_receiver", ("group", GROUP, SERVICE, 60)),
    Scenario("server", _CLIENTS),
    Scenario("prefork_server", _CLIENTS),
    Scenario("reuseport_server", _CLIENTS),
    Scenario("fork_server", _CLIENTS),
    Scenario("io_uring_server", _CLIENTS),
    Scenario("udp_server", ("datagrams", NEAR4, SERVICE, 100)),
    Scenario("loopback", interface="lo"),
    Scenario("container", interface="box"),
)
SCENARIOS = {one.act: one for one in _SCENARIOS}


class NotAvailableError(Exception):
    """The kernel does not have what a scenario needs."""


@contextmanager
def container_of(host: Namespace, peer: Namespace) -> Iterator[Namespace]:
    """Create a container behind a veth, whose packets the host forwards to the peer."""
    with namespace() as made:
        ends = ("peer", "name", "eth0", "netns", made.name)
        host.ip("link", "add", "box", "type", "veth", *ends)
        host.ip("address", "add", f"{_HOST4}/24", "dev", "box")
        host.ip("link", "set", "box", "up")
        made.ip("address", "add", f"{BOX4}/24", "dev", "eth0")
        made.ip("link", "set", "eth0", "up")
        made.ip("route", "add", "default", "via", _HOST4)
        peer.ip("route", "add", "10.98.0.0/24", "via", NEAR4)
        host.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        made.ip("link", "set", "eth0", "gso_max_segs", "1")
        yield made


def is_of_scenario(record: dict[str, Any]) -> bool:
    """Return whether a record is of a process on the measured side: `ebpf` counts all sockets."""
    network = record["network"]
    local, peer = (network.get(end, {}).get("address") for end in ("local", "peer"))
    return local not in _PEERS and not _OURS.isdisjoint((local, peer))


@contextmanager
def running_tools(
    names: Sequence[str], where: Namespace, interface: str, folder: Path
) -> Iterator[list[Tool]]:
    """Run tools on an interface."""
    with ExitStack() as stack:
        tools = [
            stack.enter_context(
                hogpipe_tool(
                    where, interface, folder / mode.replace(", ", "-"), mode=mode,
                    group_by=["process", "flow"], is_of_load=is_of_scenario,
                )
            )
            for mode in names
            if mode != NETHOGS
        ]  # fmt: skip
        if NETHOGS in names:
            tools.append(stack.enter_context(nethogs_tool(where, interface, folder, udp=True)))
        yield tools


def act(scenario: Scenario, where: Namespace, peer: Namespace) -> Owners:
    """Let the processes of a scenario act; return who they are. Raises NotAvailableError."""
    words = (sys.executable, HERE / "acts", scenario.act)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(where, *words, **pipes) as run:
        if scenario.peer:
            run.wait_for("ready")
            command = peer.command(
                sys.executable, HERE / "scenario_peer.py", *map(str, scenario.peer)
            )
            subprocess.run(command, check=True, timeout=_PATIENCE)
        assert run.process.stdin is not None
        assert run.process.stdout is not None
        run.process.stdin.close()
        output = run.process.stdout.read()
        code = run.wait()
        if code == UNAVAILABLE:
            raise NotAvailableError(scenario.act)
        if code:
            raise ValueError(f"{scenario.act} ended with {code}: {''.join(run.errors[-4:])}")
        return [(pid, protocol, ports) for pid, protocol, ports in json.loads(output)]


def run_scenario(scenario: Scenario, names: Sequence[str] = TOOLS) -> Scores:
    """Run a scenario with these tools. Raises RUN_ERRORS, or NotAvailableError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hogpipe-bench-")))
        near, far = stack.enter_context(pair(NETWORKS))
        # No packet is segmented behind the counters: what they count is what passes the wire.
        near.ip("link", "set", INTERFACE, "gso_max_segs", "1")
        far.ip("link", "set", "right", "gso_max_segs", "1")
        where = near
        if scenario.interface == "box":
            where = stack.enter_context(container_of(near, far))
        near.ip("route", "add", "239.0.0.0/8", "dev", INTERFACE)
        far.ip("route", "add", "239.0.0.0/8", "dev", "right")
        words = (sys.executable, HERE / "scenario_peer.py", "echo", PEER4, PEER6)
        peer = stack.enter_context(running(far, *words, stdin=subprocess.PIPE))
        peer.wait_for("ready")
        counted = near if scenario.loopback else far
        count_at(counted, loopback=scenario.loopback)
        tools = stack.enter_context(running_tools(names, near, scenario.interface, folder))
        owners = act(scenario, where, far)
        wait_until_idle(tools)
        passed = read_counts(counted)
        outcomes = [tool.finish() for tool in tools]
    return {
        one.tool: score_of(one, owners, passed, both_ends=scenario.loopback) for one in outcomes
    }


def score_of(outcome: Outcome, owners: Owners, passed: Passed, *, both_ends: bool) -> Score:
    """Compare what a tool reported with what passed."""
    if outcome.error:
        return {"error": outcome.error}
    reported: Counter[int | None] = Counter()
    for (pid, _part), size in outcome.reported.items():
        reported[pid] += size
    return score(reported, owners, passed, both_ends=both_ends, link_header=outcome.link_header)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if anything failed, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(SCENARIOS)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {names}; all else")
    parser.add_argument("--json", type=Path, default=FIGURES, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are: {names}")
    if os.geteuid() != 0:
        print("scenarios.py: captures and namespaces need root; use sudo", file=sys.stderr)
        return 1
    stop_at_signals()
    figures = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    code = 0
    try:
        for name in chosen.scenarios or SCENARIOS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                figures[name] = run_scenario(SCENARIOS[name])
            except NotAvailableError:
                figures[name] = {}
            except RUN_ERRORS as error:
                print(f"{name}: failed: {error or repr(error)}", file=sys.stderr)
                code = 1
    except KeyboardInterrupt:
        code = 130
    ordered = {name: figures[name] for name in SCENARIOS if name in figures}
    chosen.json.write_text(json.dumps(ordered, indent=1) + "\n")
    if chosen.page.exists():
        chosen.page.write_text(refresh(chosen.page.read_text(), ordered))
    return code


if __name__ == "__main__":
    sys.exit(main())
