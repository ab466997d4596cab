"""Faults that a run withstands: it goes on, and each packet is recorded or counted as dropped.

All of them hit the same run, one after the other.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import odd_plugin
from support.disks import tiny_disk
from support.fault_site import Recorded, Site, configure, site
from support.namespaces import namespace, pair, require
from support.running import hogpipe, wait_until

ADDRESSES = [("10.77.0.1/24", "10.77.0.2/24")]
FLOOD = 60_000
"""Packets: a ring of 2 MiB has room for less than a third of them."""
USE_A_SOCKET = "import _socket; _socket.socket(2, 2).connect(('127.0.0.1', 9))"

SINKS = """
[[sinks]]
type = "odd"
[[sinks]]
type = "jsonl"
name = "small"
path = "disk/records.jsonl"
queue_windows = 1000
retry_initial = 0.05
retry_max = 0.1
[plugins]
paths = ["odd.py"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def lasting(folder: Path) -> Iterator[Site]:
    """A run with two sinks, of which one misbehaves on request; it ends in order."""
    require("ip", "mount", "umount")
    shutil.copy(odd_plugin.__file__, folder / "odd.py")
    with (
        pair(ADDRESSES) as veth,
        mounted("proc", folder / "proc"),
        tiny_disk(folder / "disk", kib=512),
    ):
        for where in veth:
            where.call(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
        config = configure(
            folder,
            capture='interfaces = ["left"]\nfilter = "udp port 9009"\nbuffer_mib = 2',
            attribution=f'procfs = "{folder}/proc"\nhold = 0.5',
            more=SINKS,
        )
        with site(veth, config, folder / "records.jsonl") as made:
            made.deliver()
            yield made
            made.deliver()
            made.end()
            names = ("rotated.jsonl", "records.jsonl")
            small = [
                one for name in names for one in Recorded(folder / "disk" / name).read_records()
            ]
            assert small == made.read_records()


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[None]:
    """Mount a file system of this kind at `folder` until the context ends."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, kind, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def bound(source: Path, folder: Path) -> Iterator[Path]:
    """Let `folder` show `source`, in the way that `source` may be used, until the context ends."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", source, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def requested(path: Path) -> Iterator[None]:
    """Let there be a file until the context ends."""
    path.touch()
    try:
        yield
    finally:
        path.unlink()


def test_what_the_kernel_drops_while_the_run_is_suspended_is_counted(lasting: Site) -> None:
    before = lasting.count_all() - lasting.count_owned()
    lasting.run.process.send_signal(signal.SIGSTOP)
    try:
        lasting.send(FLOOD)
    finally:
        lasting.run.process.send_signal(signal.SIGCONT)
    lasting.settle()
    assert lasting.count_all() - lasting.count_owned() > before
    lasting.deliver()


@pytest.mark.parametrize(
    ("request_name", "line"),
    [
        ("block-write", r"sink odd: blocks the event loop \(odd.py, line \d+\)"),
        ("block-task", r"a plugin blocks the event loop \(odd.py, line \d+\)"),
    ],
)
def test_a_plugin_that_stalls_the_event_loop_is_named_and_costs_no_packet(
    lasting: Site, folder: Path, request_name: str, line: str
) -> None:
    with requested(folder / request_name):
        lasting.send()
        lasting.run.wait_for(line)
        lasting.send()
    lasting.settle()
    lasting.deliver()


def test_a_sink_that_fails_again_and_again_costs_the_others_nothing(
    lasting: Site, folder: Path
) -> None:
    with requested(folder / "fail"):
        for _ in range(4):
            lasting.deliver()
        lasting.run.wait_for("sink odd: ")


@pytest.mark.parametrize("way", ["exit-task", "exit-callback"])
def test_a_task_or_callback_of_a_plugin_that_exits_does_not_end_the_run(
    lasting: Site, folder: Path, way: str
) -> None:
    (folder / way).touch()
    lasting.run.wait_for("a task or callback of a plugin raised SystemExit: 3")
    lasting.deliver()


@pytest.mark.parametrize("name", ["lookup", "ledger", "processes", "refresh", "watch", "jsonl"])
def test_a_thread_that_is_ended_is_started_again(lasting: Site, folder: Path, name: str) -> None:
    request = folder / f"end-{name}"
    request.touch()
    wait_until(lambda: not request.exists())
    lasting.send()
    subprocess.run([sys.executable, "-S", "-c", USE_A_SOCKET], check=True)
    lasting.run.wait_for(f"the thread {name} (goes on|failed and is started again).* SystemExit")
    lasting.settle()
    lasting.deliver()


def test_a_full_disk_costs_no_record(lasting: Site, folder: Path) -> None:
    filling = folder / "disk" / "filling"
    with suppress(OSError):
        filling.write_bytes(bytes(1 << 20))
    lasting.deliver()
    lasting.run.wait_for("sink small: fails, and is retried: .*No space left on device")
    lasting.deliver()
    filling.unlink()
    lasting.run.wait_for("sink small: works again")
    lasting.deliver()


def test_a_disk_that_becomes_read_only_costs_no_record(lasting: Site, folder: Path) -> None:
    """A file that is open stays writable: the sink needs a new one, as after a rotation."""
    disk = folder / "disk"
    with bound(disk, folder / "behind") as behind, bound(disk, folder / "read-only") as read_only:
        subprocess.run(["mount", "-o", "remount,bind,ro", read_only], check=True)
        with bound(read_only, disk):
            (behind / "records.jsonl").rename(behind / "rotated.jsonl")
            lasting.run.wait_for("sink small: fails, and is retried: .*Read-only file system")
            lasting.deliver()
    lasting.run.wait_for("sink small: works again")
    lasting.deliver()


def test_without_descriptors_the_run_goes_on_and_owners_are_found_again_later(
    lasting: Site,
) -> None:
    pid = lasting.run.process.pid
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(used, 3), limits[1]))
    try:
        lasting.run.process.send_signal(signal.SIGHUP)
        for _ in range(3):
            lasting.send()
            lasting.settle()
        lasting.run.wait_for("Too many open files")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    lasting.deliver()


