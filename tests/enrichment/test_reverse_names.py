"""Names of addresses by reverse DNS: which are asked about, how long answers hold, and bounds."""

from ipaddress import ip_address

import pytest

from hogpipe.enrichment.reverse_names import (
    MAX_KNOWN,
    MAX_QUEUED,
    PointerAnswer,
    ReverseNames,
)
from hogpipe.model.peer_names import NameQuality, PeerName, ReverseCounts
from hogpipe.protocols import NANOSECONDS

X = ip_address("192.0.2.1").packed
UNDECIDED, NAMELESS = (None, False), (None, True)


def named(domain: str) -> tuple[PeerName, bool]:
    return PeerName(domain, NameQuality.REVERSE), True


def make_address(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def answer(names: ReverseNames, *domains: str, ttl: int = 300, at: float = 0) -> None:
    names.ingest(names.take(), PointerAnswer(frozenset(domains), ttl), round(at * NANOSECONDS))


def find(names: ReverseNames, at: float = 0, address: bytes = X) -> tuple[PeerName | None, bool]:
    return names.find(address, round(at * NANOSECONDS))


def test_an_address_is_asked_about_once_until_its_answer_expires() -> None:
    names = ReverseNames()
    assert [find(names), find(names)] == [UNDECIDED] * 2
    answer(names, "a.test")
    assert not names.has_queued
    assert find(names, 299) == named("a.test")
    assert find(names, 300) == UNDECIDED
    answer(names, "b.test", at=301)
    assert find(names, 302) == named("b.test")
    assert names.counts == ReverseCounts(asked=2, answered=2)


def test_an_address_that_is_asked_about_is_not_queued_again() -> None:
    names = ReverseNames()
    find(names)
    assert names.take() == X
    assert find(names) == UNDECIDED
    assert not names.has_queued


@pytest.mark.parametrize(
    ("domains", "ttl", "seconds"),
    [
        (("a.test",), 0, 60),
        (("a.test",), 2**31 - 1, 86_400),
        ((), 0, 600),
        (("a.test", "b.test"), 300, 600),
    ],
)
def test_answers_hold_for_a_bounded_time(domains: tuple[str, ...], ttl: int, seconds: int) -> None:
    names = ReverseNames()
    find(names)
    answer(names, *domains, ttl=ttl)
    expected = named(domains[0]) if len(domains) == 1 else NAMELESS
    assert find(names, seconds - 1) == expected
    assert find(names, seconds) == UNDECIDED


def test_a_failure_holds_for_a_minute() -> None:
    names = ReverseNames()
    find(names)
    names.ingest(names.take(), None, 0)
    assert find(names, 59) == NAMELESS
    assert find(names, 60) == UNDECIDED
    assert names.counts == ReverseCounts(asked=1, failed=1)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.1.1",
        "fe80::1", "224.0.0.251", "ff02::fb", "255.255.255.255",
    ],
)  # fmt: skip
def test_addresses_that_no_resolver_can_know_are_not_asked_about(address: str) -> None:
    names = ReverseNames()
    assert find(names, address=ip_address(address).packed) == NAMELESS
    assert not names.has_queued


@pytest.mark.parametrize("address", ["10.1.2.3", "100.64.0.1", "fd00::1", "64:ff9b::1", "8.8.8.8"])
def test_private_and_public_addresses_are_asked_about(address: str) -> None:
    names = ReverseNames()
    assert find(names, address=ip_address(address).packed) == UNDECIDED
    assert names.has_queued


def test_addresses_beyond_the_queue_are_dropped_and_counted() -> None:
    names = ReverseNames()
    for number in range(MAX_QUEUED):
        assert find(names, address=make_address(number)) == UNDECIDED
    assert find(names) == NAMELESS
    assert names.counts == ReverseCounts(dropped=1)
    answer(names, "a.test")
    assert find(names) == UNDECIDED


def test_of_too_many_answers_the_oldest_is_evicted() -> None:
    names = ReverseNames()
    for number in range(MAX_KNOWN + 1):
        find(names, address=make_address(number))
        answer(names, "a.test")
    assert find(names, address=make_address(1)) == named("a.test")
    assert find(names, address=make_address(0)) == UNDECIDED
