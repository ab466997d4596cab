"""Translated flows, with a scripted resolver and a scripted conntrack."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
from msgspec.structs import replace
from support.traffic import NGINX, exact

from hogpipe.attribution.resolver import FlowsInSpans, FlowSpans, Resolution
from hogpipe.attribution.translation_resolver import TranslationResolver
from hogpipe.linux.ctnetlink_messages import ECHO_REPLY, Connection, ConnectionTuple
from hogpipe.model import (
    OWN_NAMESPACE,
    TRANSLATED,
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Quality,
    ResolverCounts,
    User,
)

TCP, UDP, ICMP = 6, 17, 1
CONTAINER, HOST, OUTSIDE = bytes([10, 88, 0, 2]), bytes([10, 89, 0, 1]), bytes([10, 89, 0, 2])
LAN = bytes([192, 168, 0, 9])


def flow_at(port: int, remote_port: int = 443, *, protocol: int = TCP) -> FlowKey:
    return FlowKey(protocol, HOST, port, OUTSIDE, remote_port, "uplink0")


FLOW = flow_at(61000)
LISTENER = Attribution(Quality.LISTENER, NGINX)
INFERRED = Attribution(Quality.INFERRED, NGINX)


class ScriptedResolver:
    """Answers from `answers`; others are absent."""

    def __init__(self, answers: Mapping[FlowKey, Resolution]) -> None:
        self.answers = answers

    def prepare(self) -> None:
        pass

    def describe(self) -> str:
        return "owners come from the script"

    def describe_reading(self) -> str:
        return "/proc/1/stat"

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        return {flow: self.answers[flow] for flow in flows if flow in self.answers}

    def recall(self, flows: FlowsInSpans) -> list[Resolution | None]:
        return [Resolution(exact(NGINX)) for _ in flows]

    @property
    def has_history(self) -> bool:
        return False

    def infer(self, _flow: FlowKey) -> Attribution:
        return INFERRED

    def infer_sender(self, _flow: FlowKey, _moved: FlowDelta) -> Attribution:
        return INFERRED

    def counts(self) -> ResolverCounts:
        return ResolverCounts(table_reads=7)

    def close(self) -> None:
        pass


class ScriptedConntrack:
    """The connections that the kernel tracks in each namespace of `asked_in`."""

    def __init__(
        self, *connections: Connection, asked_in: Sequence[int] = (OWN_NAMESPACE,)
    ) -> None:
        self.by_tuple = {one: connection for connection in connections for one in connection}
        self.asked_in = asked_in
        self.asked: list[ConnectionTuple] = []

    def find(
        self, tuples: Mapping[int, Sequence[ConnectionTuple]]
    ) -> dict[int, list[Connection | None]]:
        self.asked += [one for each in tuples.values() for one in each]
        return {
            namespace: [self.by_tuple.get(one) for one in each]
            for namespace, each in tuples.items()
            if namespace in self.asked_in
        }


def masqueraded(flow: FlowKey, source: bytes, port: int) -> Connection:
    """Return a connection from behind the host that has `flow` at the uplink."""
    return Connection(
        ConnectionTuple(flow.protocol, source, port, flow.remote_address, flow.remote_port),
        ConnectionTuple(
            *(flow.protocol, flow.remote_address, flow.remote_port),
            *(flow.local_address, flow.local_port),
        ),
    )


def published(flow: FlowKey, target: bytes, port: int) -> Connection:
    """Return a connection from outside to a port of the host that leads to `target`."""
    return Connection(
        ConnectionTuple(
            *(flow.protocol, flow.remote_address, flow.remote_port),
            *(flow.local_address, flow.local_port),
        ),
        ConnectionTuple(flow.protocol, target, port, flow.remote_address, flow.remote_port),
    )


CONTAINER_NAMESPACE, ROUTER_NAMESPACE = 4026532001, 4026532002


ROUTER = bytes([10, 88, 0, 3])
NAMESPACES: Mapping[bytes, tuple[int, ...]] = {
    HOST: (OWN_NAMESPACE,),
    CONTAINER: (CONTAINER_NAMESPACE,),
    ROUTER: (ROUTER_NAMESPACE,),
}


def make_resolver(
    conntrack: ScriptedConntrack,
    answers: Mapping[FlowKey, Resolution],
    *,
    namespaces: Mapping[bytes, tuple[int, ...]] = NAMESPACES,
    leaves_out_copies: bool = True,
    others: Mapping[bytes, tuple[int, ...]] = MappingProxyType({}),
    follows_links: bool = False,
) -> TranslationResolver:
    return TranslationResolver(
        ScriptedResolver(answers),
        conntrack,
        lambda address: namespaces.get(address, ()),
        lambda address: others.get(address, ()),
        leaves_out_copies=leaves_out_copies,
        follows_links=follows_links,
    )


def resolve(
    conntrack: ScriptedConntrack,
    answers: Mapping[FlowKey, Resolution],
    *flows: FlowKey,
    namespaces: Mapping[bytes, tuple[int, ...]] = NAMESPACES,
    leaves_out_copies: bool = True,
) -> dict[FlowKey, Resolution]:
    resolver = make_resolver(
        conntrack, answers, namespaces=namespaces, leaves_out_copies=leaves_out_copies
    )
    return resolver.resolve(dict.fromkeys(flows, ()))


@pytest.mark.parametrize("translate", [masqueraded, published])
@pytest.mark.parametrize(
    "known",
    [
        pytest.param({}, id="no resolution"),
        pytest.param({FLOW: Resolution(UNATTRIBUTED)}, id="no socket"),
        pytest.param({FLOW: Resolution(LISTENER, is_final=True)}, id="a proxy listens"),
        pytest.param({FLOW: Resolution(INFERRED, is_final=True)}, id="inferred"),
    ],
)
def test_a_flow_of_a_captured_container_is_translated(
    translate: type[Connection], known: dict[FlowKey, Resolution]
) -> None:
    conntrack = ScriptedConntrack(translate(FLOW, CONTAINER, 5000))
    assert resolve(conntrack, known, FLOW) == {FLOW: Resolution(TRANSLATED, is_final=True)}


def test_a_flow_with_a_socket_of_its_own_is_not_asked_about() -> None:
    known = {FLOW: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(masqueraded(FLOW, CONTAINER, 5000))
    assert resolve(conntrack, known, FLOW) == known
    assert conntrack.asked == []


def test_a_contested_flow_belongs_to_processes_here() -> None:
    known = {FLOW: Resolution(UNATTRIBUTED, owners_by_span=(exact(NGINX),))}
    assert resolve(ScriptedConntrack(), known, FLOW) == known


def test_a_flow_whose_namespace_is_not_known_is_not_asked_about() -> None:
    anywhere = replace(FLOW, namespace=None)
    conntrack = ScriptedConntrack(masqueraded(FLOW, CONTAINER, 5000))
    known = {anywhere: Resolution(UNATTRIBUTED)}
    assert resolve(conntrack, known, anywhere) == known
    assert conntrack.asked == []


def test_flows_of_a_namespace_that_is_left_to_the_next_lookup_are_absent() -> None:
    known = {FLOW: Resolution(UNATTRIBUTED)}
    conntrack = ScriptedConntrack(masqueraded(FLOW, CONTAINER, 5000), asked_in=())
    assert resolve(conntrack, known, FLOW) == {}


def test_a_tracked_flow_without_translation_stays_as_it_is() -> None:
    known = {FLOW: Resolution(UNATTRIBUTED, is_final=True)}
    assert resolve(ScriptedConntrack(masqueraded(FLOW, HOST, 61000)), known, FLOW) == known


def test_no_packet_socket_sends_what_is_translated() -> None:
    behind, here = flow_at(61000, protocol=UDP), flow_at(61001, protocol=UDP)
    known = {flow: Resolution(UNATTRIBUTED) for flow in (behind, here)}
    conntrack = ScriptedConntrack(masqueraded(behind, LAN, 5000), masqueraded(here, HOST, 61001))
    resolver = make_resolver(conntrack, known, namespaces={HOST: NAMESPACES[HOST]})
    assert resolver.resolve(dict.fromkeys(known, ())) == known
    moved = FlowDelta(transmit_packets=2)
    assert resolver.infer_sender(behind, moved) == UNATTRIBUTED
    assert resolver.infer_sender(here, moved) == INFERRED


def test_what_is_translated_for_another_host_is_not_the_kernels() -> None:
    vxlan = Resolution(Attribution(Quality.INFERRED, kernel="vxlan"), is_final=True)
    flow = flow_at(61000, 4789, protocol=UDP)
    only_own = {HOST: NAMESPACES[HOST]}
    behind = ScriptedConntrack(masqueraded(flow, LAN, 5000))
    found = resolve(behind, {flow: vxlan}, flow, namespaces=only_own)
    assert found == {flow: Resolution(UNATTRIBUTED)}
    port_only = ScriptedConntrack(masqueraded(flow, HOST, 5000))
    known = {flow: vxlan, flow_at(5000, 4789, protocol=UDP): vxlan}
    assert resolve(port_only, known, flow, namespaces=only_own) == {flow: vxlan}


@pytest.mark.parametrize("source", [CONTAINER, LAN])
def test_the_only_copy_of_a_translated_flow_stays_as_it_is(source: bytes) -> None:
    known = {FLOW: Resolution(UNATTRIBUTED)}
    conntrack = ScriptedConntrack(masqueraded(FLOW, source, 5000))
    only_own = {HOST: NAMESPACES[HOST]}
    assert resolve(conntrack, known, FLOW, namespaces=only_own) == known


def test_where_copies_are_not_left_out_a_flow_of_a_captured_container_stays_as_it_is() -> None:
    known = {FLOW: Resolution(UNATTRIBUTED)}
    conntrack = ScriptedConntrack(masqueraded(FLOW, CONTAINER, 5000))
    assert resolve(conntrack, known, FLOW, leaves_out_copies=False) == known


ROUTED = FlowKey(TCP, ROUTER, 61000, OUTSIDE, 443, "port1", ROUTER_NAMESPACE)
TRUE = FlowKey(TCP, CONTAINER, 5000, OUTSIDE, 443, "port1", CONTAINER_NAMESPACE)


def routing() -> ScriptedConntrack:
    """Return the conntrack of a router that translates for the container."""
    tracked = masqueraded(ROUTED, CONTAINER, 5000)
    return ScriptedConntrack(tracked, asked_in=(OWN_NAMESPACE, ROUTER_NAMESPACE))


@pytest.mark.parametrize("is_earlier", [True, False])
def test_a_flow_that_a_container_translates_is_a_copy_of_one_that_was_looked_up(
    is_earlier: bool,
) -> None:
    at_veth = replace(TRUE, interface="port0")
    known = {at_veth: Resolution(UNATTRIBUTED), ROUTED: Resolution(UNATTRIBUTED)}
    resolver = make_resolver(routing(), known)
    if is_earlier:
        resolver.resolve({at_veth: ()})
        assert resolver.resolve({ROUTED: ()}) == {ROUTED: Resolution(TRANSLATED, is_final=True)}
    else:
        found = resolver.resolve({ROUTED: (), at_veth: ()})
        assert found[ROUTED] == Resolution(TRANSLATED, is_final=True)


def test_a_flow_that_a_container_translates_is_a_copy_of_one_that_has_a_socket() -> None:
    known = {TRUE: Resolution(exact(NGINX)), ROUTED: Resolution(UNATTRIBUTED)}
    assert resolve(routing(), known, ROUTED) == {ROUTED: Resolution(TRANSLATED, is_final=True)}


def test_a_container_translates_for_a_network_of_its_own_with_an_address_of_another_container() -> (
    None
):
    known = {TRUE: Resolution(UNATTRIBUTED), ROUTED: Resolution(UNATTRIBUTED)}
    assert resolve(routing(), known, ROUTED) == {}


INNER_NAMESPACE, OTHER_NAMESPACE = 4026532003, 4026532004
INNER = replace(TRUE, namespace=INNER_NAMESPACE)


@pytest.mark.parametrize("namespaces", [{}, NAMESPACES], ids=["unknown", "of another container"])
@pytest.mark.parametrize("flow", [ROUTED, FLOW])
def test_the_only_copy_of_a_translated_flow_has_the_owner_of_its_socket_in_any_namespace(
    flow: FlowKey, namespaces: Mapping[bytes, tuple[int, ...]]
) -> None:
    if flow is FLOW:
        namespaces = {}
    inner = replace(INNER, interface=flow.interface)
    known = {flow: Resolution(UNATTRIBUTED), inner: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(
        masqueraded(flow, CONTAINER, 5000), asked_in=(OWN_NAMESPACE, ROUTER_NAMESPACE)
    )
    others = {CONTAINER: (*namespaces.get(CONTAINER, ()), INNER_NAMESPACE)}
    resolver = make_resolver(conntrack, known, namespaces=namespaces, others=others)
    assert resolver.resolve({flow: ()}) == {flow: Resolution(exact(NGINX))}


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({}, id="left to the next lookup"),
        pytest.param(
            {INNER: Resolution(Attribution(Quality.NONE, user=User(0, "root")))},
            id="a holder that is not known yet",
        ),
    ],
)
def test_the_only_copy_of_a_translated_flow_is_looked_up_again_while_its_socket_may_have_an_owner(
    answers: Mapping[FlowKey, Resolution],
) -> None:
    known = {ROUTED: Resolution(UNATTRIBUTED), **answers}
    others = {CONTAINER: (INNER_NAMESPACE,)}
    assert make_resolver(routing(), known, namespaces={}, others=others).resolve({ROUTED: ()}) == {}


@pytest.mark.parametrize(
    ("others", "resolution"),
    [
        pytest.param((INNER_NAMESPACE,), Resolution(LISTENER), id="no socket of its own"),
        pytest.param((INNER_NAMESPACE,), Resolution(UNATTRIBUTED), id="no socket"),
        pytest.param(
            (INNER_NAMESPACE, OTHER_NAMESPACE), Resolution(exact(NGINX)), id="two namespaces"
        ),
    ],
)
def test_the_only_copy_of_a_translated_flow_stays_as_it_is_unless_one_socket_matches(
    others: tuple[int, ...], resolution: Resolution
) -> None:
    known = {ROUTED: Resolution(UNATTRIBUTED), INNER: resolution}
    resolver = make_resolver(routing(), known, namespaces={}, others={CONTAINER: others})
    assert resolver.resolve({ROUTED: ()}) == {ROUTED: Resolution(UNATTRIBUTED)}


@pytest.mark.parametrize(("flow", "quality"), [(FLOW, Quality.NONE), (ROUTED, Quality.EXACT)])
def test_where_links_are_followed_only_what_a_container_translates_is_taken_for_the_only_copy(
    flow: FlowKey, quality: Quality
) -> None:
    inner = replace(INNER, interface=flow.interface)
    known = {flow: Resolution(UNATTRIBUTED), inner: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(
        masqueraded(flow, CONTAINER, 5000), asked_in=(OWN_NAMESPACE, ROUTER_NAMESPACE)
    )
    others = {CONTAINER: (INNER_NAMESPACE,)}
    resolver = make_resolver(conntrack, known, namespaces={}, others=others, follows_links=True)
    assert resolver.resolve({flow: ()})[flow].attribution.quality is quality


def test_a_redirected_flow_of_a_container_has_the_owner_of_the_port_behind() -> None:
    behind = replace(ROUTED, local_port=8080)
    known = {ROUTED: Resolution(LISTENER), behind: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(published(ROUTED, ROUTER, 8080), asked_in=(ROUTER_NAMESPACE,))
    assert resolve(conntrack, known, ROUTED) == {ROUTED: Resolution(exact(NGINX))}


@pytest.mark.parametrize("source", [bytes([127, 0, 0, 1]), ROUTER])
def test_a_flow_with_another_address_of_its_namespace_has_the_owner_of_the_true_flow(
    source: bytes,
) -> None:
    flow = replace(ROUTED, local_address=bytes([10, 90, 0, 3]))
    true_flow = replace(flow, local_address=source, local_port=5000)
    known = {flow: Resolution(UNATTRIBUTED), true_flow: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(masqueraded(flow, source, 5000), asked_in=(ROUTER_NAMESPACE,))
    assert resolve(conntrack, known, flow) == {flow: Resolution(exact(NGINX))}


def test_a_redirected_flow_has_the_owner_of_the_port_behind() -> None:
    behind = flow_at(8080)
    known = {FLOW: Resolution(LISTENER), behind: Resolution(exact(NGINX))}
    conntrack = ScriptedConntrack(published(FLOW, HOST, 8080))
    assert resolve(conntrack, known, FLOW) == {FLOW: Resolution(exact(NGINX))}


def test_a_process_of_this_host_that_uses_a_service_address_is_found_by_it() -> None:
    service = bytes([10, 96, 0, 1])
    as_seen = FlowKey(TCP, HOST, 61000, service, 80, "uplink0")
    connection = Connection(
        ConnectionTuple(TCP, HOST, 61000, service, 80),
        ConnectionTuple(TCP, OUTSIDE, 443, HOST, 61000),
    )
    known = {FLOW: Resolution(UNATTRIBUTED), as_seen: Resolution(exact(NGINX))}
    assert resolve(ScriptedConntrack(connection), known, FLOW) == {FLOW: Resolution(exact(NGINX))}


def test_an_echo_is_asked_about_in_both_directions() -> None:
    echo = FlowKey(ICMP, HOST, 77, OUTSIDE, 77, "uplink0")
    kind = ECHO_REPLY[ICMP]
    connection = Connection(
        ConnectionTuple(ICMP, CONTAINER, 5, OUTSIDE, 5, 8),
        ConnectionTuple(ICMP, OUTSIDE, 77, HOST, 77, kind),
    )
    assert resolve(ScriptedConntrack(connection), {}, echo) == {
        echo: Resolution(TRANSLATED, is_final=True)
    }


def test_what_is_answered_from_memory_comes_from_the_other_resolver() -> None:
    resolver = make_resolver(ScriptedConntrack(), {})
    assert resolver.recall([(FLOW, None)]) == [Resolution(exact(NGINX))]
    assert resolver.infer(FLOW) == INFERRED
    assert resolver.counts() == ResolverCounts(table_reads=7)
