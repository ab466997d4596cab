"""Names that processes, users and control groups choose are recorded; no control is printed."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bpf import deep_control_group, require_bpf
from support.namespaces import Namespace, namespace, require
from support.running import (
    assert_conserved,
    read_records,
    running,
    traffic_of,
    wait_until,
    write_config,
)

CONFIG = """
[capture]
source = "{source}"
interfaces = ["lo"]
[aggregation]
interval = 0.5
[enrichment]
command_line = true
[[sinks]]
type = "jsonl"
path = "records.jsonl"
[[sinks]]
type = "stdout"
format = "table-scroll"
"""
PORT = 7530
NAMES = {
    "line ends": b"a\nb\r\x85",
    "controls": b"\x1b[2J\x1b]0;own\x07",
    "invalid UTF-8": b"\xff\xfe\xc3(",
    "parentheses": b") S 1 (x) R 2",
    "reordering": "\u202egpj\u2028\u2066".encode(),
    "long": b"n" * 255,
}
DEEP, NAMELESS = "deep", "nameless"
# Says that it runs, and connects for each line of input; with an argument it removes its own name.
SCRIPT = """
[ -z "$1" ] || printf '\\0' > /proc/$$/comm
echo runs >&2
while read -r line; do exec 3<>/dev/tcp/127.0.0.1/%d; echo "$line" >&3; done
"""
USER = b"ro\x1b[31mot\xff" + b"u" * 4000


class Hosted:
    """A hostile process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        assert process.stderr is not None
        assert process.stderr.readline() == b"runs\n"

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"more\n")
        self.process.stdin.flush()


@contextmanager
def hosted(
    where: Namespace,
    program: bytes,
    *words: bytes,
    folder: bytes = b"/",
    group: int | None = None,
) -> Iterator[Hosted]:
    """Run SCRIPT by a shell with a path and arguments of one's choice.

    `group` is a descriptor of the control group that it is in.
    """

    def enter() -> None:
        if group is not None:
            procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=group)
            os.write(procs, b"0")

    command = [b"nsenter", f"--net=/run/netns/{where.name}".encode(), program, b"-c"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    script = (SCRIPT % PORT).encode()
    with subprocess.Popen(  # type: ignore[call-overload]
        [*command, script, b"bash", *words],
        cwd=folder,
        preexec_fn=enter,  # noqa: PLW1509 - it only makes system calls
        **pipes,
    ) as process:
        try:
            yield Hosted(process)
        finally:
            process.kill()


def make_program(folder: Path, name: bytes) -> bytes:
    """Return the path of a shell of this name."""
    path = os.fsencode(folder) + b"/" + name
    shutil.copyfile("/bin/bash", path)
    Path(os.fsdecode(path)).chmod(0o755)
    return path


@contextmanager
def deep_folder(folder: Path) -> Iterator[bytes]:
    """Make a folder whose path is longer than a path may be; give a path through its descriptor."""
    opened, name = [os.open(folder, os.O_RDONLY)], b"\x1b[7m\xff".ljust(250, b"p")
    try:
        for _ in range(17):
            os.mkdir(name, dir_fd=opened[-1])
            opened.append(os.open(name, os.O_RDONLY, dir_fd=opened[-1]))
        yield b"/proc/%d/fd/%d" % (os.getpid(), opened[-1])
    finally:
        for one in opened:
            os.close(one)


@contextmanager
def echo_server(where: Namespace) -> Iterator[None]:
    """Read what connects, in a thread of this process."""
    with where.call(lambda: socket.create_server(("127.0.0.1", PORT), backlog=64)) as listener:

        def serve() -> None:
            with ExitStack() as kept:
                while True:
                    try:
                        kept.enter_context(listener.accept()[0])
                    except OSError:
                        return  # closed

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def hostile_processes(where: Namespace, folder: Path) -> Iterator[Mapping[str, Hosted]]:
    """Run a process of each name; one of a path beyond 4 KB in such a control group, too."""
    with ExitStack() as stack:
        stack.enter_context(echo_server(where))
        made = {
            kind: stack.enter_context(hosted(where, make_program(folder, name), b"", name))
            for kind, name in NAMES.items()
        }
        plain = make_program(folder, b"plain")
        made[NAMELESS] = stack.enter_context(hosted(where, plain, b"x", b"\x1b[H" * 2000))
        deep = stack.enter_context(deep_folder(folder))
        shutil.copy("/bin/bash", deep + b"/deep")
        group = stack.enter_context(deep_control_group())
        made[DEEP] = stack.enter_context(hosted(where, b"./deep", folder=deep, group=group))
        yield made


@pytest.fixture(scope="module", params=["pcap", "ebpf"])
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, dict[str, Any]], str, Mapping[str, int]]]:
    """The process of each kind in the records, the printed tables, and the pids."""
    require("ip", "nsenter", "unshare")
    require_bpf()
    folder = tmp_path_factory.mktemp("names")
    passwd = folder / "passwd"
    passwd.write_bytes(USER + b":x:0:0::/:/bin/sh\n")
    config = write_config(folder, CONFIG.format(source=request.param))
    records = folder / "records.jsonl"
    words = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', passwd]
    with namespace() as where, hostile_processes(where, folder) as processes:
        pids = {kind: one.process.pid for kind, one in processes.items()}
        command = where.enter(*words, "python", "-m", "hogpipe", "-v", "run", config)
        command[command.index("python")] = os.sys.executable  # type: ignore[attr-defined]
        with (
            (folder / "tables").open("wb") as tables,
            running(None, *command, stdout=tables) as run,
        ):
            run.wait_for("capturing on lo|counting at")

            def found() -> dict[int, dict[str, Any]]:
                for one in processes.values():
                    one.say()
                text = records.read_text() if records.exists() else ""
                whole = text[: text.rfind("\n") + 1]
                (folder / "whole").write_text(whole)
                traffic = traffic_of(read_records(folder / "whole")) if whole else []
                return {
                    one["process"]["pid"]: one["process"]
                    for one in traffic
                    if "pid" in one.get("process", {})
                }

            wait_until(lambda: set(found()) >= set(pids.values()))
            by_pid = found()
            assert run.end() == 0, run.errors
        assert_conserved(read_records(records))
        yield {k: by_pid[pid] for k, pid in pids.items()}, (folder / "tables").read_text(), pids


def shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def test_each_name_is_the_one_that_was_chosen(
    recorded: tuple[dict[str, dict[str, Any]], str, Mapping[str, int]],
) -> None:
    found, _tables, _pids = recorded
    names = {kind: one["name"] for kind, one in found.items()}
    assert names == {
        **{kind: shown(name) for kind, name in NAMES.items()},
        NAMELESS: "plain",
        DEEP: "deep",  # its command: the path of its executable cannot be read
    }
    assert {one["parent_pid"] for one in found.values()} == {os.getpid()}
    assert {one["owner"] for one in found.values()} == {shown(USER)}
    assert found["controls"]["command_args"][-1] == shown(NAMES["controls"])
    assert len("".join(found[NAMELESS]["command_args"])) <= 4096


def test_no_control_reaches_the_terminal(
    recorded: tuple[dict[str, dict[str, Any]], str, Mapping[str, int]],
) -> None:
    _found, tables, _pids = recorded
    assert "\\x1b[2J" in tables
    assert {char for line in tables.split("\n") for char in line if not char.isprintable()} == set()
