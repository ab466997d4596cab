"""`hogpipe run` where BPF programs cannot be attached: it names the remedy, or uses /proc instead.

Each obstacle is a real one, made for one run. Whatever it is, no program stays attached.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.bpf import compile_changed, nothing_stays_attached, require_bpf
from support.namespaces import Namespace, require
from support.running import running, wait_until, write_config

import hogpipe.linux.bpf
from hogpipe.linux.bpf.libbpf import load_library

CONFIG = """
{wanted}
[aggregation]
interval = 0.2
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
# hogpipe with the object at another path, and a ring buffer of another size.
PATCHED = """
import sys, hogpipe.linux.bpf.programs as programs, hogpipe.cli
from pathlib import Path
programs.object_path = lambda: {path}
programs.attach_ledger_programs.__kwdefaults__["ring_bytes"] = {ring_bytes}
sys.argv[0] = "hogpipe"
hogpipe.cli.main()
"""
MEMORY = Path("/sys/fs/cgroup/memory")
LITTLE_MEMORY = 150 << 20
MOST_FLOWS = 1 << 20
EBPF = f'[capture]\nsource = "ebpf"\nmax_flows = {MOST_FLOWS}'
LEDGER = '[capture]\ninterfaces = ["lo"]\n[attribution]\nledger = "{}"'

Obstacle = Callable[[Path], AbstractContextManager[list[str]]]
"""A context with the obstacle; gives the command that runs hogpipe. The folder is for its files."""


def hogpipe_command(path: str = 'Path("{}")', ring_bytes: int = 1 << 22) -> list[str]:
    found = path.format(hogpipe.linux.bpf.object_path())
    return [sys.executable, "-c", PATCHED.format(path=found, ring_bytes=ring_bytes)]


def after(preparation: str) -> list[str]:
    """Return a prefix that runs a shell command, then the command, in a mount namespace."""
    return ["unshare", "--mount", "sh", "-ec", f'{preparation}; exec "$@"', "sh"]


@contextmanager
def no_object(_: Path) -> Iterator[list[str]]:
    yield hogpipe_command('Path("/nowhere/hogpipe.bpf.o")')


@contextmanager
def a_damaged_object(_: Path) -> Iterator[list[str]]:
    yield hogpipe_command('Path("/etc/hostname")')


@contextmanager
def no_capability(_: Path) -> Iterator[list[str]]:
    yield ["setpriv", "--bounding-set=-sys_admin,-bpf", *hogpipe_command()]


@contextmanager
def no_libbpf(_: Path) -> Iterator[list[str]]:
    yield [*after(f"mount --bind /dev/null {find_mapped('/libbpf.so')}"), *hogpipe_command()]


@contextmanager
def an_old_libbpf(_: Path) -> Iterator[list[str]]:
    """A library of that name that has none of the functions."""
    other = find_mapped("/libm.so")
    yield [*after(f"mount --bind {other} {find_mapped('/libbpf.so')}"), *hogpipe_command()]


def find_mapped(name: str) -> str:
    """Return the path of a library that this process has loaded."""
    load_library()
    maps = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    (library,) = {mapped for mapped in maps if name in mapped}
    return library


@contextmanager
def no_control_groups(_: Path) -> Iterator[list[str]]:
    """None is visible, and none may be mounted."""
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    yield [*after("umount --all --types cgroup2"), *drop, *hogpipe_command()]


@contextmanager
def an_object_of_another_version(folder: Path) -> Iterator[list[str]]:
    compiled = compile_changed(folder, r"(struct traffic_row \{)", r"\1 __u64 added;")
    yield hogpipe_command(f'Path("{compiled}")')


@contextmanager
def an_old_kernel(folder: Path) -> Iterator[list[str]]:
    """A kernel without a helper that the programs call."""
    compiled = compile_changed(folder, "BPF_FUNC_get_current_uid_gid", "9999")
    yield hogpipe_command(f'Path("{compiled}")')


