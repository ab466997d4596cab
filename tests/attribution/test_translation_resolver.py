"""Translated flows, with a scripted resolver and a scripted conntrack."""

import errno
import logging
from collections.abc import Mapping, Sequence

import pytest
from support.traffic import NGINX, exact

from hogpipe.attribution.resolver import FlowSpans, Resolution
from hogpipe.attribution.translation_resolver import TranslationResolver
from hogpipe.linux.ctnetlink_messages import ECHO_REPLY, Connection, ConnectionTuple
from hogpipe.model import (
    TRANSLATED,
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    Quality,
    ResolverCounts,
    Span,
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

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        return {flow: self.answers[flow] for flow in flows if flow in self.answers}

    def recall(self, _flow: FlowKey, _span: Span | None) -> Attribution | None:
        return exact(NGINX)

    def infer(self, _flow: FlowKey) -> Attribution:
        return INFERRED

    def counts(self) -> ResolverCounts:
        return ResolverCounts(table_reads=7)

    def close(self) -> None:
        pass


class ScriptedConntrack:
    """The connections that a kernel tracks; raises `error` if there is one."""

    def __init__(self, *connections: Connection) -> None:
        self.by_tuple = {one: connection for connection in connections for one in connection}
        self.asked: list[ConnectionTuple] = []
        self.error: OSError | None = None

    def __call__(self, tuples: Sequence[ConnectionTuple]) -> list[Connection | None]:
        self.asked += tuples
        if self.error is not None:
            raise self.error
        return [self.by_tuple.get(one) for one in tuples]


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


def resolve(
    conntrack: ScriptedConntrack,
    answers: Mapping[FlowKey, Resolution],
    *flows: FlowKey,
    captured: frozenset[bytes] = frozenset({CONTAINER}),
) -> dict[FlowKey, Resolution]:
    resolver = TranslationResolver(
        ScriptedResolver(answers), lambda: captured, read_connections=conntrack
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


def test_a_flow_of_a_container_is_not_asked_about() -> None:
    inside = FlowKey(TCP, CONTAINER, 5000, OUTSIDE, 443, "port0", 4026532000)
    conntrack = ScriptedConntrack()
    assert resolve(conntrack, {inside: Resolution(UNATTRIBUTED)}, inside) == {
        inside: Resolution(UNATTRIBUTED)
    }
    assert conntrack.asked == []


def test_a_tracked_flow_without_translation_stays_as_it_is() -> None:
    known = {FLOW: Resolution(UNATTRIBUTED, is_final=True)}
    assert resolve(ScriptedConntrack(masqueraded(FLOW, HOST, 61000)), known, FLOW) == known


@pytest.mark.parametrize("source", [CONTAINER, LAN])
def test_the_only_copy_of_a_translated_flow_stays_as_it_is(source: bytes) -> None:
    known = {FLOW: Resolution(UNATTRIBUTED)}
    conntrack = ScriptedConntrack(masqueraded(FLOW, source, 5000))
    assert resolve(conntrack, known, FLOW, captured=frozenset()) == known


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


def test_without_the_right_to_ask_resolutions_stay_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = {FLOW: Resolution(UNATTRIBUTED)}
    conntrack = ScriptedConntrack(masqueraded(FLOW, CONTAINER, 5000))
    conntrack.error = PermissionError(errno.EPERM, "Operation not permitted", "conntrack")
    resolver = TranslationResolver(
        ScriptedResolver(known), lambda: frozenset({CONTAINER}), read_connections=conntrack
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert resolver.resolve({FLOW: ()}) == known
    assert len(caplog.messages) == 1
    assert "CAP_NET_ADMIN" in caplog.text
    conntrack.error = None
    assert resolver.resolve({FLOW: ()}) == {FLOW: Resolution(TRANSLATED, is_final=True)}


def test_what_is_answered_from_memory_comes_from_the_other_resolver() -> None:
    resolver = TranslationResolver(ScriptedResolver({}), frozenset)
    assert resolver.recall(FLOW, None) == exact(NGINX)
    assert resolver.infer(FLOW) == INFERRED
    assert resolver.counts() == ResolverCounts(table_reads=7)
