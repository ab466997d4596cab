"""Answers that are used, and those that are not: forged, late, malformed, for others."""

import dns.flags
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns_packets import (
    ENDS,
    HERE_V6,
    SERVER_V6,
    Ends,
    make_answer,
    make_datagram,
    make_packet,
    make_query,
    make_segment,
    to_client,
    to_server,
)

from hogpipe.capture.dns import dns_exchanges
from hogpipe.capture.dns.dns_answers import decode_answer
from hogpipe.capture.dns.dns_exchanges import QUERY_SECONDS, DnsExchanges
from hogpipe.model.peer_names import Answer, Asker, Endpoint
from hogpipe.protocols import NANOSECONDS, TCP, UDP

NAME = "www.example.com"
QUERY = make_query(NAME)
ANSWER = make_answer(QUERY, "www.example.com. 300 A 192.0.2.1")
START = 1_000 * NANOSECONDS
CLIENT = ENDS.local, ENDS.port


class Wire:
    """Exchanges, and the clock of what passes."""

    def __init__(self) -> None:
        self.exchanges = DnsExchanges(decode_answer)
        self.counts = self.exchanges.counts
        self.now = START

    def leaves(self, packet: bytes) -> list[Answer]:
        return self.exchanges.ingest(packet, self.now, leaves=True, arrives=False)

    def arrives(self, packet: bytes) -> list[Answer]:
        return self.exchanges.ingest(packet, self.now, leaves=False, arrives=True)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_an_answer_to_a_query_has_the_flow_in_which_it_was_asked_for(wire: Wire) -> None:
    assert wire.leaves(to_server(QUERY)) == []
    asker = Asker(UDP, Endpoint(ENDS.local, ENDS.port), Endpoint(ENDS.server, 53))
    expected = Answer(START, asker, "www.example.com", (b"\xc0\0\x02\x01",), 300)
    assert wire.arrives(to_client(ANSWER)) == [expected]
    assert (wire.counts.queries, wire.counts.answers) == (1, 1)


@pytest.mark.parametrize(
    "forged",
    [
        to_client(make_answer(make_query(NAME, "A", 8), f"{NAME}. 1 A 6.6.6.6")),
        to_client(make_answer(make_query("www.example.org"), "www.example.org. 1 A 6.6.6.6")),
        to_client(make_answer(make_query(NAME, "AAAA"), f"{NAME}. 1 AAAA ::6")),
        to_client(ANSWER, Ends(port=40001)),
        to_client(ANSWER, Ends(server=b"\x0a\0\0\x36")),
        to_client(ANSWER, Ends(local=b"\x0a\0\0\x02")),
        make_packet(UDP, (ENDS.server, 5353), CLIENT, make_datagram(ANSWER)),
    ],
    ids=["id", "name", "type", "port", "server", "asker", "port of the server"],
)  # fmt: skip
def test_an_answer_that_differs_from_the_query_is_not_used(wire: Wire, forged: bytes) -> None:
    wire.leaves(to_server(QUERY))
    assert wire.arrives(forged) == []
    assert wire.counts.answers == 0
    assert [one.domain for one in wire.arrives(to_client(ANSWER))] == ["www.example.com"]


def test_an_answer_without_a_query_is_not_used(wire: Wire) -> None:
    assert wire.arrives(to_client(ANSWER)) == []
    assert wire.counts.unasked == 1


def test_what_others_ask_a_server_here_is_not_used(wire: Wire) -> None:
    assert wire.arrives(to_server(QUERY)) == []
    assert wire.leaves(to_client(ANSWER)) == []
    assert (wire.counts.queries, wire.counts.answers) == (0, 0)


def test_a_query_is_answered_once(wire: Wire) -> None:
    wire.leaves(to_server(QUERY))
    wire.arrives(to_client(ANSWER))
    other = make_answer(QUERY, "www.example.com. 300 A 6.6.6.6")
    assert wire.arrives(to_client(other)) == []
    assert wire.arrives(to_client(ANSWER)) == []  # the same on another interface
    assert (wire.counts.answers, wire.counts.unasked) == (1, 1)


def test_an_answer_that_comes_late_is_not_used(wire: Wire) -> None:
    wire.leaves(to_server(QUERY))
    wire.now += (QUERY_SECONDS + 1) * NANOSECONDS
    assert wire.arrives(to_client(ANSWER)) == []


def test_a_malformed_answer_leaves_its_query(wire: Wire) -> None:
    wire.leaves(to_server(QUERY))
    assert wire.arrives(to_client(ANSWER[:-3])) == []
    assert wire.counts.malformed == 1
    assert len(wire.arrives(to_client(ANSWER))) == 1


def test_letters_of_a_question_may_differ_in_case(wire: Wire) -> None:
    wire.leaves(to_server(make_query("wWw.eXample.com")))
    assert wire.arrives(to_client(ANSWER))[0].domain == "www.example.com"


