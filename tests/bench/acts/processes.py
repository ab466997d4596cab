"""Scenarios of processes: short-lived, forked, renamed, or given the connections of others."""

import array
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from scenario_peer import ECHO, PAUSE, SIZE

from acts.common import PORT, ROUNDS, TCP, Owners, connect, exchange, exchange_once, fork, own, wait

_PR_SET_NAME = 15


def short_processes() -> Owners:
    """60 processes with a connection each, which live for some milliseconds."""

    def once(port: int) -> None:
        with connect(port) as end:
            exchange_once(end)

    owners: Owners = []
    for port in ECHO[:60]:
        pid = fork(lambda port=port: once(port))  # type: ignore[misc]
        wait(pid)
        owners.append((pid, TCP, [port]))
    return owners


def forked_sender() -> Owners:
    """A child that sends on a connection which its parent opened, and closed after the fork."""
    end = connect()
    pid = fork(lambda: exchange(end, 200))
    end.close()
    wait(pid)
    return [(pid, TCP, [PORT])]


def executed_sender() -> Owners:
    """A process that opens a connection, then runs another program, which sends on it."""
    program = f"""
import socket, sys, time
end = socket.socket(fileno=int(sys.argv[1]))
for _ in range({ROUNDS}):
    end.sendall(bytes({SIZE}))
    end.recv({SIZE}, socket.MSG_WAITALL)
    time.sleep({PAUSE})
"""

    def run() -> None:
        end = connect()
        os.set_inheritable(end.fileno(), True)
        os.execv(sys.executable, [sys.executable, "-c", program, str(end.fileno())])

    pid = fork(run)
    wait(pid)
    return [(pid, TCP, [PORT])]


def passed_descriptor() -> Owners:
    """A connection that is passed to an unrelated process (SCM_RIGHTS), which uses it."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def take() -> None:
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(4))
        (descriptor,) = array.array("i", ancillary[0][2])
        exchange(socket.socket(fileno=descriptor), 200)

    pid = fork(take)
    with connect() as end:
        rights = array.array("i", [end.fileno()])
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    wait(pid)
    return [(pid, TCP, [PORT])]


def deleted_executable() -> Owners:
    """A process whose executable has been deleted."""
    bench = Path(__file__).parents[1]
    program = f"""
import os, sys
os.unlink(sys.argv[1])
sys.path[:0] = [{str(bench)!r}, {str(bench.parent)!r}]
import json
from acts.connections import tcp_long
print(json.dumps(tcp_long()))
"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "gone"
        shutil.copy(Path(sys.executable).resolve(), copy)
        library = Path(os.__file__).parent.parent  # with the standard library, and a shared Python
        environment = os.environ | {
            "PYTHONHOME": str(library.parent),
            "LD_LIBRARY_PATH": str(library),
        }
        output = subprocess.check_output([copy, "-c", program, copy], env=environment)
    return [(pid, protocol, ports) for pid, protocol, ports in json.loads(output)]


def renamed_process() -> Owners:
    """A process that changes its name ten times meanwhile."""
    with connect() as end:
        for number in range(10):
            ctypes.CDLL(None).prctl(_PR_SET_NAME, f"name {number})".encode())
            exchange(end, 6)
    return own(TCP, PORT)


def threads() -> Owners:
    """A process with eight threads, each with a connection."""

    def work() -> None:
        with connect() as end:
            exchange(end, 30)

    started = [threading.Thread(target=work) for _ in range(8)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return own(TCP, PORT)
