"""With the right to capture alone, records still carry the user, and say what was not permitted.

Nor does a /proc that hides processes, or is of another namespace, stop the run or name the wrong.
"""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, require
from support.running import (
    Running,
    balance,
    read_records,
    running,
    stats_of,
    traffic_of,
    wait_until,
)

from hogpipe.linux.procfs import Procfs

DAEMON, NO_OWNER = 1, 65534
PORT = 8080
ONLY_NET_RAW = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")
CONFIG = """
[capture]
interfaces = ["lo"]
[attribution]
hold = 0.3
[aggregation]
interval = 0.3
[[sinks]]
type = "stdout"
format = "jsonl"
"""

# The user nobody may not be able to read the interpreter, so the process changes its user once all
# is loaded. A process that did is not dumpable, which would hide it from others of the same user.
BECOME = """
import ctypes, os, sys
def become(user, keep=0):
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([]); os.setgid(user); os.setuid(user)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2), version 3
    assert libc.capset(header, (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0)) == 0
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
"""
HOGPIPE_AS_NOBODY = f"""
{BECOME}
import encodings.ascii, encodings.idna, encodings.utf_8_sig, hogpipe.cli, hogpipe.config
import hogpipe.linux.service_manager, hogpipe.pipeline
become({NO_OWNER}, keep=1 << 13)  # CAP_NET_RAW
sys.argv = ["hogpipe", *sys.argv[1:]]
hogpipe.cli.main()
"""
EXCHANGE = f"""
{BECOME}
import socket, encodings.idna
become(int(sys.argv[1]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
client = socket.create_connection(listener.getsockname())
accepted, _peer = listener.accept()
client.sendall(bytes(50_000))
accepted.recv(50_000, socket.MSG_WAITALL)
print("done", os.getpid(), file=sys.stderr, flush=True)
sys.stdin.read()
"""
# Serves whoever connects, on all addresses, until its input ends.
SERVE = """
import selectors, socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
print("ready", file=sys.stderr, flush=True)
kept = []
while sys.stdin not in [key.fileobj for key, _events in selector.select()]:
    kept.append(listener.accept()[0])
    kept[-1].sendall(bytes(50_000))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may look into, with a configuration."""
    require("setpriv", "unshare")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "config.toml").write_text(CONFIG)
        yield path


@contextmanager
def load(where: Namespace, user: int, port: int = 0) -> Iterator[int]:
    """Let a process of `user` talk to itself; give its pid, and keep its sockets open."""
    words = (sys.executable, "-c", EXCHANGE, str(user), str(port))
    with running(where, *words, stdin=subprocess.PIPE) as run:
        run.wait_for("done")
        yield run.process.pid


class Recording:
    """A run of hogpipe, and its records."""

    def __init__(self, path: Path, run: Running) -> None:
        self.path = path
        self.run = run

    def wait_for(self, *words: str) -> None:
        """Wait until records contain all of these."""
        wait_until(lambda: all(f'"{word}"' in self.path.read_text() for word in words))

    def end(self) -> list[dict[str, Any]]:
        """Return all records, once the run has ended as it should."""
        assert self.run.end() == 0, self.run.errors
        return read_records(self.path)


@contextmanager
def recording(where: Namespace, folder: Path, *words: str | Path) -> Iterator[Recording]:
    """Run hogpipe by these words, until the context ends or `end` is called."""
    path = folder / "records.jsonl"
    command = [*words, "-v", "run", folder / "config.toml"]
    with path.open("wb") as output, running(where, *command, stdout=output) as run:
        run.wait_for("capturing on lo")
        yield Recording(path, run)


