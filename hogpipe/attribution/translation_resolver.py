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
6. Otherwise the flow is the only copy. If exactly one namespace of this machine has the true local
   address (a container whose interface is not captured, one inside another container) and a socket
   of exactly the true flow, the flow has that socket's owner. If not (another host behind this one,
   a socket that is closed), its resolution stays as it is, and that of a flow that this namespace
   translates where links are followed.
7. No part of the kernel here, and no packet socket, sends what is translated for another host or
   namespace: what packet sockets send passes no translation. The rules that infer such senders from
   a missing socket do not apply.

Known limits: an ICMP error is not part of a connection that conntrack finds. A flow that no lookup
reached is recorded as if it were not translated. A flow is not asked about if several namespaces
have its local address. If a container at a captured interface and one elsewhere have the same
address, and the host translates for the latter, its flows are TRANSLATED without a second copy.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

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
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Quality,
    ResolverCounts,
)

_PLACES = 1 << 15  # of flows that were looked up
_LOOPBACK6 = bytes(15) + b"\1"
_COPY = Resolution(TRANSLATED, is_final=True)


class ConnectionFinder(Protocol):
    """Finds tracked connections; see `TrackedConnections`."""

    def find(
        self, tuples: Mapping[int, Sequence[ConnectionTuple]]
    ) -> Mapping[int, Sequence[Connection | None]]:
        """Return the connections of tuples by namespace, without those left to the next lookup."""


class TranslationResolver:
    """A Resolver that asks `resolver`, then conntrack.

    Two functions return the namespaces that have an address, and are called in the lookup thread:
    `captured_with`, of the one that is captured in and those whose traffic is captured at an
    interface that leads to them; `any_with`, of all others that have a process. Without
    `leaves_out_copies` no flow is TRANSLATED.

    `follows_links` means that the interface of a new container will be captured soon after its
    first packets. Then the copy of one that this namespace translates is not taken for the only
    one: it would count a second time for the process as long as its owner is cached.
    """

    def __init__(
        self,
        resolver: Resolver,
        connections: ConnectionFinder,
        captured_with: Callable[[bytes], Sequence[int]],
        any_with: Callable[[bytes], Sequence[int]],
        *,
        leaves_out_copies: bool = True,
        follows_links: bool = False,
    ) -> None:
        self._resolver = resolver
        self._connections = connections
        self._captured_with = captured_with
        self._any_with = any_with
        self._leaves_out_copies = leaves_out_copies
        self._follows_links = follows_links
        self._looked_up = _RecentFlows()
        self._translated = _RecentFlows()

    def prepare(self) -> None:
        """Let the other resolver read ahead."""
        self._resolver.prepare()

    def describe(self) -> str:
        """Return where owners come from."""
        return self._resolver.describe()

    def describe_reading(self) -> str:
        """Return what the other resolver reads."""
        return self._resolver.describe_reading()

    @property
    def has_history(self) -> bool:
        """Whether the other resolver records owners."""
        return self._resolver.has_history

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

    def recall(self, flows: FlowsInSpans) -> Sequence[Resolution | None]:
        """Return what the other resolver recorded."""
        return self._resolver.recall(flows)

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic of the other resolver."""
        return self._resolver.infer(flow)

    def infer_sender(self, flow: FlowKey, moved: FlowDelta) -> Attribution:
        """Return what the other resolver infers; no sender of a flow that is translated."""
        if flow.namespace is not None and self._translated.has(flow, (flow.namespace,)):
            return UNATTRIBUTED
        return self._resolver.infer_sender(flow, moved)

    def counts(self) -> ResolverCounts:
        """Return the counters of the other resolver."""
        return self._resolver.counts()

    def close(self) -> None:
        """Close the other resolver."""
        self._resolver.close()

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

    def _correct(
        self,
        found: dict[FlowKey, Resolution],
        translated: Iterable[tuple[FlowKey, FlowKey]],
        flows: FlowSpans,
    ) -> None:
        """Correct what was found of translated flows, each of which comes with its true flow."""
        candidates: list[_Candidate] = []
        for flow, true_flow in translated:
            self._translated.add((flow,))
            namespaces = self._find_captured(true_flow)
            if _names_kernel(found.get(flow)) and not _is_own(flow, true_flow, namespaces):
                found[flow] = Resolution(UNATTRIBUTED)
            if self._is_copy(flow, true_flow, namespaces):
                found[flow] = _COPY
            else:
                candidates += self._list_candidates(flow, true_flow, namespaces)
        if candidates:
            asked = {one.true_flow: flows[one.flow] for one in candidates}
            resolved = self._resolver.resolve(asked)
            for one in candidates:
                one.decide(found, resolved.get(one.true_flow))

    def _is_copy(self, flow: FlowKey, true_flow: FlowKey, namespaces: Sequence[int]) -> bool:
        """Return whether a flow is known to be a copy of its true flow without a lookup of that."""
        if not namespaces or not self._leaves_out_copies or _is_own(flow, true_flow, namespaces):
            return False
        return flow.namespace == OWN_NAMESPACE or self._looked_up.has(true_flow, namespaces)

    def _list_candidates(
        self, flow: FlowKey, true_flow: FlowKey, namespaces: Sequence[int]
    ) -> Iterator["_Candidate"]:
        """Yield the flows to look up for one that is not known to be a copy."""
        if _is_own(flow, true_flow, namespaces):
            yield _Candidate(_Role.OWN, flow, true_flow)
            return
        if namespaces and not self._leaves_out_copies:
            return
        if namespaces:
            yield _Candidate(_Role.COPIED, flow, replace(true_flow, namespace=namespaces[0]))
        if flow.namespace == OWN_NAMESPACE and self._follows_links:
            return
        others = {*self._any_with(true_flow.local_address)} - {*namespaces, flow.namespace}
        if len(others) == 1:
            yield _Candidate(_Role.SOURCE, flow, replace(true_flow, namespace=others.pop()))

    def _find_captured(self, true_flow: FlowKey) -> Sequence[int]:
        """Return the namespaces, of those that are captured, that have the true local address."""
        if true_flow.namespace is not None and _is_loopback(true_flow.local_address):
            return (true_flow.namespace,)
        return self._captured_with(true_flow.local_address)


class _Role(Enum):
    """What a candidate is to its translated flow if it has a socket."""

    OWN = 1
    """The same, as the processes of the flow's namespace see it."""
    COPIED = 2
    """The flow that is recorded elsewhere."""
    SOURCE = 3
    """The flow that is recorded nowhere else."""


