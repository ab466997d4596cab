"""The sockets of a process, by their cookies."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hogpipe.linux.held_sockets import read_held_sockets
from hogpipe.linux.procfs import Procfs

PROCFS = Procfs(Path("/proc"))


def cookie_of(one: socket.socket) -> int:
    return int(struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, 57, 8))[0])


def test_sockets_of_ip_are_found_in_this_process() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as local,
    ):
        found = {one.cookie: one for one in read_held_sockets(os.getpid(), PROCFS)}
        assert found[cookie_of(listener)].listening_port == listener.getsockname()[1]
        assert found[cookie_of(datagrams)].listening_port == 0
        assert cookie_of(local) not in found


def test_sockets_of_another_process_are_found_and_stay_its_own(root: None) -> None:
    del root
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            before = len(list(Path("/proc/self/fd").iterdir()))
            found = {one.cookie for one in read_held_sockets(process.pid, PROCFS)}
            assert cookie_of(listener) in found
            assert len(list(Path("/proc/self/fd").iterdir())) == before
            process.communicate()
        assert read_held_sockets(process.pid, PROCFS) == []


def test_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Procfs, "list_fds", refuse)
    with pytest.raises(PermissionError):
        read_held_sockets(1, PROCFS)
