"""Netlink sockets, here links, that stay open inside other network namespaces.

In: the inode of a namespace. Out: a link that was opened inside it by a thread that entered it
(setns(2), CAP_SYS_ADMIN). Raises ProcessLookupError if no process is known to be in the namespace,
and any other OSError if the namespace may not be entered or the link not be opened.

Opening a link takes 0.2 ms of CPU, a thread included, and a request over an open one some
microseconds. But an open link keeps its namespace alive, with the interfaces in it, after the last
process has left. So a link stays open only while both hold:

- It was used within the last second. A thread closes the others; it runs while a link is open. So
  the namespace of a removed container lives on for a second although nobody asks about it again.
- A process is in the namespace: a use checks that if the last check is a second old.

The inode of a namespace is not reused while a link is open, so a link that is open belongs to the
inode for which it was opened, whatever became of the process through which it was.

At most `max_links` are open; the one that was used the longest time ago is closed for another.

Known limit: a namespace that hogpipe entered lives for up to two seconds longer than without
hogpipe, and so do the interfaces that were moved into it.
"""

import errno
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hogpipe.linux.netns.cookies import call_inside
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses

OpenInside = Callable[[int, int], socket.socket | None]
"""Returns a link that is opened inside the namespace of a process, by pid and inode.

None if the process is not in that namespace any more. May raise OSError.
"""

_MAX_LINKS = 128
_UNUSED_SECONDS = 1.0
_RECHECK_SECONDS = 1.0
_MAX_ATTEMPTS = 4  # processes of a namespace through which it is entered


def make_open_inside(procfs: Path, open_link: Callable[[], socket.socket]) -> OpenInside:
    """Return the function that opens links inside the namespaces of the processes of `procfs`."""
    return lambda pid, namespace: call_inside(pid, namespace, open_link, procfs)


class _OpenLink(msgspec.Struct):
    link: socket.socket
    used: float
    checked: float
    """When a process was last seen in the namespace."""


class NamespaceLinks:
    """The open links of one kind. For one thread at a time, and `close` for any.

    `clock` is in seconds, as `unused_seconds`.
    """

    def __init__(
        self,
        processes: NamespaceProcesses,
        open_inside: OpenInside,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_links: int = _MAX_LINKS,
        unused_seconds: float = _UNUSED_SECONDS,
    ) -> None:
        self._processes = processes
        self._open_inside = open_inside
        self._clock = clock
        self._max_links = max_links
        self._unused_seconds = unused_seconds
        self._open: OrderedDict[int, _OpenLink] = OrderedDict()
        """By namespace; the one that was used the longest time ago first."""
        self._changed = threading.Condition()
        """Held while a link is used, opened or closed."""
        self._closer: threading.Thread | None = None

    def __len__(self) -> int:
        """Return the number of open links."""
        return len(self._open)

    def is_present(self, namespace: int) -> bool:
        """Return whether a process is in the namespace, by a check of the last second."""
        kept = self._open.get(namespace)
        if kept is not None:
            return self._is_inhabited(namespace, kept, self._clock())
        return self._processes.find_process(namespace) is not None

    @contextmanager
    def use(self, namespace: int) -> Iterator[socket.socket]:
        """Return the link into a namespace; it is closed after an error: answers may be left in it.

        Raises OSError as the module says.
        """
        with self._changed:
            kept = self._find(namespace)
            try:
                yield kept.link
            except BaseException:
                self._close(namespace)
                raise
            kept.used = self._clock()

    def close_unused(self) -> None:
        """Close the links that were not used for `unused_seconds`; the thread does so in time."""
        with self._changed:
            self._close_unused()

    def close(self) -> None:
        """Close all links. One that is opened later is closed when it is unused."""
        with self._changed:
            for namespace in list(self._open):
                self._close(namespace)
            self._changed.notify_all()

    def _find(self, namespace: int) -> _OpenLink:
        now = self._clock()
        kept = self._open.pop(namespace, None)
        if kept is None:
            kept = _OpenLink(self._open_link(namespace), now, now)
            self._make_room()
        elif not self._is_inhabited(namespace, kept, now):
            kept.link.close()
            raise _no_process(namespace)
        self._open[namespace] = kept  # at the end: the one that was used last
        self._start_closer()
        return kept

    def _is_inhabited(self, namespace: int, kept: _OpenLink, now: float) -> bool:
        if now - kept.checked >= _RECHECK_SECONDS:
            if self._processes.find_process(namespace) is None:
                return False
            kept.checked = now
        return True

    def _open_link(self, namespace: int) -> socket.socket:
        for _attempt in range(_MAX_ATTEMPTS):
            pid = self._processes.find_process(namespace)
            if pid is None:
                break
            link = self._open_inside(pid, namespace)
            if link is not None:
                return link
        raise _no_process(namespace)

    def _make_room(self) -> None:
        while len(self._open) >= self._max_links:
            self._close(next(iter(self._open)))

    def _close(self, namespace: int) -> None:
        self._open.pop(namespace).link.close()

    def _close_unused(self) -> None:
        now = self._clock()
        for namespace, kept in list(self._open.items()):
            if now - kept.used >= self._unused_seconds:
                self._close(namespace)

    def _start_closer(self) -> None:
        if self._closer is None:
            self._closer = threading.Thread(
                target=self._close_in_time, name="netns-links", daemon=True
            )
            self._closer.start()

    def _close_in_time(self) -> None:
        with self._changed:
            while self._open:
                first = next(iter(self._open.values()))
                self._changed.wait(first.used + self._unused_seconds - self._clock())
                self._close_unused()
            self._closer = None


def _no_process(namespace: int) -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, f"no process is in the network namespace {namespace}")
