"""Targets: DNS answers, which whoever answers chooses, and the packets that they come in."""

from fuzz.target import Target
from support.dns_packets import make_answer, make_query, make_segment, to_client, to_server

from hogpipe.capture.dns.dns_answers import decode_answer
from hogpipe.capture.dns.dns_exchanges import DnsExchanges

_NAME = "www.example.com"
_QUERY = make_query(_NAME)
_ANSWER = make_answer(
    _QUERY, f"{_NAME}. 60 CNAME a.test.", "a.test. 5 A 192.0.2.1", "b.test. 5 A 192.0.2.2"
)
_LOOP = _ANSWER[:12] + b"\xc0\x0c\x00\x01\x00\x01"


def check_answer(data: bytes) -> None:
    """A message decodes or raises ValueError; its domain is printable ASCII."""
    try:
        named = decode_answer(data)
    except ValueError:
        return
    assert named.domain.isascii()
    assert named.domain.isprintable()
    assert len(named.domain) <= 1004
    assert {len(one) for one in named.addresses} <= {4, 16}
    assert 0 <= named.ttl < 1 << 32


def check_exchange(data: bytes) -> None:
    """Whatever arrives after a query names only what that asked for, and at most once."""
    exchanges = DnsExchanges(decode_answer)
    exchanges.ingest(to_server(_QUERY), 1, leaves=True, arrives=False)
    exchanges.ingest(data, 2, leaves=False, arrives=True)
    found = exchanges.ingest(to_client(data), 3, leaves=False, arrives=True)
    found += exchanges.ingest(to_client(data), 4, leaves=False, arrives=True)
    assert [answer.domain for answer in found] in ([], [_NAME])


DNS_TARGETS = {
    "dns-answer": Target(check_answer, (_ANSWER, _LOOP, make_answer(_QUERY))),
    "dns-exchange": Target(
        check_exchange, (_ANSWER, _LOOP, to_client(_ANSWER), make_segment(0, _ANSWER, 0x12))
    ),
}
