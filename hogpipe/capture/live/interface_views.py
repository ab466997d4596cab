"""What is to be captured of each link, as links, addresses and guests change.

For one thread, in the network namespace that is captured in.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from hogpipe.capture.live.container_netns import ContainerNamespaces
from hogpipe.capture.live.interface_capture import InterfaceView
from hogpipe.capture.live.link_selection import ANY, Selection, leads_elsewhere, select_links
from hogpipe.capture.local_addresses import HostAddresses
from hogpipe.linux.rtnetlink import LinkTable

ANY_INDEX = 0
"""Of the pseudo-interface; the kernel counts from 1."""


class InterfaceViews:
    """Keeps the view of each link that `patterns` choose; processes are seen in `procfs`."""

    def __init__(self, patterns: Sequence[str], procfs: Path) -> None:
        self._patterns = patterns
        self._guests = ContainerNamespaces(procfs)
        self._without_guests: dict[int, InterfaceView] = {}

    def follow(self, table: LinkTable) -> None:
        """Take note that links or addresses have changed."""
        chosen = select_links(self._patterns, table.links)
        self._guests.follow(table.links, chosen)
        hosts: dict[frozenset[int], HostAddresses] = {}
        views = {}
        for found in chosen:
            if found.elsewhere not in hosts:
                hosts[found.elsewhere] = HostAddresses(table.without_addresses_of(found.elsewhere))
            views[found.link.index] = self._view(found, hosts[found.elsewhere])
        if ANY in self._patterns:
            big_tcp = any(link.big_tcp for link in table.links)
            views[ANY_INDEX] = InterfaceView(ANY, HostAddresses(table).seen_by(None), big_tcp)
        self._without_guests = views

    def look_for_guests(self, now: float) -> bool:
        """Look for guests if it is time, at `now` in seconds; tell whether any have changed."""
        return self._guests.is_due(now) and self._guests.refresh(now)

    def meet_strangers(self, index: int) -> None:
        """Take note that packets of no known guest passed the link of `index`."""
        self._guests.want(index)

    def current(self) -> dict[int, InterfaceView]:
        """Return what is to be captured now, by interface index."""
        return {
            index: self._with_guests(index, view) for index, view in self._without_guests.items()
        }

    def _view(self, found: Selection, host: HostAddresses) -> InterfaceView:
        link = found.link
        faces_guests = self._guests.faces_any(link.index)
        local = host.seen_by(link)
        if found.is_door:
            local = msgspec.structs.replace(local, guests_only=True)
        return InterfaceView(link.name, local, link.big_tcp, faces_guests, leads_elsewhere(link))

    def _with_guests(self, index: int, view: InterfaceView) -> InterfaceView:
        if not view.faces_guests:
            return view
        local = self._guests.add_to(view.local, index, guests_only=view.local.guests_only)
        return msgspec.structs.replace(view, local=local)
