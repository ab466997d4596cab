"""Names of flows in columns, decided when they begin, with the owners of DNS flows among them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace
from support.traffic import NGINX, exact, make_flow

from hogpipe.enrichment.address_names import AddressNames
from hogpipe.enrichment.flow_names import FlowNames, FlowsToName
from hogpipe.enrichment.reverse_names import PointerAnswer, ReverseNames
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.model import UNATTRIBUTED, FlowKey, Process
from hogpipe.model.peer_names import Answer, Asker, Endpoint, NameQuality, PeerName
from hogpipe.protocols import NANOSECONDS, TCP, UDP

X = b"\xc0\0\x02\x01"
WEB, CRON = NGINX, replace(NGINX, pid=20)
DNS = make_flow(5000, protocol=UDP, remote_port=53)
TO_X = make_flow(40000, protocol=TCP, remote_port=443, remote=X)


class Seen(NamedTuple):
    flow: FlowKey
    process: Process | None
    began: float
    until: float = 0
    """Zero: as it began."""
    identity: int = 0
    """Zero: by when it began."""


class Host:
    def __init__(self, max_flows: int = 100) -> None:
        self.names = AddressNames()
        self.reverse = ReverseNames()
        self.flows = FlowNames(self.names, max_flows, self.reverse)

    def answer_pointer(self, domain: str, at: float) -> None:
        answer = PointerAnswer(frozenset({domain}), 300)
        self.reverse.ingest(self.reverse.take(), answer, time_ns(at))

    def answer(self, domain: str, at: float, flow: FlowKey = DNS) -> None:
        asker = Asker(
            flow.protocol,
            Endpoint(flow.local_address, flow.local_port),
            Endpoint(flow.remote_address, flow.remote_port),
        )
        self.names.ingest(Answer(time_ns(at), asker, domain, (X,), 300))

    def name(self, *seen: Seen, now: float) -> list[str | None]:
        """Return the name of each flow, with `?` if others asked for it, `!` if none did."""
        naming = self.flows.name(make_flows(seen), time_ns(now))
        names = [naming.names[number] for number in naming.numbers.tolist()]
        return [None if one is None else _describe(one) for one in names]


def _describe(name: PeerName) -> str:
    marks = {NameQuality.PROCESS: "", NameQuality.HOST: "?", NameQuality.REVERSE: "!"}
    return name.domain + marks[name.quality]


def time_ns(seconds: float) -> int:
    return round((1_000 + seconds) * NANOSECONDS)


def make_flows(seen: Sequence[Seen]) -> FlowsToName:
    earliest = np.array([time_ns(one.began) if one.began else 0 for one in seen], np.int64)
    latest = np.array([time_ns(one.until) if one.until else 0 for one in seen], np.int64)
    identities = np.array([one.identity for one in seen], np.int64)
    return FlowsToName(
        FlowPacker().pack([one.flow for one in seen]),
        np.where(identities == 0, earliest, identities),
        earliest,
        np.where(latest == 0, earliest, latest),
        np.arange(len(seen)),
        [UNATTRIBUTED if one.process is None else exact(one.process) for one in seen],
    )


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_flow_has_the_name_that_its_process_got_in_a_flow_of_the_same_rows(host: Host) -> None:
    host.answer("a.test", 1.1)
    asks, connects = Seen(DNS, WEB, 1), Seen(TO_X, WEB, 1.2)
    assert host.name(asks, connects, now=2) == [None, "a.test"]


def test_a_flow_keeps_its_name_when_another_name_is_asked_for(host: Host) -> None:
    host.answer("a.test", 1.1)
    assert host.name(Seen(DNS, WEB, 1), Seen(TO_X, WEB, 1.2), now=2)[1] == "a.test"
    host.answer("b.test", 2.1)
    assert host.name(Seen(DNS, WEB, 1), Seen(TO_X, WEB, 1.2), now=3)[1] == "a.test"
    assert host.name(Seen(TO_X, WEB, 1.2), now=1000) == ["a.test"]


def test_the_next_flow_on_the_five_tuple_has_a_name_of_its_own(host: Host) -> None:
    host.answer("a.test", 1)
    assert host.name(Seen(DNS, WEB, 1), Seen(TO_X, WEB, 1.2), now=2)[1] == "a.test"
    host.answer("b.test", 400)
    # What both moved is in one row: it has no name.
    assert host.name(Seen(DNS, WEB, 1), Seen(TO_X, WEB, 401), now=402)[1] is None
    assert host.name(Seen(TO_X, WEB, 401), now=403) == ["b.test"]


def test_rows_of_one_five_tuple_have_names_of_their_own(host: Host) -> None:
    host.answer("a.test", 1)
    host.answer("b.test", 400)
    rows = Seen(TO_X, WEB, 2, identity=1), Seen(TO_X, WEB, 401, identity=2)
    assert host.name(Seen(DNS, WEB, 1), *rows, now=402) == [None, "a.test", "b.test"]


def test_a_flow_that_began_before_the_run_has_no_name(host: Host) -> None:
    host.answer("a.test", 1)
    assert host.name(Seen(DNS, WEB, 1), Seen(TO_X, WEB, 0, identity=7), now=2) == [None, None]


def test_a_flow_is_searched_for_again_once_its_process_is_known(host: Host) -> None:
    host.answer("a.test", 1)
    host.answer("b.test", 1, flow=make_flow(5001, protocol=UDP, remote_port=53))
    asks = Seen(DNS, WEB, 1), Seen(make_flow(5001, protocol=UDP, remote_port=53), CRON, 1)
    assert host.name(*asks, Seen(TO_X, None, 1.5), now=2)[2] is None
    assert host.name(Seen(TO_X, CRON, 1.5), now=2.5) == ["b.test"]


def test_two_processes_on_one_port_own_their_own_answers(host: Host) -> None:
    host.answer("a.test", 1.1)
    host.answer("b.test", 2.1)
    rows = Seen(DNS, WEB, 1, identity=1), Seen(DNS, CRON, 2, identity=2)
    to_x = [
        Seen(make_flow(port, protocol=TCP, remote_port=443, remote=X), process, 3)
        for port, process in ((1, WEB), (2, CRON))
    ]
    assert host.name(*rows, *to_x, now=4)[2:] == ["a.test", "b.test"]


def test_flows_beyond_the_bound_have_no_name_and_the_oldest_are_evicted() -> None:
    host = Host(max_flows=4)
    host.answer("a.test", 1)
    assert host.name(Seen(DNS, WEB, 1), now=1) == [None]
    flows = [make_flow(port, protocol=TCP, remote=X) for port in range(1, 7)]
    seen = [Seen(flow, WEB, 2) for flow in flows]
    assert host.name(*seen, now=3) == ["a.test"] * 4 + [None] * 2
    assert host.name(seen[5], now=4) == ["a.test"]
    host.flows.expire(time_ns(1000))
    assert host.name(seen[5], now=1000) == ["a.test"]


def test_a_flow_without_a_name_has_that_of_reverse_dns_once_it_is_known(host: Host) -> None:
    before, since = (
        Seen(TO_X, WEB, 0, identity=7),
        Seen(make_flow(2, protocol=TCP, remote=X), None, 1),
    )
    assert host.name(before, since, now=2) == [None, None]
    host.answer_pointer("x.test", 3)
    assert host.name(before, since, now=4) == ["x.test!", "x.test!"]
    assert not host.reverse.has_queued
    assert host.name(before, since, now=1000) == ["x.test!", "x.test!"]


def test_a_name_that_was_asked_for_comes_before_that_of_reverse_dns(host: Host) -> None:
    assert host.name(Seen(TO_X, WEB, 0, identity=7), now=1) == [None]
    host.answer_pointer("x.test", 1)
    host.answer("a.test", 2)
    asks, connects = Seen(DNS, WEB, 2), Seen(TO_X, WEB, 3)
    assert host.name(asks, connects, now=4) == [None, None]  # two flows in one row
    assert host.name(connects, now=5) == ["a.test"]


def test_flows_to_dns_servers_are_not_asked_about(host: Host) -> None:
    over_tls = make_flow(5002, protocol=TCP, remote_port=853)
    assert host.name(Seen(DNS, WEB, 1), Seen(over_tls, WEB, 1), now=2) == [None, None]
    assert not host.reverse.has_queued


def test_flows_beyond_the_bound_do_not_wait_for_reverse_dns() -> None:
    host = Host(max_flows=5000)
    flows = [make_flow(port, protocol=TCP, remote=X) for port in range(1, 4101)]
    seen = [Seen(flow, WEB, 2) for flow in flows]
    host.name(*seen, now=3)
    host.answer_pointer("x.test", 4)
    assert host.name(*seen, now=5) == 4096 * ["x.test!"] + 4 * [None]
