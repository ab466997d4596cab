"""The faults of a soak: each is caused, lasts for a moment, and is undone.

In: a running site, and the source of chance. A fault returns once it is undone.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import soak_load
from support.namespaces import Namespace
from support.running import Running

LOAD = Path(soak_load.__file__)
RIGHT = "10.77.0.2"


class Site(Protocol):
    """What faults happen to."""

    left: Namespace
    right: Namespace
    folder: Path
    run: Running
    collector: Running

    def restart(self, number: signal.Signals, code: int) -> None:
        """End hogpipe by a signal, which has to be its exit code `code`, and start it again."""


def suspend(site: Site, chance: random.Random) -> None:
    _suspend(site.run, chance.uniform(0.5, 4))


def collector_stalls(site: Site, chance: random.Random) -> None:
    _suspend(site.collector, chance.uniform(0.5, 6))


def interface_down(site: Site, chance: random.Random) -> None:
    site.left.ip("link", "set", "left", "down")
    time.sleep(chance.uniform(0, 1))
    site.left.ip("link", "set", "left", "up")


def interface_renamed(site: Site, chance: random.Random) -> None:
    site.left.ip("link", "set", "left", "name", "renamed")
    time.sleep(chance.uniform(0, 2))
    site.left.ip("link", "set", "renamed", "name", "left")


def interface_added(site: Site, chance: random.Random) -> None:
    far = ("peer", "name", "late-far", "netns", site.right.name)
    site.left.ip("link", "add", "late", "type", "veth", *far)
    site.left.batch("address add 10.80.0.1/24 dev late", "link set late up")
    site.right.batch("address add 10.80.0.2/24 dev late-far", "link set late-far up")
    time.sleep(chance.uniform(0, 2))
    site.left.ip("link", "delete", "late")


def address_changed(site: Site, chance: random.Random) -> None:
    site.left.ip("address", "add", "10.77.0.9/24", "dev", "left")
    time.sleep(chance.uniform(0, 2))
    site.left.ip("address", "delete", "10.77.0.9/24", "dev", "left")


def descriptors_short(site: Site, chance: random.Random) -> None:
    pid = site.run.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    time.sleep(chance.uniform(0.5, 3))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def proc_hidden(site: Site, chance: random.Random) -> None:
    folder = site.folder / "proc"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    time.sleep(chance.uniform(0.5, 3))
    subprocess.run(["umount", "--lazy", folder], check=True)


def disk_full(site: Site, chance: random.Random) -> None:
    filling = site.folder / "disk" / "filling"
    with suppress(OSError):
        filling.write_bytes(bytes(1 << 27))
    time.sleep(chance.uniform(0.5, 3))
    filling.unlink()


def plugin_stalls(site: Site, chance: random.Random) -> None:
    with _requested(site, chance.choice(["block-write", "block-task"])):
        time.sleep(chance.uniform(0.5, 3))


def plugin_fails(site: Site, chance: random.Random) -> None:
    with _requested(site, "fail"):
        time.sleep(chance.uniform(1, 4))


def thread_ended(site: Site, chance: random.Random) -> None:
    name = chance.choice(["lookup", "ledger", "processes", "refresh", "watch"])
    request = site.folder / f"end-{name}"
    request.touch()
    _wait_for(lambda: not request.exists())


def reload(site: Site, _chance: random.Random) -> None:
    site.run.process.send_signal(signal.SIGHUP)


def flood(site: Site, chance: random.Random) -> None:
    flows = chance.randrange(2_000, 20_000)
    words = (sys.executable, LOAD, "burst", RIGHT, str(flows))
    subprocess.run(site.left.enter(*words), check=True)


def many_processes(site: Site, _chance: random.Random) -> None:
    words = site.left.enter(sys.executable, LOAD, "processes", RIGHT, "200")
    with subprocess.Popen(words) as load:
        time.sleep(2)
        load.kill()


def stopped_and_started(site: Site, _chance: random.Random) -> None:
    site.restart(signal.SIGTERM, 0)


def killed_and_started(site: Site, _chance: random.Random) -> None:
    site.restart(signal.SIGKILL, -signal.SIGKILL)


Fault = Callable[[Site, random.Random], None]
COMMON: tuple[Fault, ...] = (
    suspend,
    collector_stalls,
    interface_down,
    interface_renamed,
    interface_added,
    address_changed,
    descriptors_short,
    proc_hidden,
    disk_full,
    plugin_stalls,
    plugin_fails,
    thread_ended,
    reload,
    flood,
    many_processes,
)
RESTARTS: tuple[Fault, ...] = (stopped_and_started, killed_and_started)
"""Rare, because memory only shows its growth in a process that lasts."""


def choose(chance: random.Random) -> Fault:
    """Return the next fault."""
    return chance.choice(RESTARTS if chance.random() < 0.03 else COMMON)


def _suspend(run: Running, seconds: float) -> None:
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    run.process.send_signal(signal.SIGCONT)


@contextmanager
def _requested(site: Site, name: str) -> Iterator[None]:
    request = site.folder / name
    request.touch()
    try:
        yield
    finally:
        request.unlink()


def _wait_for(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 120
    while not condition():
        if time.monotonic() > patience:
            raise TimeoutError("a fault has no effect")
        time.sleep(0.05)


def read_status(pid: int) -> tuple[float, int, int]:
    """Return the resident MiB, the descriptors and the threads of a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    mib = int(fields["VmRSS"].split()[0]) / 1024
    return mib, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])  # noqa: PTH208
