"""Keeps the program for interfaces attached to all interfaces that transmit, as they come and go.

In: programs of a set that has one for interfaces, and which links it belongs to. Out: nothing but
the attachments. A thread sleeps until rtnetlink reports a change. An interface to which the program
cannot be attached is tried again at the next change, and is logged once.

The interfaces are those of the network namespace in which `PacketHooks` is made; what processes of
containers send passes only the hooks of their own namespace.

Attaching takes no capability, so the thread drops all rights (`limit_events`).
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Iterable, Sequence

from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.rtnetlink import Link, LinkMonitor
from hogpipe.threads import keep_running

log = logging.getLogger(__name__)

ChooseLinks = Callable[[Sequence[Link]], Iterable[Link]]
"""Returns those of all links to which the program is to be attached."""


def choose_all(links: Sequence[Link]) -> Iterable[Link]:
    """Return all links."""
    return links


class PacketHooks:
    """Attachments that last until `close`. Raises OSError, with nothing left attached.

    The programs must stay loaded until then.
    """

    def __init__(
        self,
        programs: AttachedPrograms,
        choose: ChooseLinks,
        *,
        limit_events: Callable[[], None] = lambda: None,
    ) -> None:
        self._programs = programs
        self._choose = choose
        self._limit_events = limit_events
        self._attached: dict[int, int] = {}
        """The descriptors of attachments by the index of the link."""
        self._failed: set[int] = set()
        self._is_open = True
        self._links = LinkMonitor()
        self._stop_fd = -1
        try:
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
            self._update()
            self._thread = threading.Thread(
                target=keep_running, args=(self._run,), name="packet-hooks", daemon=True
            )
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Detach, and wait until the thread has ended. May be called again."""
        if self._is_open:
            self._is_open = False
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._release()

    def _run(self) -> None:
        self._limit_events()
        poller = select.poll()
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(self._links.fileno(), select.POLLIN)
        while self._stop_fd not in {descriptor for descriptor, _ in poller.poll()}:
            self._links.drain()
            self._update()

    def _update(self) -> None:
        """Attach to links that are new, and release the attachments of those that are gone."""
        chosen = {link.index: link for link in self._choose(self._links.read_table().links)}
        for index in self._attached.keys() - chosen.keys():
            self._programs.detach_from_interface(self._attached.pop(index))
        self._failed &= chosen.keys()
        for index in chosen.keys() - self._attached.keys():
            try:
                self._attached[index] = self._programs.attach_to_interface(index)
            except OSError as error:
                if index not in self._failed:
                    self._failed.add(index)
                    log.debug("no hook for packet sockets at %s: %s", chosen[index].name, error)

    def _release(self) -> None:
        while self._attached:
            self._programs.detach_from_interface(self._attached.popitem()[1])
        self._links.close()
        if self._stop_fd >= 0:
            os.close(self._stop_fd)