def processes_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the process of each traffic record that has one."""
    return [record["process"] for record in traffic_of(records) if "process" in record]


def not_permitted(records: Sequence[dict[str, Any]]) -> int:
    return sum(record["attribution"]["not_permitted"] for record in stats_of(records))


def test_records_name_the_user_where_the_process_may_not_be_seen(
    netns: Namespace, folder: Path
) -> None:
    words = (*ONLY_NET_RAW, sys.executable, "-m", "hogpipe")
    with recording(netns, folder, *words) as run:
        with load(netns, NO_OWNER):
            run.wait_for("nobody")
        records = run.end()
    assert processes_of(records)
    for process in processes_of(records):
        assert process == {"user": {"id": NO_OWNER}, "owner": "nobody"}
    assert {name for record in traffic_of(records) for name in record["attribution"]} == {"none"}
    assert not_permitted(records) > 0


def test_without_the_right_to_load_programs_owners_come_from_proc_and_one_line_says_why(
    netns: Namespace, folder: Path
) -> None:
    words = (*ONLY_NET_RAW, sys.executable, "-m", "hogpipe")
    with recording(netns, folder, *words) as run:
        with load(netns, NO_OWNER):
            run.wait_for("nobody")
        records = run.end()
        (line,) = [line for line in run.run.errors if "ledger" in line]
    assert line.startswith("hogpipe: owners come from /proc alone; ")
    assert " (no ledger: eBPF: " in line
    assert all("ledger" not in record["attribution"] for record in stats_of(records))


def test_a_ledger_that_is_demanded_without_the_right_to_load_it_ends_the_run(
    netns: Namespace, folder: Path
) -> None:
    require_bpf()
    hogpipe = (sys.executable, "-m", "hogpipe", "run", folder / "config.toml")
    words = (*ONLY_NET_RAW, *hogpipe, "--set", "attribution.ledger=on")
    with running(None, *netns.enter(*words)) as run:
        assert run.wait() == 77
    (line,) = run.errors
    assert line.startswith("hogpipe: eBPF: not permitted to load programs; grant CAP_BPF, ")


def hiding(how: str) -> tuple[str, ...]:
    """Return the words that give a command a /proc that hides the processes of others."""
    mount = f'mount -t proc -o hidepid={how} proc /proc && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "sh")


@pytest.mark.parametrize(("how", "counted"), [("noaccess", True), ("invisible", False)])
def test_a_proc_that_hides_others_leaves_their_users_and_ones_own_processes(
    netns: Namespace, folder: Path, how: str, counted: bool
) -> None:
    words = (*hiding(how), sys.executable, "-c", HOGPIPE_AS_NOBODY)
    with recording(netns, folder, *words) as run:
        with load(netns, DAEMON), load(netns, NO_OWNER) as own:
            run.wait_for("daemon", "nobody")
        records = run.end()
    theirs = {"user": {"id": DAEMON}, "owner": "daemon"}
    assert theirs in processes_of(records)
    others = [process for process in processes_of(records) if process != theirs]
    assert others
    assert {(process["pid"], process["owner"]) for process in others} == {(own, "nobody")}
    assert (not_permitted(records) > 0) == counted


@contextmanager
def isolated_server(where: Namespace, *options: str, port: int) -> Iterator[Path]:
    """Let a server be process 1 of a PID namespace of its own; give its /proc."""
    command = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *options)
    words = (*command, sys.executable, "-c", SERVE, str(port))
    with running(where, *words, stdin=subprocess.PIPE) as run:
        run.wait_for("ready")
        (first,) = children(run.process.pid)
        yield Path(f"/proc/{first}/root/proc")


def children(parent: int) -> list[int]:
    procfs = Procfs(Path("/proc"))
    stats = {pid: procfs.read_stat(pid) for pid in procfs.list_pids()}
    return [pid for pid, stat in stats.items() if stat is not None and stat.parent_pid == parent]


def connect(where: Namespace, port: int) -> None:
    def work() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert connection.recv(50_000, socket.MSG_WAITALL) == bytes(50_000)

    where.call(work)


def seeing(procfs: Path) -> tuple[str | Path, ...]:
    """Return the words that run hogpipe with another /proc; `recording` adds to them."""
    program = f"import sys, hogpipe.cli; sys.argv += ['--set', 'attribution.procfs={procfs}']"
    return (sys.executable, "-c", f"{program}; hogpipe.cli.main()")


def test_a_proc_of_another_pid_namespace_shows_its_processes_and_the_users_of_others(
    netns: Namespace, folder: Path
) -> None:
    with (
        isolated_server(netns, port=PORT) as procfs,
        recording(netns, folder, *seeing(procfs)) as run,
    ):
        with load(netns, DAEMON):
            connect(netns, PORT)
            run.wait_for("daemon", "pid")
        records = run.end()
    whole = [process for process in processes_of(records) if "pid" in process]
    assert whole
    assert {process["pid"] for process in whole} == {1}
    assert {"user": {"id": DAEMON}, "owner": "daemon"} in processes_of(records)


def test_a_server_in_another_network_namespace_is_not_taken_for_one_on_the_same_port_here(
    netns: Namespace, folder: Path
) -> None:
    with (
        isolated_server(netns, "--net", port=PORT) as procfs,
        recording(netns, folder, *seeing(procfs)) as run,
    ):
        with load(netns, DAEMON, PORT):
            run.wait_for("traffic")
        records = run.end()
        assert "shows no sockets of the network namespace" in "".join(run.run.errors)
    assert traffic_of(records)
    assert processes_of(records) == []


def test_a_proc_that_vanishes_costs_owners_and_nothing_else(netns: Namespace, folder: Path) -> None:
    with ExitStack() as stack:
        procfs = stack.enter_context(isolated_server(netns, port=PORT))
        with recording(netns, folder, *seeing(procfs)) as run:
            stack.close()
            with load(netns, DAEMON):
                run.wait_for("traffic")
            records = run.end()
    assert traffic_of(records)
    assert processes_of(records) == []
    assert sum(record["attribution"]["failed_batches"] for record in stats_of(records)) > 0
    reported, counted = balance(records)
    assert reported == counted
