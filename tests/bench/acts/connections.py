"""Scenarios of connections, and of the ways to send on them."""

import contextlib
import ctypes
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

from scenario_peer import CLOSED, DISCARD, DOWNLOAD, PAUSE, SIZE, receive_exactly

from acts.common import (
    NEAR4,
    PEER4,
    PEER6,
    PORT,
    SHORT,
    TCP,
    Owners,
    connect,
    exchange,
    exchange_once,
    fork,
    own,
    wait,
)


def tcp_long() -> Owners:
    """A connection of two seconds with small requests."""
    with connect() as end:
        exchange(end)
    return own(TCP, PORT)


def tcp_short() -> Owners:
    """300 connections of under a millisecond, one after the other."""
    for _ in range(SHORT):
        with connect() as end:
            exchange_once(end)
    return own(TCP, PORT)


def tcp_burst() -> Owners:
    """200 connections that are opened at once."""
    ends = [connect() for _ in range(200)]
    for end in ends:
        end.sendall(bytes(SIZE))
    for end in ends:
        receive_exactly(end, SIZE)
        end.close()
    return own(TCP, PORT)


def tcp_upload() -> Owners:
    """20 MB that are sent."""
    with connect(DISCARD[0]) as end:
        for _ in range(320):
            end.sendall(bytes(1 << 16))
    return own(TCP, DISCARD[0])


def tcp_download() -> Owners:
    """20 MB that are received."""
    size = 320 << 16
    with connect(DOWNLOAD[0]) as end:
        end.sendall(str(size).encode())
        receive_exactly(end, size)
    return own(TCP, DOWNLOAD[0])


def tcp_v6() -> Owners:
    """A connection over IPv6."""
    with connect(address=PEER6) as end:
        exchange(end)
    return own(TCP, PORT)


def tcp_refused() -> Owners:
    """100 connections that are refused."""
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            connect(CLOSED).close()
        time.sleep(PAUSE)
    return own(TCP, CLOSED)


def tcp_time_wait() -> Owners:
    """One local port, used again while it is in TIME_WAIT: by four processes in five seconds."""
    Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")

    def once() -> None:
        with socket.socket() as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind((NEAR4, 40_000))
            end.connect((PEER4, PORT))
            exchange_once(end)

    owners: Owners = []
    for _ in range(4):
        pid = fork(once)
        wait(pid)
        owners.append((pid, TCP, [PORT]))
        time.sleep(1.2)  # the kernel reuses it after a second (tcp_twsk_unique)
    return owners


def idle_sockets() -> Owners:
    """A connection beside 3,000 idle ones of another process."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        started, go_on = os.pipe()

        def hold() -> None:
            ends = [socket.create_connection(listener.getsockname()) for _ in range(3_000)]
            os.write(go_on, b"x")
            signal.pause()
            del ends

        holder = fork(hold)
        os.read(started, 1)
        try:
            with connect() as end:
                exchange(end)
        finally:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
    return own(TCP, PORT)


def killed() -> Owners:
    """A process that is killed in the middle of a transfer."""

    def send() -> None:
        with connect(DISCARD[1]) as end:
            while True:
                end.sendall(bytes(4000))
                time.sleep(0.005)

    pid = fork(send)
    time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return [(pid, TCP, [DISCARD[1]])]


def sendfile() -> Owners:
    """A file that is sent by sendfile(2)."""
    with tempfile.TemporaryFile() as file, connect(DISCARD[2]) as end:
        file.truncate(4 << 20)
        end.sendfile(file)
    return own(TCP, DISCARD[2])


def splice() -> Owners:
    """Bytes that are spliced from a pipe into a connection (splice(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = os.pipe()
    with connect(DISCARD[3]) as end:
        for _ in range(64):
            os.write(target, bytes(1 << 16))
            left = 1 << 16
            while left:
                moved = libc.splice(source, None, end.fileno(), None, left, 0)
                if moved <= 0:
                    raise OSError(ctypes.get_errno(), "splice")
                left -= moved
    return own(TCP, DISCARD[3])
