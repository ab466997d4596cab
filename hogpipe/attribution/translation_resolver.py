"""The resolver that recognises translated flows (NAT) by asking conntrack.

In: flows, and the resolutions of another resolver. Out: the same resolutions, except for flows
whose addresses or ports the kernel translates. What may fail: conntrack cannot be asked; then the
resolutions stay as they are (`tracked_connections`).

The reason
----------
A host that translates forwards a packet of a container between two of its interfaces. The packet is
captured at both: at the container's veth with the container's address, and at the uplink with an
address of the host, which no socket there matches. The bytes belong to the container's process,
once. The same holds for a container that translates for others (a router, a VPN): the second copy
has an address of that container.

Algorithm
---------
1. The other resolver looks all flows up. A flow with a socket of its own is not translated.
2. For each other flow conntrack is asked, in the network namespace of the flow, for the connection
   in which packets arrive with the flow's remote endpoint as source and its local endpoint as
   destination. The tuple of the other direction shows the endpoints as the process at the socket
   sees them: the true flow.
3. If both directions have the same endpoints, nothing is translated.
4. If the true local address is one of the flow's own namespace (a redirected port, a service
   address that the namespace translates for its own processes), the flow has the owner of the true
   flow.
5. If it is that of another namespace at an interface that is captured, the flow is TRANSLATED: its
   other copy is recorded there. A container may translate for a network of its own, with addresses
   that other containers have too. So a flow of a container is TRANSLATED only if the true flow is
   known to exist at the captured interface: it was looked up before, or has a socket now. Otherwise
   it is looked up again, as the other copy may not have reached attribution yet.
6. Otherwise (a container whose interface is not captured, another host behind this one) the flow is
   the only copy, and its resolution stays as it is.

Known limits: an ICMP error is not part of a connection that conntrack finds. A flow that no lookup
reached is recorded as if it were not translated. A flow is not asked about if several namespaces
have its local address. If a container at a captured interface and one elsewhere have the same
address, and the host translates for the latter, its flows are TRANSLATED without a second copy.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from hogpipe.attribution.resolver import FlowsInSpans, FlowSpans, Resolution, Resolver
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
)

_MAX_RECENT = 1 << 14  # flows, in each of two generations
_LOOPBACK6 = bytes(15) + b"\1"


class ConnectionFinder(Protocol):
    """Finds tracked connections; see `TrackedConnections`."""

    def find(
        self, tuples: Mapping[int, Sequence[ConnectionTuple]]
    ) -> Mapping[int, Sequence[Connection | None]]:
        """Return the connections of tuples by namespace, without those left to the next lookup."""


class TranslationResolver:
    """A Resolver that asks `resolver`, then conntrack.

    `namespaces_of` returns the namespaces that have an address: the one that is captured in, and
    those whose traffic is captured at an interface that leads to them. It is called in the lookup
    thread. Without `leaves_out_copies` no flow is TRANSLATED.
    """

    def __init__(
        self,
        resolver: Resolver,
        connections: ConnectionFinder,
        namespaces_of: Callable[[bytes], Sequence[int]],
        *,
        leaves_out_copies: bool = True,
    ) -> None:
        self._resolver = resolver
        self._connections = connections
        self._namespaces_of = namespaces_of
        self._leaves_out_copies = leaves_out_copies
        self._looked_up = _RecentFlows()

    def prepare(self) -> None:
        """Let the other resolver read ahead."""
        self._resolver.prepare()

    def describe(self) -> str:
        """Return where owners come from."""
        return self._resolver.describe()

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        """Return the resolutions of the other resolver, corrected for translated flows.

        A flow whose namespace is left to the next lookup is absent.
        """
        found = self._resolver.resolve(flows)
        self._looked_up.add(flows)
        doubtful = [flow for flow in flows if _may_be_translated(flow, found.get(flow))]
        if not doubtful:
            return found
        self._correct(found, list(self._find_translated(doubtful, found)), flows)
        return found

    def recall(self, flows: FlowsInSpans) -> Sequence[Attribution | None]:
        """Return what the other resolver recorded."""
        return self._resolver.recall(flows)

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic of the other resolver."""
        return self._resolver.infer(flow)

    def counts(self) -> ResolverCounts:
        """Return the counters of the other resolver."""
        return self._resolver.counts()

    def close(self) -> None:
        """Close the other resolver."""
        self._resolver.close()

    def _correct(
        self,
        found: dict[FlowKey, Resolution],
        translated: Sequence[tuple[FlowKey, FlowKey]],
        flows: FlowSpans,
    ) -> None:
        """Correct what was found of translated flows, each of which comes with its true flow."""
        of_own: dict[FlowKey, FlowKey] = {}
        unseen: dict[FlowKey, FlowKey] = {}
        for flow, true_flow in translated:
            namespaces = _namespaces_of(true_flow, self._namespaces_of)
            if flow.namespace in namespaces or true_flow.local_address == flow.local_address:
                of_own[flow] = true_flow
            elif not namespaces or not self._leaves_out_copies:
                continue
            elif flow.namespace == OWN_NAMESPACE or self._looked_up.has(true_flow, namespaces):
                found[flow] = Resolution(TRANSLATED, is_final=True)
            else:
                unseen[flow] = replace(true_flow, namespace=namespaces[0])
        if not (of_own or unseen):
            return
        asked = {true_flow: flows[flow] for flow, true_flow in (of_own | unseen).items()}
        resolved = self._resolver.resolve(asked)
        for flow, true_flow in of_own.items():
            if true_flow in resolved:
                found[flow] = resolved[true_flow]
        for flow, true_flow in unseen.items():
            if _has_socket(resolved.get(true_flow)):
                found[flow] = Resolution(TRANSLATED, is_final=True)
            else:
                found.pop(flow, None)

    def _find_translated(
        self, flows: Iterable[FlowKey], found: dict[FlowKey, Resolution]
    ) -> Iterator[tuple[FlowKey, FlowKey]]:
        """Yield translated flows, each with its true flow.

        The resolution of a flow that is left to the next lookup is removed from `found`.
        """
        asked: dict[int, list[tuple[FlowKey, ConnectionTuple]]] = {}
        for flow in flows:
            if flow.namespace is not None:
                each = asked.setdefault(flow.namespace, [])
                each += [(flow, one) for one in arriving_tuples(flow)]
        tuples = {namespace: [one for _flow, one in pairs] for namespace, pairs in asked.items()}
        connections = self._connections.find(tuples)
        for namespace, pairs in asked.items():
            if namespace not in connections:
                for flow, _tuple in pairs:
                    found.pop(flow, None)
                continue
            for (flow, one), connection in zip(pairs, connections[namespace], strict=True):
                true_flow = None if connection is None else find_true_flow(flow, one, connection)
                if true_flow is not None:
                    yield flow, true_flow


