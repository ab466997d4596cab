"""Forks of all processes of the host, as the kernel reports them (process connector).

In: a callback. Out: a call of it for each fork, in their order, and how often reports were lost.
Opening raises OSError where the kernel does not report:
without CAP_NET_ADMIN, in a pid or user namespace of its own, or without CONFIG_PROC_EVENTS.

The kernel reports a fork before the child runs for the first time, so that whatever a process does
comes after its fork in the queue. A thread reads the queue; it is woken for forks only.

The connector is in the initial network namespace, so the socket is made there.

Known limits: a process that is made with CLONE_PARENT is reported as a child of its maker's parent.
After a loss of reports, children are missing (`lost`).

Sources: drivers/connector/cn_proc.c, netlink(7).
"""

import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hogpipe.linux.clocks import boot_clock
from hogpipe.linux.fork_messages import PROCESS_GROUP, Fork, build_request, parse_fork
from hogpipe.linux.netns.cookies import call_inside
from hogpipe.linux.netns.namespace_processes import netns_path
from hogpipe.linux.socket_filter import RawInstruction, attach_filter
from hogpipe.threads import keep_running

_NETLINK_CONNECTOR = 11
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 1 << 23  # some 10,000 forks, if the thread does not run meanwhile
_LARGEST = 4096
_INIT = 1
# Of a datagram: the kind of event, which a filter loads in network byte order.
_KIND_OFFSET = 36
_FORK = int.from_bytes((1).to_bytes(4, sys.byteorder), "big")
_LOAD_WORD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # include/uapi/linux/bpf_common.h
_FORKS_ONLY: tuple[RawInstruction, ...] = (
    (_LOAD_WORD, 0, 0, _KIND_OFFSET),
    (_IF_EQUAL, 0, 1, _FORK),
    (_RETURN, 0, 0, _LARGEST),
    (_RETURN, 0, 0, 0),
)


class ForkReports:
    """Calls `handle` with each fork, in one thread at a time, until `close`. Raises OSError."""

    def __init__(self, handle: Callable[[Fork], None]) -> None:
        self._handle = handle
        self.lost = 0
        """How often reports were lost; the number only grows."""
        self._socket = _open()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        try:
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(
            target=keep_running, args=(self._run,), name="forks", daemon=True
        )
        self._thread.start()

    def drain(self) -> None:
        """Handle the forks that the kernel has reported until now."""
        with self._lock:
            while self._handle_next():
                pass

    def close(self) -> None:
        """Stop, and wait until the thread has ended. May be called again."""
        if self._thread is not None:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._thread = None
            os.close(self._stop_fd)
            with suppress(OSError):  # the kernel has no memory for it, and goes on reporting
                self._socket.send(build_request(listen=False))
            self._socket.close()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(self._socket.fileno(), select.POLLIN)
        while self._stop_fd not in {descriptor for descriptor, _ in poller.poll()}:
            self.drain()

    def _handle_next(self) -> bool:
        """Handle one report; return False if there is none."""
        try:
            datagram = self._socket.recv(_LARGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.lost += 1  # the kernel says so once for all reports that found no room
            return True
        fork = parse_fork(datagram, boot_clock() - time.monotonic_ns())
        if fork is not None:
            self._handle(fork)
        return True


def _open() -> socket.socket:
    """Return a socket that gets the reports of forks. Raises OSError."""
    try:
        return _open_here()
    except ConnectionRefusedError:  # this thread is in another network namespace
        inode = netns_path(Path("/proc"), _INIT).stat().st_ino
        found = call_inside(_INIT, inode, _open_here)
        if found is None:
            raise
        return found


def _open_here() -> socket.socket:
    link = socket.socket(
        socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR
    )
    try:
        attach_filter(link.fileno(), _FORKS_ONLY)
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        link.bind((0, PROCESS_GROUP))
        link.send(build_request(listen=True))
    except BaseException:
        link.close()
        raise
    return link
