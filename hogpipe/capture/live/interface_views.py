"""How each interface is to be captured, as links, addresses and containers change.

In: rtnetlink dumps, and reports of packets between unknown endpoints. Out: an `InterfaceView` for
each selected link. Reads the addresses of containers through `ContainerNamespaces`.

For one thread, in the network namespace that is captured in.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from hogpipe.capture.live.container_netns import ContainerNamespaces
from hogpipe.capture.live.link_addresses import LinkAddresses
from hogpipe.capture.live.link_selection import ANY, Selection, select_links
from hogpipe.capture.live.link_topology import is_container_veth
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.linux.rtnetlink import LinkTable

ANY_INDEX = 0
"""Of the pseudo-interface "any"; the kernel counts from 1."""


class InterfaceView(msgspec.Struct, frozen=True):
    """How to capture on an interface, or on all of them at once."""

    name: str
    local: LocalAddresses
    big_tcp: bool
    """Whether packets too long for the length field of IP may pass."""
    leads_to_container: bool = False
    """Whether containers may be behind the link, directly or behind other links."""
    is_container_veth: bool = False
    """Whether the link is one end of a veth whose peer is in another network namespace."""


class InterfaceViews:
    """The views of the links that `patterns` select; `procfs` shows the containers' processes."""

    def __init__(self, patterns: Sequence[str], procfs: Path) -> None:
        self._patterns = patterns
        self._containers = ContainerNamespaces(procfs)
        self._without_containers: dict[int, InterfaceView] = {}

    def update_links(self, table: LinkTable) -> None:
        """Take over new links and addresses."""
        selected = select_links(self._patterns, table.links)
        self._containers.update_links(table.links, selected)
        hosts: dict[frozenset[int], LinkAddresses] = {}
        views = {}
        for found in selected:
            excluded = found.counted_elsewhere
            if excluded not in hosts:
                hosts[excluded] = LinkAddresses(table.without_addresses_of(excluded))
            views[found.link.index] = self._view(found, hosts[excluded])
        if ANY in self._patterns:
            big_tcp = any(link.big_tcp for link in table.links)
            views[ANY_INDEX] = InterfaceView(ANY, LinkAddresses(table).seen_by(None), big_tcp)
        self._without_containers = views

    def refresh_containers(self, now: float) -> bool:
        """Read the containers and their addresses if due at `now`; return whether any changed."""
        return self._containers.is_due(now) and self._containers.refresh(now)

    def report_unknown_endpoint(self, index: int) -> None:
        """Record that packets between unknown endpoints passed the link of `index`."""
        self._containers.request_refresh(index)

    def current(self) -> dict[int, InterfaceView]:
        """Return the view of each interface to capture on, by index."""
        return {
            index: self._with_containers(index, view)
            for index, view in self._without_containers.items()
        }

    def _view(self, found: Selection, host: LinkAddresses) -> InterfaceView:
        link = found.link
        local = host.seen_by(link)
        if found.is_container_port:
            local = msgspec.structs.replace(local, containers_only=True)
        return InterfaceView(
            name=link.name,
            local=local,
            big_tcp=link.big_tcp,
            leads_to_container=self._containers.are_behind(link.index),
            is_container_veth=is_container_veth(link),
        )

    def _with_containers(self, index: int, view: InterfaceView) -> InterfaceView:
        if not view.leads_to_container:
            return view
        known = self._containers.addresses_behind(index)
        local = view.local.with_containers(known, containers_only=view.local.containers_only)
        return msgspec.structs.replace(view, local=local)
