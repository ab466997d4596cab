"""Where the socket tables of a network namespace are read: this one, or one of a container.

Both offer the text tables of /proc/net and links for sock_diag. What may fail: opening a link
raises OSError, as does reading this namespace's tables; a container's table is None if its process
has exited.

Through the /proc/PID/net of a container the kernel prints each table by a walk through the sockets
of all namespaces. A sock_diag link that was opened inside the namespace finds a five-tuple without
such a walk. A link keeps its namespace alive, so it is open for one lookup only.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from hogpipe.linux import sock_diag
from hogpipe.linux.netns.cookies import call_inside
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import TableText
from hogpipe.model import OWN_NAMESPACE


class TableSource(Protocol):
    """The socket tables of one network namespace."""

    @property
    def namespace(self) -> int:
        """The namespace, as in `FlowKey`."""

    def read_text(self, name: str, deadline: float) -> TableText | None:
        """Return a table of /proc/net, read until `deadline`; None if there is none."""

    def open_link(self) -> AbstractContextManager[socket.socket]:
        """Return a link for sock_diag. Raises OSError."""

    def find_device(self, interface: str) -> int:
        """Return the index that the interface of a flow has there, or ANY_DEVICE."""


class OwnSource:
    """The tables of the network namespace that hogpipe runs in."""

    namespace = OWN_NAMESPACE

    def __init__(self, procfs: Procfs) -> None:
        self.read_text = procfs.read_table

    def open_link(self) -> socket.socket:
        """Return a link of its own."""
        return sock_diag.open_link()

    def find_device(self, interface: str) -> int:
        """Return the index of an interface, or ANY_DEVICE."""
        return sock_diag.find_device(interface)


OpenInside = Callable[[int, int], socket.socket | None]
"""Returns a link that is opened inside the namespace of a process, by pid and namespace.

None if the process is not in that namespace any more. May raise OSError.
"""


def make_open_inside(procfs: Path) -> OpenInside:
    """Return the function that opens links inside the namespaces of the processes of `procfs`."""
    return lambda pid, namespace: call_inside(pid, namespace, sock_diag.open_link, procfs)


class ContainerSource:
    """The tables of another network namespace, read through the process `pid` in it.

    The caller sets `pid` before each use, and closes the link after each lookup.
    """

    def __init__(self, namespace: int, procfs: Procfs, open_inside: OpenInside) -> None:
        self.namespace = namespace
        self.pid = 0
        self._procfs = procfs
        self._open_inside = open_inside
        self._link: socket.socket | None = None

    def read_text(self, name: str, deadline: float) -> TableText | None:
        """Return a table; None if there is none, or the process has exited."""
        return self._procfs.read_table_of(self.pid, name, deadline)

    @contextmanager
    def open_link(self) -> Iterator[socket.socket]:
        """Return the link of this lookup, closed after an error: answers may be left in it."""
        if self._link is None:
            self._link = self._open_inside(self.pid, self.namespace)
        if self._link is None:
            raise ProcessLookupError(self.pid, "the process has left the network namespace")
        try:
            yield self._link
        except BaseException:
            self.close()
            raise

    def find_device(self, _interface: str) -> int:
        """Return ANY_DEVICE: the interface of a flow is the host's."""
        return sock_diag.ANY_DEVICE

    def close(self) -> None:
        """Close the link, if it is open."""
        if self._link is not None:
            self._link.close()
            self._link = None
