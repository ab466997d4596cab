"""After its start a run has the rights that it needs and no others, and works as before."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, require
from support.packet_files import read_packet_file
from support.running import Running, read_records, running, traffic_of, wait_until, write_config
from support.visible_program import expose_program

from hogpipe.linux.capabilities import Capability
from hogpipe.linux.host_features import may_translate
from hogpipe.linux.landlock import read_version

NO_OWNER = 65534
HAS_LANDLOCK = read_version() > 0
LASTING = {Capability.CAP_NET_RAW, Capability.CAP_SYS_PTRACE, Capability.CAP_DAC_READ_SEARCH}
ISOLATED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "sh", "-c",
            'ip link set lo up && exec "$@"', "sh")  # fmt: skip
HOGPIPE = (sys.executable, "-m", "hogpipe", "-v", "run")
CALLED_BY_SUDO = {"SUDO_UID": str(NO_OWNER), "SUDO_GID": str(NO_OWNER)}
CONFIG = """
[capture]
source = "{source}"
interfaces = ["lo", "lat*"]
[aggregation]
interval = {interval}
[plugins]
paths = ["rights.py"]
[security]
{security}
[[sinks]]
type = "jsonl"
path = "out/records.jsonl"
[[sinks]]
type = "rights"
"""
# Reports the rights of the thread that loads it, and of the one that opens its sink.
PLUGIN = """
import ctypes, os, re, sys
from hogpipe import SinkSettings, SinkType, hookimpl

def report(when):
    with open("/proc/thread-self/status") as file:
        permitted = re.search("CapPrm:\\\\s*(\\\\w+)", file.read())[1]
    denied = ctypes.CDLL(None).unshare(0) < 0
    print(f"plugin {when} with {int(permitted, 16)} denied {denied}", file=sys.stderr, flush=True)

class Rights:
    def __init__(self, settings): pass
    async def open(self):
        report("opened")
        try:
            open(os.environ.get("ELSEWHERE", "/dev/null"), "w").close()
        except OSError as error:
            print("plugin", error.strerror, file=sys.stderr, flush=True)
        else:
            print("plugin wrote elsewhere", file=sys.stderr, flush=True)
    async def write(self, records): pass
    async def close(self): pass

report("loaded")

@hookimpl
def hogpipe_sinks():
    return [SinkType("rights", SinkSettings, Rights)]
"""
TALK = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
served, _ = server.accept()
print("talking", file=sys.stderr, flush=True)
for line in sys.stdin:
    client.sendall(bytes(1000)); served.recv(1000, socket.MSG_WAITALL)
"""


class Status:
    """A /proc/PID/task/TID/status."""

    def __init__(self, path: Path) -> None:
        self._text = path.read_text()

    def _get(self, key: str) -> str:
        match = re.search(rf"^{key}:\s*(.*)$", self._text, re.MULTILINE)
        assert match
        return match[1]

    def capabilities(self, key: str) -> set[int]:
        bits = int(self._get(key), 16)
        return {number for number in range(64) if bits >> number & 1}

    @property
    def users(self) -> set[str]:
        return {*self._get("Uid").split(), *self._get("Gid").split()}

    @property
    def has_filter(self) -> bool:
        return self._get("Seccomp") == "2"

    @property
    def has_no_new_privileges(self) -> bool:
        return self._get("NoNewPrivs") == "1"


def statuses(pid: int) -> list[Status]:
    return [Status(path) for path in Path(f"/proc/{pid}/task").glob("*/status")]


def write(folder: Path, source: str = "pcap", security: str = "", interval: float = 0.2) -> Path:
    (folder / "rights.py").write_text(PLUGIN)
    return write_config(folder, CONFIG.format(source=source, security=security, interval=interval))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root that everybody may look into, with one of nobody for records."""
    require("unshare", "ip")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "out").mkdir()
        os.chown(path / "out", NO_OWNER, NO_OWNER)
        yield path


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder of root, where no sink writes to and no library has its temporary files."""
    with tempfile.TemporaryDirectory(dir="/run") as name:
        yield Path(name)


@contextmanager
def talking(where: Namespace) -> Iterator[Running]:
    """Let a process of root be connected to itself."""
    with running(where, sys.executable, "-c", TALK, stdin=subprocess.PIPE) as talk:
        talk.wait_for("talking")
        yield talk


def say(talk: Running) -> None:
    assert talk.process.stdin is not None
    talk.process.stdin.write("\n")
    talk.process.stdin.flush()


def owned(path: Path, pid: int) -> bool:
    """Return whether records have bytes of the process."""
    if not path.exists() or not path.read_text().endswith("\n"):
        return False
    found = [one for one in traffic_of(read_records(path)) if one.get("process", {})]
    return any(one["process"].get("pid") == pid for one in found)