class _RecentFlows:
    """The flows that were looked up last, whatever interface they passed, in two generations."""

    def __init__(self) -> None:
        self._new: set[FlowKey] = set()
        self._old: set[FlowKey] = set()

    def add(self, flows: Iterable[FlowKey]) -> None:
        """Add flows; those that were added longest ago are evicted."""
        self._new.update(replace(flow, interface="") for flow in flows)
        if len(self._new) > _MAX_RECENT:
            self._old, self._new = self._new, set()

    def has(self, flow: FlowKey, namespaces: Iterable[int]) -> bool:
        """Return whether a flow was looked up in one of these namespaces."""
        keys = {replace(flow, interface="", namespace=one) for one in namespaces}
        return not keys.isdisjoint(self._new) or not keys.isdisjoint(self._old)


def _namespaces_of(flow: FlowKey, namespaces_of: Callable[[bytes], Sequence[int]]) -> Sequence[int]:
    """Return the namespaces that have the local address of a true flow."""
    if flow.namespace is not None and _is_loopback(flow.local_address):
        return (flow.namespace,)
    return namespaces_of(flow.local_address)


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK6


def _may_be_translated(flow: FlowKey, resolution: Resolution | None) -> bool:
    """Return whether a flow has no socket of its own, as far as known."""
    return flow.namespace is not None and not _has_socket(resolution)


def _has_socket(resolution: Resolution | None) -> bool:
    """Return whether the socket of a flow itself was found, or several one after the other."""
    if resolution is None:
        return False
    is_exact = resolution.attribution.quality is Quality.EXACT
    return is_exact or resolution.owners_by_span is not None


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
