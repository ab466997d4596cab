"""The name of a flow, by who asked for what before it began."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.enrichment import address_names
from hogpipe.enrichment.address_names import (
    OWNER_SECONDS,
    AddressNames,
    Between,
    FlowOwner,
    Naming,
    ProcessId,
)
from hogpipe.model.peer_names import Answer, Asker, Endpoint, NameQuality, PeerName
from hogpipe.protocols import NANOSECONDS, UDP

X, Y = b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"
WEB, CRON = (10, 1), (20, 2)
SERVER = Endpoint(b"\x0a\0\0\x35", 53)
START = 1_000
NONE = Naming(None, is_final=True)


class Host:
    """Names, and times in seconds."""

    def __init__(self) -> None:
        self.names = AddressNames()
        self.port = 1024

    def ask(
        self,
        domain: str,
        *addresses: bytes,
        at: float,
        process: ProcessId | None = None,
        ttl: int = 300,
    ) -> Asker:
        """Answer a question of a process, or of one that is not known."""
        self.port += 1
        asker = Asker(UDP, Endpoint(b"\x0a\0\0\x01", self.port), SERVER)
        self.names.ingest(Answer(time_ns(at), asker, domain, addresses or (X,), ttl))
        if process is not None:
            self.names.set_owner(asker, [FlowOwner(time_ns(at), process)])
        return asker

    def find(
        self, began: float, process: ProcessId | None = WEB, *, until: float = 0, now: float = 0
    ) -> Naming:
        latest = max(began, until)
        between = Between(time_ns(began), time_ns(latest))
        return self.names.find(X, process, between, time_ns(now or latest + OWNER_SECONDS + 1))


def time_ns(seconds: float) -> int:
    return round((START + seconds) * NANOSECONDS)


def named(domain: str, quality: NameQuality = NameQuality.PROCESS) -> Naming:
    return Naming(PeerName(domain, quality), is_final=True)


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_flow_has_the_name_that_its_process_asked_for(host: Host) -> None:
    host.ask("a.test", at=0, process=WEB)
    assert host.find(1) == named("a.test")
    assert X in host.names
    assert Y not in host.names


def test_each_process_has_its_own_name_for_an_address(host: Host) -> None:
    host.ask("a.test", at=0, process=WEB)
    host.ask("b.test", at=0, process=CRON)
    assert host.find(1, WEB) == named("a.test")
    assert host.find(1, CRON) == named("b.test")


def test_what_another_process_asked_for_is_of_less_quality(host: Host) -> None:
    host.ask("a.test", at=0, process=CRON)
    assert host.find(1, WEB) == named("a.test", NameQuality.HOST)


def test_of_two_names_that_others_asked_for_none_is_used(host: Host) -> None:
    host.ask("a.test", at=0, process=CRON)
    host.ask("b.test", at=0, process=(30, 3))
    assert host.find(1, WEB) == NONE


def test_of_two_names_of_one_process_none_is_used(host: Host) -> None:
    host.ask("a.test", at=0, process=WEB)
    host.ask("b.test", at=1, process=WEB)
    assert host.find(0.5) == named("a.test")
    assert host.find(2) == NONE


def test_a_name_that_is_asked_for_after_a_flow_began_is_not_its_name(host: Host) -> None:
    host.ask("a.test", at=1, process=WEB)
    assert host.find(0.9) == NONE


def test_a_flow_that_began_at_an_unknown_moment_has_the_name_of_all_of_them(host: Host) -> None:
    host.ask("a.test", at=1, process=WEB)
    assert host.find(0, until=2) == named("a.test")
    host.ask("b.test", at=1.5, process=WEB)
    assert host.find(0, until=2) == NONE


@pytest.mark.parametrize(("ttl", "lasts"), [(0, 60), (300, 300), (10**9, 86_400)])
def test_a_name_lasts_as_its_answer_within_bounds(host: Host, ttl: int, lasts: int) -> None:
    host.ask("a.test", at=0, process=WEB, ttl=ttl)
    assert host.find(lasts - 1) == named("a.test")
    assert host.find(lasts + 1) == NONE
    host.names.expire(time_ns(lasts + 1))
    assert not len(host.names)


def test_an_unknown_asker_may_be_the_process_of_the_flow(host: Host) -> None:
    host.ask("a.test", at=0, process=WEB)
    asker = host.ask("b.test", at=0)
    assert host.find(1, now=1) == Naming(None, is_final=False)
    assert host.find(1, now=OWNER_SECONDS + 1) == NONE
    host.names.set_owner(asker, [FlowOwner(time_ns(0), CRON)])
    assert host.find(1, now=2) == named("a.test")


def test_a_flow_is_undecided_while_an_asker_may_become_known(host: Host) -> None:
    asker = host.ask("a.test", at=0)
    undecided = Naming(PeerName("a.test", NameQuality.HOST), is_final=False)
    assert host.find(1, now=1) == undecided
    assert host.names.is_awaited(asker)
    host.names.set_owner(asker, [FlowOwner(time_ns(0), WEB)])
    assert host.find(1, now=2) == named("a.test")
    assert not host.names.is_awaited(asker)


def test_a_flow_without_a_process_is_undecided(host: Host) -> None:
    host.ask("a.test", at=0, process=WEB)
    assert host.find(1, None) == Naming(PeerName("a.test", NameQuality.HOST), is_final=False)


def test_an_answer_belongs_to_the_flow_that_began_last_before_it(host: Host) -> None:
    asker = host.ask("a.test", at=1)
    host.names.ingest(Answer(time_ns(3), asker, "b.test", (Y,), 300))
    owners = [FlowOwner(time_ns(0), WEB), FlowOwner(time_ns(2), CRON)]
    host.names.set_owner(asker, owners)
    assert host.find(4, WEB) == named("a.test")
    assert host.find(4, CRON) == named("a.test", NameQuality.HOST)


def test_two_flows_that_began_at_once_own_no_answer(host: Host) -> None:
    asker = host.ask("a.test", at=1)
    host.names.set_owner(asker, [FlowOwner(0, WEB), FlowOwner(0, CRON)])
    assert host.find(4, WEB) == named("a.test", NameQuality.HOST)
    assert not host.names.is_awaited(asker)


def test_an_answer_before_a_flow_is_not_of_that_flow(host: Host) -> None:
    asker = host.ask("a.test", at=1)
    host.names.set_owner(asker, [FlowOwner(time_ns(2), WEB)])
    assert host.names.is_awaited(asker)


def test_many_processes_may_ask_for_one_name(host: Host) -> None:
    for number in range(500):
        host.ask("a.test", at=number / 100, process=(number, 1))
    assert host.find(6, (499, 1), now=20) == named("a.test")
    assert host.find(6, (0, 1), now=20) == named("a.test", NameQuality.HOST)
    assert host.names.evicted == 0


def test_an_address_with_too_many_names_has_none_until_they_have_expired(host: Host) -> None:
    for number in range(200):
        host.ask(f"{number}.test", at=number / 100, process=WEB)
    host.ask("own.test", at=10, process=CRON)
    assert host.find(11, CRON) == NONE
    assert host.names.evicted > 0
    host.ask("own.test", at=400, process=CRON)
    assert host.find(401, CRON) == named("own.test")


def test_addresses_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_names, "MAX_ADDRESSES", 10)
    for number in range(100):
        host.ask("a.test", bytes([10, 0, 0, number]), at=0)
    assert len(host.names) == 10
    assert host.names.evicted == 90


asks = st.tuples(
    st.sampled_from(["a.test", "b.test"]),
    st.sampled_from([WEB, CRON, None]),
    st.integers(0, 100),
)


@given(st.lists(asks, max_size=12), st.integers(0, 200), st.sampled_from([WEB, CRON]))
def test_a_name_is_the_only_one_that_the_process_may_have_asked_for(
    asked: list[tuple[str, ProcessId | None, int]], began: int, process: ProcessId
) -> None:
    host = Host()
    for domain, asker, at in sorted(asked, key=lambda one: one[2]):
        host.ask(domain, at=at, process=asker, ttl=60)
    valid = [one for one in asked if one[2] <= began < one[2] + 60]
    own = {domain for domain, asker, _ in valid if asker == process}
    perhaps = own | {domain for domain, asker, _ in valid if asker is None}
    anybody = {domain for domain, _, _ in valid}
    name, _ = host.find(began, process, now=500)
    if own:
        expected = named(*own).name if len(perhaps) == 1 else None
    else:
        expected = named(*anybody, NameQuality.HOST).name if len(anybody) == 1 else None
    assert name == expected