def call(where: Namespace, *words: str | Path, environ: dict[str, str] | None = None) -> Running:
    """Run hogpipe to its end."""
    with running(None, *where.enter(*words), env=os.environ | (environ or {})) as run:
        run.wait()
    return run


def test_a_host_without_containers_leaves_three_capabilities(folder: Path, elsewhere: Path) -> None:
    os.chown(folder / "out", 0, 0)
    path = write(folder)
    environ = os.environ | {"ELSEWHERE": str(elsewhere / "file")}
    with running(None, *ISOLATED, *HOGPIPE, path, env=environ) as run:
        run.wait_for_each(
            "plugin loaded with 0 denied True$", "plugin opened with 0 denied True$",
            "capturing on lo$", "plugin Permission denied$" if HAS_LANDLOCK else "plugin wrote",
        )  # fmt: skip
        run.wait_for("owners come from")
        (pid,) = children(run.process.pid)
        found = statuses(pid)
        has = set().union(*(status.capabilities("CapPrm") for status in found))
        # A host may translate for others, although this namespace does not.
        assert has - ({Capability.CAP_NET_ADMIN} if may_translate() else set()) == LASTING
        for status in found:
            assert status.has_no_new_privileges
            assert status.has_filter
            assert status.capabilities("CapEff") == status.capabilities("CapPrm")
            assert not status.capabilities("CapInh") | status.capabilities("CapAmb")
        main = Status(Path(f"/proc/{pid}/status"))
        assert not main.capabilities("CapPrm")
        added = f'[[sinks]]\ntype = "jsonl"\npath = "{elsewhere}/records.jsonl"\n'
        path.write_text(path.read_text() + added)
        os.kill(pid, signal.SIGHUP)
        if HAS_LANDLOCK:
            run.wait_for(rf"sinks\[2\]: {elsewhere} is outside of the folders that sinks could")
        run.wait_for("the configuration is refused" if HAS_LANDLOCK else "reloaded: sink .*added")
        os.kill(pid, signal.SIGINT)
        assert run.wait() == 0, run.errors


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_a_run_by_sudo_is_its_callers_and_sees_everything(
    netns: Namespace, folder: Path, source: str
) -> None:
    require_bpf()
    path = write(folder, source, 'containers = "off"')
    path.chmod(0o600)  # root's, and the run is not root's when it is read again
    words = [*expose_program(), *HOGPIPE, path]
    records = folder / "out/records.jsonl"
    with (
        talking(netns) as talk,
        running(None, *netns.enter(*words), env=os.environ | CALLED_BY_SUDO) as run,
    ):
        run.wait_for_each("runs as nobody, with CAP_", "plugin opened with 0 ", "owners come from")
        pid = run.process.pid
        found = statuses(pid)
        allowed = LASTING if source == "pcap" else LASTING - {Capability.CAP_NET_RAW}
        assert set().union(*(status.capabilities("CapPrm") for status in found)) == allowed
        assert {user for status in found for user in status.users} == {str(NO_OWNER)}
        assert Path(f"/proc/{pid}/fd").stat().st_uid == 0  # of a process without dumps
        if source == "pcap":
            netns.ip("link", "add", "later", "type", "veth", "peer", "name", "other")
            netns.ip("link", "set", "later", "up")
            run.wait_for("capturing on later")
        say(talk)
        wait_until(lambda: owned(records, talk.process.pid))
        write(folder, source, 'containers = "off"', interval=0.3)
        run.process.send_signal(signal.SIGHUP)
        run.wait_for("configuration reloaded: aggregation.interval$")
        say(talk)
        assert run.end() == 0, run.errors
    assert records.stat().st_uid == NO_OWNER
    warnings = [line for line in run.errors if "WARNING" in line]
    assert all("capture.interfaces" in line for line in warnings)


def test_root_writes_into_the_folder_of_another_user_and_says_by_which_right(
    netns: Namespace, folder: Path
) -> None:
    path = write(folder)
    with running(None, *netns.enter(*HOGPIPE, path)) as run:
        run.wait_for(
            r"WARNING: sinks keep CAP_DAC_OVERRIDE, .*records.jsonl: .* may not be written"
        )
        run.wait_for(f"plugin opened with {1 << Capability.CAP_DAC_OVERRIDE} ")
        run.wait_for("capturing on lo")
        assert run.end() == 0, run.errors
    assert (folder / "out/records.jsonl").stat().st_uid == 0


def test_a_caller_of_sudo_who_cannot_use_the_files_leaves_the_run_to_root(
    netns: Namespace, folder: Path
) -> None:
    os.chown(folder / "out", 0, 0)
    words = [*expose_program(), *HOGPIPE, write(folder)]
    with running(None, *netns.enter(*words), env=os.environ | CALLED_BY_SUDO) as run:
        run.wait_for(r"runs as root, as nobody cannot use .*/records.jsonl: .*may not be written")
        run.wait_for("plugin opened with 0 ")
        run.wait_for("capturing on lo")
        assert run.end() == 0, run.errors


