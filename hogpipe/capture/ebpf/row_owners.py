"""What is known of the sockets that the kernel counted at: owners, namespaces, former sockets."""

import time
from collections.abc import Callable

from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.process_owners import Owners
from hogpipe.linux.bpf.traffic_rows import Endpoints, RowOwner, TrafficRow
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.model import (
    OWN_NAMESPACE,
    SERVICE_MANAGER,
    UNKNOWN_FLOW,
    Attribution,
    FlowKey,
    Quality,
)


class RowOwners:
    """See sorting.Knowledge. What is looked up is noted in `noted`. For one thread at a time."""

    def __init__(
        self,
        owners: Owners,
        noted: FlowSockets,
        namespaces: NetworkNamespaces,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owners = owners
        self._noted = noted
        self._namespaces = namespaces
        self._clock = clock

    def name_flow(self, ends: Endpoints, holder: RowOwner) -> FlowKey:
        """Return the flow of a socket; in which other namespace it is makes no difference."""
        if not ends.local_address:
            return UNKNOWN_FLOW
        return _flow(
            ends, OWN_NAMESPACE if holder.namespace == self._namespaces.own_cookie else None
        )

    def attribute(self, holder: RowOwner, quality: Quality) -> Attribution:
        """Return the owner that is noted."""
        return self._owners.attribute(holder, quality)

    def started_ns(self, pid: int) -> int | None:
        """Return when the process that has a pid now was started; None where there is none."""
        return self._owners.started_ns(pid)

    def ask_for(self, entry: TrafficRow) -> tuple[FlowKey, bool]:
        """Return the flow of an entry that is looked up; whether it was another socket's before.

        A socket of which nothing tells the namespace is taken for one of our own.
        """
        if not entry.endpoints.local_address:
            return UNKNOWN_FLOW, False
        holder = entry.owner
        space = holder.namespace or self._noted.namespace_of(entry.cookie)
        inode = self._namespaces.find_inode(space, self._clock()) if space else OWN_NAMESPACE
        flow = _flow(entry.endpoints, inode)
        owner = None
        if holder.pid and holder.command != SERVICE_MANAGER:
            owner = self._owners.name(holder)
        quality = Quality.LISTENER if holder.by_listener else Quality.EXACT
        return flow, self._noted.note(flow, entry.cookie, space, owner, quality)


def _flow(ends: Endpoints, namespace: int | None) -> FlowKey:
    return FlowKey(
        ends.protocol,
        ends.local_address,
        ends.local_port,
        ends.remote_address,
        ends.remote_port,
        "",
        namespace,
    )