def test_the_addresses_of_an_alias_are_those_of_the_name_in_question(wire: Wire) -> None:
    wire.leaves(to_server(QUERY))
    answer = make_answer(
        QUERY,
        "other.example.com. 300 A 6.6.6.6",
        "www.example.com. 60 CNAME a.cdn.test.",
        "a.cdn.test. 5 CNAME b.cdn.test.",
        "b.cdn.test. 300 A 192.0.2.9",
        "b.cdn.test. 300 A 127.0.0.1",
    )
    (one,) = wire.arrives(to_client(answer))
    assert (one.domain, one.addresses, one.ttl) == ("www.example.com", (b"\xc0\0\x02\x09",), 5)


@pytest.mark.parametrize(
    "records",
    [
        ["www.example.com. 1 CNAME a.test.", "a.test. 1 CNAME www.example.com."],
        ["www.example.com. 1 CNAME www.example.com."],
        ["a.test. 1 A 6.6.6.6"],
        ["www.example.com. 1 A 0.0.0.0"],
        ["www.example.com. 1 A 224.0.0.1"],
        [],
    ],
)
def test_an_answer_without_an_address_for_the_name_gives_none(
    wire: Wire, records: list[str]
) -> None:
    wire.leaves(to_server(QUERY))
    assert wire.arrives(to_client(make_answer(QUERY, *records))) == []


def test_an_answer_that_is_cut_short_is_asked_for_again_over_tcp(wire: Wire) -> None:
    wire.leaves(to_server(QUERY))
    cut = make_answer(QUERY, "www.example.com. 1 A 6.6.6.6", flags=dns.flags.TC)
    assert wire.arrives(to_client(cut)) == []
    framed = {one: len(one).to_bytes(2, "big") + one for one in (QUERY, ANSWER)}
    out = [make_segment(99, flags=0x02), make_segment(100, framed[QUERY])]
    back = [
        make_segment(2**32 - 1, flags=0x12),
        make_segment(0, framed[ANSWER][:1]),
        make_segment(0, framed[ANSWER][:1]),  # again
        make_segment(1, framed[ANSWER][1:20]),
        make_segment(20, framed[ANSWER][20:]),
    ]
    for one in out:
        wire.leaves(make_packet(TCP, CLIENT, (ENDS.server, 53), one))
    found = [wire.arrives(make_packet(TCP, (ENDS.server, 53), CLIENT, one)) for one in back]
    assert found[:-1] == [[], [], [], []]
    assert [one.domain for one in found[-1]] == ["www.example.com"]


def test_a_stream_with_a_gap_has_no_further_message(wire: Wire) -> None:
    framed = len(QUERY).to_bytes(2, "big") + QUERY
    for one in (make_segment(99, flags=0x02), make_segment(101, framed), make_segment(100, framed)):
        wire.leaves(make_packet(TCP, CLIENT, (ENDS.server, 53), one))
    assert wire.counts.queries == 0


def test_ipv6_is_as_ipv4(wire: Wire) -> None:
    ends = Ends(HERE_V6, 40000, SERVER_V6)
    query = make_query("www.example.com", "AAAA")
    wire.leaves(to_server(query, ends))
    answer = make_answer(query, "www.example.com. 0 AAAA 2001:db8::1")
    assert wire.arrives(to_client(answer, ends))[0].ttl == 0


def test_queries_are_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_exchanges, "MAX_QUERIES", 16)
    for number in range(100):
        wire.leaves(to_server(make_query("www.example.com", number=number)))
    assert len(wire.exchanges._queries) <= 16
    assert wire.counts.evicted > 0


def test_a_compression_loop_is_malformed() -> None:
    loop = QUERY[:12] + b"\xc0\x0c" + QUERY[-4:]
    with pytest.raises(ValueError, match=r"."):
        decode_answer(bytes([*loop[:2], 0x81, 0x80]) + loop[4:])


def test_a_hostile_name_is_escaped() -> None:
    query = make_query(r"\027[31m\000\195\169.example.com")
    named = decode_answer(make_answer(query, r"\027[31m\000\195\169.example.com. 1 A 192.0.2.1"))
    assert named.domain == r"\027[31m\000\195\169.example.com"


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes_are_valid_input(packet: bytes, leaves: bool, arrives: bool) -> None:
    exchanges = DnsExchanges(decode_answer)
    assert exchanges.ingest(packet, START, leaves=leaves, arrives=arrives) == []


@given(st.data())
def test_a_mutated_answer_names_nothing_but_what_was_asked_for(data: st.DataObject) -> None:
    wire = Wire()
    wire.leaves(to_server(QUERY))
    answer = bytearray(
        make_answer(
            QUERY,
            "www.example.com. 9 CNAME a.test.",
            "a.test. 9 A 192.0.2.1",
            "b.test. 9 A 6.6.6.6",
        )
    )

    for _ in range(data.draw(st.integers(0, 8))):
        answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
    for found in wire.arrives(to_client(bytes(answer))):
        assert found.domain == "www.example.com"
        assert all(len(address) in {4, 16} for address in found.addresses)