@pytest.mark.parametrize(
    ("security", "code", "text"),
    [
        ('user = "no such user"', 78, 'security.user: there is no user "no such user"'),
        ('user = "99999999999"', 78, 'security.user: there is no user "99999999999"'),
        ('user = "daemon"', 78, r"security.user: daemon cannot use .*/records.jsonl: "),
        ('sandbox = "strict"', 78, "security.user: required, as the sandbox is"),
    ],
)
def test_a_user_or_a_sandbox_that_is_not_possible_is_refused(
    netns: Namespace, folder: Path, security: str, code: int, text: str
) -> None:
    run = call(netns, *expose_program(), *HOGPIPE, write(folder, security=security))
    assert run.process.returncode == code
    assert re.search(rf"hogpipe: {text}", run.errors[-1]), run.errors
    assert not (folder / "out/records.jsonl").exists()


def test_a_check_has_the_rights_of_a_run(netns: Namespace, folder: Path) -> None:
    words = [*expose_program(), sys.executable, "-m", "hogpipe", "check", "--connect"]
    path = write(folder, security='user = "nobody"')
    run = call(netns, *words, path)
    assert run.process.returncode == 0, run.errors
    assert any(line.startswith("plugin loaded with 0 ") for line in run.errors)
    assert any(line.startswith("plugin opened with 0 ") for line in run.errors)
    os.chown(folder / "out", 0, 0)
    run = call(netns, *words, path)
    assert run.process.returncode == 78
    assert "security.user: nobody cannot use" in run.errors[-1]


def test_a_list_of_plugins_loads_them_without_rights(netns: Namespace, folder: Path) -> None:
    write(folder)
    words = [*expose_program(), sys.executable, "-m", "hogpipe", "plugins", folder / "rights.py"]
    run = call(netns, *words, environ=CALLED_BY_SUDO)
    assert run.process.returncode == 0, run.errors
    assert run.errors[-1].startswith("plugin loaded with 0 "), run.errors


def test_only_root_can_become_another_user(netns: Namespace, folder: Path) -> None:
    require("setpriv")
    as_nobody = ("setpriv", f"--reuid={NO_OWNER}", f"--regid={NO_OWNER}", "--clear-groups")
    words = [*expose_program(), *as_nobody, *HOGPIPE, write(folder, security='user = "daemon"')]
    run = call(netns, *words)
    assert run.process.returncode == 77
    assert "security.user: only root can become daemon" in run.errors[-1]


def test_a_strict_sandbox_runs_as_the_user_of_the_configuration(
    netns: Namespace, folder: Path
) -> None:
    path = write(folder, security='sandbox = "strict"\nuser = "nobody"\ncontainers = "off"')
    with running(None, *netns.enter(*expose_program(), *HOGPIPE, path)) as run:
        run.wait_for("capturing on lo")
        users = {user for status in statuses(run.process.pid) for user in status.users}
        assert users == {str(NO_OWNER)}
        assert run.end() == 0, run.errors
    assert (folder / "out/records.jsonl").stat().st_uid == NO_OWNER


def test_without_a_sandbox_nothing_is_given_up(netns: Namespace, folder: Path) -> None:
    path = write(folder, security='sandbox = "off"')
    environ = os.environ | CALLED_BY_SUDO
    with running(None, *netns.enter(*HOGPIPE, path), env=environ) as run:
        run.wait_for("capturing on lo")
        own = Status(Path("/proc/self/status")).capabilities("CapPrm")
        for status in statuses(run.process.pid):
            assert status.capabilities("CapPrm") == own
            assert not status.has_no_new_privileges
            assert not status.has_filter
        assert run.end() == 0, run.errors


@pytest.mark.skipif(not HAS_LANDLOCK, reason="needs Landlock")
def test_packets_are_written_for_who_called_sudo(netns: Namespace, folder: Path) -> None:
    require_bpf()
    path = folder / "out/trace.pcapng"
    words = (*HOGPIPE[:-1], "capture", "-i", "lo", "-w", path, "--set", 'security.containers="off"')
    with (
        talking(netns) as talk,
        running(
            None, *netns.enter(*expose_program(), *words), env=os.environ | CALLED_BY_SUDO
        ) as run,
    ):
        run.wait_for_each("runs as nobody, with CAP_", "owners come from")
        found = statuses(run.process.pid)
        assert set().union(*(status.capabilities("CapPrm") for status in found)) == LASTING
        assert all(status.has_filter for status in found)
        say(talk)
        wait_until(lambda: path.exists() and path.stat().st_size > 1000)
        assert run.end() == 0, run.errors
    assert path.stat().st_uid == NO_OWNER
    assert {one.pid for one in read_packet_file(path).packets} == {talk.process.pid}