def test_a_proc_that_cannot_be_read_for_a_while_costs_owners_and_no_packet(
    lasting: Site, folder: Path
) -> None:
    with mounted("tmpfs", folder / "proc"):
        lasting.send()
        lasting.settle()
    lasting.deliver()


def test_an_interface_that_goes_down_and_comes_up_again_is_captured_on(lasting: Site) -> None:
    lasting.left.ip("link", "set", "left", "down")
    lasting.run.wait_for("left: the interface is down, gone or no longer selected")
    lasting.left.ip("link", "set", "left", "up")
    lasting.run.wait_for("capturing on left")
    # Until the carrier is noticed, the interface drops what is transmitted, before any capture.
    wait_until(lambda: '"UP"' in lasting.left.ip("-j", "link", "show", "left"))
    lasting.deliver()


def test_a_namespace_with_a_captured_end_may_be_removed(lasting: Site) -> None:
    with namespace() as container:
        lasting.left.ip(*f"link add gone type veth peer name far netns {container.name}".split())
        lasting.left.ip("link", "set", "gone", "up")
        lasting.send()
    lasting.settle()
    lasting.deliver()


def test_the_name_of_its_own_namespace_may_be_removed(lasting: Site) -> None:
    """What is mounted at /run/netns is a name only; the namespace lives as long as the run."""
    sender = lasting.open_socket()
    subprocess.run(["umount", f"/run/netns/{lasting.left.name}"], check=True)
    try:
        lasting.deliver(sender=sender)
    finally:
        pid = lasting.run.process.pid
        words = ["mount", "--bind", f"/proc/{pid}/ns/net", f"/run/netns/{lasting.left.name}"]
        subprocess.run(words, check=True)
    lasting.deliver()


def test_another_hogpipe_beside_it_counts_the_same_and_may_not_have_the_same_file(
    lasting: Site, folder: Path, tmp_path: Path
) -> None:
    with hogpipe(lasting.left, "run", folder / "config.toml") as second:
        assert second.wait() == 78
    assert "in use" in "".join(second.errors) or "another" in "".join(second.errors)
    beside = configure(tmp_path)
    before = lasting.sent
    with hogpipe(lasting.left, "-v", "run", beside) as second:
        second.wait_for("capturing on left")
        lasting.deliver()
        assert second.end() == 0
    other = Recorded(tmp_path / "records.jsonl")
    assert other.count_all() == lasting.sent - before
