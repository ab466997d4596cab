"""PURE: DNS answers that belong to a query which passed here, and no others.

In: packets with the times when they passed. Out: an `Answer` for each one that is believed.

What is believed
    An answer comes from the endpoint that was asked to the endpoint that asked, over the same
    protocol, with the id and the question of a query that passed not longer than `QUERY_SECONDS`
    before. Each query is answered once. So whoever cannot see a query has to guess what the
    resolver that asked compares, too. Only queries that leave this host, or pass within it, count:
    what others ask a server here is no name that this host has asked for.

    A malformed answer is counted, and its query stays: the resolver drops such an answer.

Order of work
    Id, endpoints and question are compared as bytes. Only an answer that belongs to a query is
    decoded, so that a flood of others costs a lookup each.

Bounds: `MAX_QUERIES` queries; those that expired or were answered are evicted first.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from hogpipe.capture.dns.dns_messages import Segment, TcpMessages, decode_segment
from hogpipe.model.peer_names import Answer, Asker, NameCounts
from hogpipe.protocols import NANOSECONDS, TCP

PORT = 53
QUERY_SECONDS = 15
MAX_QUERIES = 4096
HEADER = 12
_RESPONSE, _OPCODE = 0x80, 0x78  # of the third byte
_ADDRESS_TYPES = frozenset({b"\x00\x01\x00\x01", b"\x00\x1c\x00\x01"})
"""A and AAAA, of the class IN."""
_MAX_NAME = 255

_QueryKey = tuple[Asker, bytes]
"""Who asked whom, and the id of the query."""


class _Query(msgspec.Struct):
    question: bytes
    asked_ns: int
    answer: bytes | None = None
    """The one that was believed. A packet passes several interfaces, and is seen on each."""


class NamedAddresses(NamedTuple):
    """A domain, without its final dot, and its addresses in network order."""

    domain: str
    addresses: tuple[bytes, ...]
    ttl: int
    """In seconds, the least of the chain."""


class DnsExchanges:
    """The queries that passed, and whether each was answered.

    `decode_answer` returns what a message says, and raises ValueError if it is malformed.
    """

    def __init__(self, decode_answer: Callable[[bytes], NamedAddresses]) -> None:
        self._decode_answer = decode_answer
        self._queries: dict[_QueryKey, _Query] = {}
        self._streams = TcpMessages()
        self.counts = NameCounts()

    def ingest(self, packet: bytes, time_ns: int, *, leaves: bool, arrives: bool) -> list[Answer]:
        """Take in a packet; return the answers in it that are believed.

        It is one that this host transmits, one that it receives, or both: one within it.
        """
        segment = decode_segment(packet)
        if segment is None:
            self.counts.malformed += 1
            return []
        found: list[Answer] = []
        for message in self._list_messages(segment):
            question = _find_question(message)
            if question is None:
                self.counts.malformed += 1
            elif question[-4:] not in _ADDRESS_TYPES:
                continue
            elif not message[2] & _RESPONSE:
                if leaves and segment.destination.port == PORT:
                    self._add_query(segment, message, question, time_ns)
            elif arrives and segment.source.port == PORT:
                found += self._match(segment, message, question, time_ns)
        return found

    def _list_messages(self, segment: Segment) -> Iterator[bytes]:
        if segment.protocol == TCP:
            return self._streams.ingest(segment)
        return iter((segment.payload,))

    def _add_query(self, segment: Segment, message: bytes, question: bytes, time_ns: int) -> None:
        key = Asker(segment.protocol, segment.source, segment.destination), message[:2]
        self.counts.queries += self._queries.pop(key, None) is None
        if len(self._queries) >= MAX_QUERIES:
            self._evict(time_ns)
        self._queries[key] = _Query(question, time_ns)

    def _match(
        self, segment: Segment, message: bytes, question: bytes, time_ns: int
    ) -> Iterator[Answer]:
        """Yield the answer, if it belongs to a query and has an address."""
        asker = Asker(segment.protocol, segment.destination, segment.source)
        query = self._queries.get((asker, message[:2]))
        if query is None or query.question != question or _has_expired(query, time_ns):
            self.counts.unasked += 1
            return
        if query.answer is not None:
            self.counts.unasked += query.answer != message
            return
        try:
            named = self._decode_answer(message)
        except ValueError:
            self.counts.malformed += 1
            return
        query.answer = message
        self.counts.answers += 1
        if named.addresses and named.domain:
            yield Answer(time_ns, asker, named.domain, named.addresses, named.ttl)

    def _evict(self, time_ns: int) -> None:
        """Evict the queries that expired or were answered; if there are none, the oldest ones."""
        done = [
            key
            for key, query in self._queries.items()
            if query.answer is not None or _has_expired(query, time_ns)
        ]
        if not done:
            done = list(islice(self._queries, MAX_QUERIES // 8))
            self.counts.evicted += len(done)
        for key in done:
            del self._queries[key]


def _has_expired(query: _Query, time_ns: int) -> bool:
    return not 0 <= time_ns - query.asked_ns <= QUERY_SECONDS * NANOSECONDS


def _find_question(message: bytes) -> bytes | None:
    """Return the question of a message with one, lower-case; None if it is malformed."""
    if len(message) < HEADER or message[2] & _OPCODE or message[4:6] != b"\x00\x01":
        return None
    at = HEADER
    while at < len(message) and (size := message[at]):
        at += 1 + size
        if size > 63 or at - HEADER > _MAX_NAME:
            return None
    end = at + 1 + 4
    # Sizes of labels are below the letters, so that they stay as they are.
    return message[HEADER:end].lower() if end <= len(message) else None