@contextmanager
def little_memory(_: Path) -> Iterator[list[str]]:
    group = MEMORY / f"hogpipe-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LITTLE_MEMORY))
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        yield ["sh", "-ec", enter, "sh", *hogpipe_command(ring_bytes=1 << 30)]
    finally:
        group.rmdir()


OBSTACLES = {
    no_object: (78, "eBPF: /nowhere/hogpipe.bpf.o cannot be read .*; reinstall hogpipe"),
    a_damaged_object: (78, "eBPF: /etc/hostname cannot be opened .*; reinstall hogpipe"),
    an_object_of_another_version: (
        78,
        "eBPF: .* values of map connections have 144 bytes, expected 136; reinstall hogpipe",
    ),
    no_capability: (77, "eBPF: not permitted to load programs; grant CAP_BPF"),
    no_libbpf: (78, r"eBPF: libbpf\.so\.1 cannot be loaded; install it: .*libbpf1"),
    an_old_libbpf: (78, r"eBPF: this libbpf\.so\.1 is too old \(.*\); install version 1\.0 or "),
    no_control_groups: (78, "eBPF: no control group tree .* grant CAP_SYS_ADMIN, or mount one"),
    an_old_kernel: (78, "eBPF: this kernel refuses the programs .*; Linux 5.15 is needed"),
    little_memory: (78, "eBPF: the kernel has no room for the maps .*; raise the memory limit"),
}


def configure(folder: Path, wanted: str) -> Path:
    return write_config(folder, CONFIG.format(wanted=wanted))


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("wanted", [EBPF, LEDGER.format("on")], ids=["ebpf", "ledger"])
def test_a_run_that_requires_bpf_ends_with_the_remedy(
    netns: Namespace, tmp_path: Path, obstacle: Obstacle, wanted: str
) -> None:
    require_bpf()
    require("setpriv", "unshare")
    code, text = OBSTACLES[obstacle]
    with obstacle(tmp_path) as words, nothing_stays_attached():
        with running(None, *netns.enter(*words, "run", configure(tmp_path, wanted))) as run:
            assert run.wait() == code, run.errors
        (line,) = run.errors
        assert re.match(f"hogpipe: {text}", line), line
        assert not (tmp_path / "records.jsonl").read_text()


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda one: one.__name__)
def test_a_run_that_does_not_require_bpf_uses_proc_and_logs_the_reason(
    netns: Namespace, tmp_path: Path, obstacle: Obstacle
) -> None:
    require_bpf()
    require("setpriv", "unshare")
    _, text = OBSTACLES[obstacle]
    with obstacle(tmp_path) as words, nothing_stays_attached():
        auto = configure(tmp_path, LEDGER.format("auto"))
        with running(None, *netns.enter(*words, "-v", "run", auto)) as run:
            run.wait_for(rf"owners come from /proc alone; .* \(no ledger: {text}")
            wait_until(lambda: bool((tmp_path / "records.jsonl").read_text()))
            assert run.end() == 0, run.errors


def test_maps_that_find_no_memory_can_be_made_smaller(netns: Namespace, tmp_path: Path) -> None:
    require_bpf()
    with little_memory(tmp_path) as words:
        ebpf = netns.enter(*words, "-v", "run", configure(tmp_path, EBPF))
        with running(None, *ebpf) as run:
            run.wait_for(rf"or lower capture.max_flows \({MOST_FLOWS}\)")
        with running(None, *ebpf, "--set", "capture.max_flows=1024") as run:
            run.wait_for("owners come from")
            assert run.end() == 0, run.errors


def test_the_verifiers_log_is_logged_at_level_debug(netns: Namespace, tmp_path: Path) -> None:
    require_bpf()
    with an_old_kernel(tmp_path) as words:
        ebpf = netns.enter(*words, "-vv", "run", configure(tmp_path, EBPF))
        with running(None, *ebpf) as run:
            assert run.wait() == 78
        assert re.search("invalid func unknown#9999", "".join(run.errors))
