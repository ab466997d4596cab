"""The resolver that recognises translated flows (NAT) by asking conntrack.

In: flows, and the resolutions of another resolver. Out: the same resolutions, except for flows
whose addresses or ports the kernel translates. What may fail: conntrack cannot be asked
(CAP_NET_ADMIN); then the resolutions stay as they are, and the log says so once.

The reason
----------
A host that translates forwards a packet of a container between two of its interfaces. The packet is
captured at both: at the container's veth with the container's address, and at the uplink with an
address of the host, which no socket there matches. The bytes belong to the container's process,
once.

Algorithm
---------
1. The other resolver looks all flows up. A flow with a socket of its own is not translated.
2. For each other flow of this network namespace conntrack is asked for the connection in which
   packets arrive with the flow's remote endpoint as source and its local endpoint as destination.
   The tuple of the other direction shows the endpoints as the process at the socket sees them.
3. If both directions have the same endpoints, nothing is translated.
4. If the true local address is that of a container at an interface that is captured, the flow is
   TRANSLATED: its other copy is recorded there.
5. If the true local address is the flow's own (a redirected port, a service address that the host
   translates for its own processes), the flow has the owner of the true five-tuple.
6. Otherwise (a container whose interface is not captured, another host behind this one) the flow is
   the only copy, and its resolution stays as it is.

If the kernel tracks no connection, nothing is asked.

Known limits: only the network namespace that is captured in is asked, not a container that
translates for others. An ICMP error is not part of a connection that conntrack finds. A flow that
no lookup reached is recorded as if it were not translated. An address counts as captured wherever
it is: if a container at a captured interface and one elsewhere have the same address, and the host
translates for the latter, its flows are TRANSLATED without a second copy.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet

from hogpipe.attribution.resolver import FlowSpans, Resolution, Resolver
from hogpipe.linux import ctnetlink
from hogpipe.linux.ctnetlink_messages import (
    ECHO_REPLY,
    ECHO_REQUEST,
    Connection,
    ConnectionTuple,
)
from hogpipe.model import (
    OWN_NAMESPACE,
    TRANSLATED,
    Attribution,
    FlowKey,
    Quality,
    ResolverCounts,
    Span,
)
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

ReadConnections = Callable[[Sequence[ConnectionTuple]], Sequence[Connection | None]]


def read_tracked(tuples: Sequence[ConnectionTuple]) -> Sequence[Connection | None]:
    """Return the connection of each tuple, without a query if the kernel tracks none."""
    if not ctnetlink.has_connections():
        return [None] * len(tuples)
    return ctnetlink.read_connections(tuples)


class TranslationResolver:
    """A Resolver that asks `resolver`, then conntrack.

    `container_addresses` returns the addresses of containers whose traffic is captured at their own
    interface; it is called in the lookup thread.
    """

    def __init__(
        self,
        resolver: Resolver,
        container_addresses: Callable[[], AbstractSet[bytes]],
        *,
        read_connections: ReadConnections = read_tracked,
    ) -> None:
        self._resolver = resolver
        self._container_addresses = container_addresses
        self._read_connections = read_connections
        self._is_failing = False
        """Whether conntrack could not be asked the last time, which has been logged."""

    def prepare(self) -> None:
        """Let the other resolver read ahead."""
        self._resolver.prepare()

    def describe(self) -> str:
        """Return where owners come from."""
        return self._resolver.describe()

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        """Return the resolutions of the other resolver, corrected for translated flows."""
        found = self._resolver.resolve(flows)
        doubtful = [flow for flow in flows if _may_be_translated(flow, found.get(flow))]
        captured = self._container_addresses()
        translated_here: dict[FlowKey, FlowKey] = {}
        for flow, true_flow in self._find_translated(doubtful):
            if true_flow.local_address in captured:
                found[flow] = Resolution(TRANSLATED, is_final=True)
            elif true_flow.local_address == flow.local_address:
                translated_here[flow] = true_flow
        if translated_here:
            asked = {true_flow: flows[flow] for flow, true_flow in translated_here.items()}
            resolved = self._resolver.resolve(asked)
            found |= {
                flow: resolved[true_flow]
                for flow, true_flow in translated_here.items()
                if true_flow in resolved
            }
        return found

    def recall(self, flow: FlowKey, span: Span | None) -> Attribution | None:
        """Return what the other resolver recorded."""
        return self._resolver.recall(flow, span)

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic of the other resolver."""
        return self._resolver.infer(flow)

    def counts(self) -> ResolverCounts:
        """Return the counters of the other resolver."""
        return self._resolver.counts()

    def close(self) -> None:
        """Close the other resolver."""
        self._resolver.close()

    def _find_translated(self, flows: Collection[FlowKey]) -> Iterator[tuple[FlowKey, FlowKey]]:
        """Yield translated flows, each with the flow as the process at its local end sees it."""
        asked = [(flow, one) for flow in flows for one in arriving_tuples(flow)]
        if not asked:
            return
        try:
            connections = self._read_connections([one for _flow, one in asked])
        except OSError as error:
            self._log_failure(error)
            return
        self._is_failing = False
        for (flow, one), connection in zip(asked, connections, strict=True):
            true_flow = None if connection is None else find_true_flow(flow, one, connection)
            if true_flow is not None:
                yield flow, true_flow

    def _log_failure(self, error: OSError) -> None:
        if not self._is_failing:
            log.warning(
                "conntrack cannot be asked (CAP_NET_ADMIN is needed): %s; traffic that this host "
                "translates (NAT) is recorded a second time, without an owner",
                describe_error(error),
            )
        self._is_failing = True


def _may_be_translated(flow: FlowKey, resolution: Resolution | None) -> bool:
    """Return whether a flow of this namespace has no socket of its own, as far as known."""
    if flow.namespace != OWN_NAMESPACE:
        return False
    if resolution is None:
        return True
    is_exact = resolution.attribution.quality is Quality.EXACT
    return not is_exact and resolution.owners_by_span is None


def arriving_tuples(flow: FlowKey) -> list[ConnectionTuple]:
    """Return the tuples that packets from the remote end of a flow may have as they arrive."""
    source = flow.remote_address, flow.remote_port
    arriving = ConnectionTuple(flow.protocol, *source, flow.local_address, flow.local_port)
    if flow.protocol not in ECHO_REPLY:
        return [arriving]
    types = ECHO_REPLY[flow.protocol], ECHO_REQUEST[flow.protocol]
    return [arriving._replace(icmp_type=icmp_type) for icmp_type in types]


def find_true_flow(
    flow: FlowKey, arriving: ConnectionTuple, connection: Connection
) -> FlowKey | None:
    """Return `flow` with the endpoints that its local process sees; None if they are the same.

    `arriving` is one tuple of `connection`. The other one is that of packets as the process sends
    them, before any translation.
    """
    is_original = arriving == connection.original
    sent = connection.reply if is_original else connection.original
    true_flow = FlowKey(
        flow.protocol,
        sent.source,
        sent.source_port,
        sent.destination,
        sent.destination_port,
        flow.interface,
        flow.namespace,
    )
    return None if true_flow == flow else true_flow