class _Candidate(NamedTuple):
    """A flow that may be the true flow of a translated one."""

    role: _Role
    flow: FlowKey
    true_flow: FlowKey

    def decide(self, found: dict[FlowKey, Resolution], resolution: Resolution | None) -> None:
        """Correct what was found of the flow by the resolution of the candidate.

        Without a resolution the candidate is left to the next lookup, and so is the flow; also if
        the candidate's socket exists and its holder is not known yet.
        """
        if found.get(self.flow) is _COPY:
            return
        if self.role is _Role.OWN and resolution is not None:
            found[self.flow] = resolution
        elif resolution is not None and _has_socket(resolution):
            found[self.flow] = _COPY if self.role is _Role.COPIED else resolution
        elif self.role is _Role.COPIED or resolution is None or resolution.attribution.user:
            found.pop(self.flow, None)


def _is_own(flow: FlowKey, true_flow: FlowKey, namespaces: Sequence[int]) -> bool:
    """Return whether the process at the local end of a flow is in the flow's own namespace."""
    return flow.namespace in namespaces or true_flow.local_address == flow.local_address


class _RecentFlows:
    """The flows that were looked up last, whatever interface they passed.

    Each has its hash in a table of `_PLACES`, until another flow comes in its place: no objects
    stay for the flows of a flood (linux/memory.py).
    """

    def __init__(self) -> None:
        self._hashes = array("q", bytes(8 * _PLACES))

    def add(self, flows: Iterable[FlowKey]) -> None:
        """Add flows."""
        for flow in flows:
            digest = _hash_in(flow, flow.namespace)
            self._hashes[digest % _PLACES] = digest

    def has(self, flow: FlowKey, namespaces: Iterable[int]) -> bool:
        """Return whether a flow was looked up in one of these namespaces."""
        digests = [_hash_in(flow, one) for one in namespaces]
        return any(self._hashes[one % _PLACES] == one for one in digests)


def _hash_in(flow: FlowKey, namespace: int | None) -> int:
    """Return a hash of a flow in a network namespace, whatever interface it passes."""
    remote = flow.remote_address, flow.remote_port
    return hash((flow.protocol, flow.local_address, flow.local_port, *remote, namespace))


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


def _names_kernel(resolution: Resolution | None) -> bool:
    return resolution is not None and resolution.attribution.kernel is not None


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
