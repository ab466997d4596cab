"""An hour compressed: processes, flows, interfaces and containers come and go, and memory is flat.

Each round has as many of them as the others. The first rounds fill what is bounded: flows, sockets
of the ledger, processes. What later rounds add is a leak.
"""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import churn
from support.namespaces import Namespace, namespace, require
from support.running import hogpipe, inhabitant, read_records, running, stats_of, write_config

FIRST_ROUNDS, ROUNDS = 4, 9
PROCESSES = 1000  # of a round: starts of 8192 are cached
INTERFACES, CONTAINERS = 8, 2
GROWTH_MIB = 12
PROGRAM = [sys.executable, churn.__file__]
WAYS = {
    "off": '[attribution]\nledger = "off"',
    "ledger": "",
    "ebpf": '[capture]\nsource = "ebpf"',
}


def read_usage(pid: int) -> tuple[float, int, int]:
    """Return resident MiB, descriptors and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    resident = int(status["VmRSS"].split()[0]) / 1024
    return resident, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"])


def change_interfaces(host: Namespace, number: int) -> None:
    """Add interfaces with an address of their own, and containers, and remove them."""
    for one in range(number, number + INTERFACES):
        name, address = f"churn{one}", f"10.{1 + one // 250}.{one % 250}.1/24"
        host.batch(
            f"link add {name} type veth peer name other{one}",
            f"addr add {address} dev {name}",
            f"link set {name} up",
            f"link set other{one} up",
        )
        host.ip("link", "delete", name)
    for one in range(CONTAINERS):
        with namespace() as container, inhabitant(container):
            host.ip(
                "link", "add", f"in{one}", "type", "veth", "peer", "name", "out",
                "netns", container.name,
            )  # fmt: skip
            host.ip("link", "set", f"in{one}", "up")


@pytest.mark.parametrize("way", WAYS)
def test_memory_descriptors_and_threads_are_flat_while_everything_changes(
    veth: tuple[Namespace, Namespace], tmp_path: Path, way: str
) -> None:
    require("ip")
    path = tmp_path / "records.jsonl"
    config = write_config(
        tmp_path, f'{WAYS[way]}\n[[sinks]]\ntype = "jsonl"\npath = "records.jsonl"'
    )
    usages = []
    with ExitStack() as stack:
        server = stack.enter_context(
            running(veth[1], *PROGRAM, "receive", "10.77.0.2", stdout=subprocess.PIPE)
        )
        assert server.process.stdout is not None
        port = server.process.stdout.readline().strip()
        run = stack.enter_context(hogpipe(veth[0], "-v", "run", config))
        run.wait_for("owners come from")
        for number in range(ROUNDS):
            words = [*PROGRAM, "send", "10.77.0.2", port, str(PROCESSES)]
            with running(veth[0], *words) as sender:
                change_interfaces(veth[0], number * INTERFACES)
                assert sender.process.wait(300) == 0
            usages.append(read_usage(run.process.pid))
        assert run.end() == 0, run.errors
    resident, descriptors, threads = zip(*usages, strict=True)
    first, last = slice(0, FIRST_ROUNDS), slice(ROUNDS - FIRST_ROUNDS, ROUNDS)
    print(way, [round(one) for one in resident], descriptors, threads)
    assert max(resident[last]) <= max(resident[first]) + GROWTH_MIB, resident
    assert max(descriptors[last]) <= max(descriptors[first]) + 4, descriptors
    assert max(threads[last]) <= max(threads[first]), threads
    stats = stats_of(read_records(path))
    captured = sum(one["capture"]["packets"] for one in stats)
    assert captured >= ROUNDS * PROCESSES * churn.FLOWS
