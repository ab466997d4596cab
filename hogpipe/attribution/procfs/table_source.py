"""Where the socket tables of a network namespace are read: this one, or one of a container.

Both offer the text tables of /proc/net and links for sock_diag. What may fail: opening a link
raises OSError, as does reading this namespace's tables; a container's table is None if its process
has exited.

Through the /proc/PID/net of a container the kernel prints each table by a walk through the sockets
of all namespaces. A sock_diag link that was opened inside the namespace finds a five-tuple without
such a walk. Links stay open (`namespace_links`).
"""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from hogpipe.linux import sock_diag
from hogpipe.linux.netns.namespace_links import NamespaceLinks
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import TableText
from hogpipe.model import OWN_NAMESPACE

_MAX_ATTEMPTS = 4  # processes of a namespace through which a table is read
UNREAD = TableText(b"", is_complete=False)
"""A table that was not read."""


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

    def may_walk(self) -> bool:
        """Return whether a table may be walked where a lookup by five-tuple does not suffice."""


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

    def may_walk(self) -> bool:
        """Return True."""
        return True


class ContainerSource:
    """The tables of another network namespace.

    A table of /proc/PID/net is read through one of its processes, which is then checked to be in
    the namespace still; if not, another one is tried. `has_credit` returns whether a walk through
    the sockets of all namespaces is within the budget; if not, the lookup gets incomplete tables
    without a row. `begin_lookup` comes before each lookup.
    """

    def __init__(
        self,
        namespace: int,
        procfs: Procfs,
        processes: NamespaceProcesses,
        links: NamespaceLinks,
        has_credit: Callable[[], bool],
    ) -> None:
        self.namespace = namespace
        self._procfs = procfs
        self._processes = processes
        self._links = links
        self._has_credit = has_credit
        self._may_walk: bool | None = None
        """The decision for this lookup; None until it wants to walk."""

    def begin_lookup(self) -> None:
        """Start a lookup: whether it may walk depends on the credit when it wants to."""
        self._may_walk = None

    @property
    def has_walked(self) -> bool:
        """Whether this lookup walked the sockets of all namespaces."""
        return self._may_walk is True

    @property
    def was_refused(self) -> bool:
        """Whether this lookup wanted to walk, without credit."""
        return self._may_walk is False

    def may_walk(self) -> bool:
        """Return whether this lookup may walk the sockets of all namespaces."""
        if self._may_walk is None:
            self._may_walk = self._has_credit()
        return self._may_walk

    def read_text(self, name: str, deadline: float) -> TableText | None:
        """Return a table; None if there is none, or no process is in the namespace."""
        if not self.may_walk():
            return UNREAD
        for _attempt in range(_MAX_ATTEMPTS):
            pid = self._processes.find_process(self.namespace)
            if pid is None:
                break
            text = self._procfs.read_table_of(pid, name, deadline)
            if self._processes.is_in(pid, self.namespace):
                return text
        return None

    def open_link(self) -> AbstractContextManager[socket.socket]:
        """Return the open link into the namespace, which stays open."""
        return self._links.use(self.namespace)

    def find_device(self, _interface: str) -> int:
        """Return ANY_DEVICE: the interface of a flow is the host's."""
        return sock_diag.ANY_DEVICE
