"""Reverse DNS in the background: bounds, cancellation, and what hostile or broken servers send."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from support.sinks import until

from hogpipe.enrichment.reverse_lookups import PointerQueries, ReverseLookups
from hogpipe.enrichment.reverse_names import PointerAnswer
from hogpipe.model.peer_names import ReverseCounts

X = ip_address("192.0.2.1").packed
X6 = ip_address("2001:db8::1").packed
LONGEST = ".".join([*3 * ["x" * 63], "y" * 61])
Reply = Callable[[dns.message.Message], bytes | None]


class Slow:
    """A source that answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.cancelled = 0

    def open(self) -> None:
        pass

    async def query(self, address: bytes) -> PointerAnswer | None:
        self.asked.append(address)
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return PointerAnswer(frozenset({"a.test"}), 300)


@asynccontextmanager
async def running(lookups: ReverseLookups) -> AsyncIterator[None]:
    task = asyncio.create_task(lookups.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def queue(lookups: ReverseLookups, count: int) -> None:
    for number in range(count):
        lookups.find((0x0A000000 + number).to_bytes(4, "big"), 0)
    lookups.wake()


async def test_a_bounded_number_is_asked_about_at_once() -> None:
    slow = Slow()
    lookups = ReverseLookups(slow, now_ns=lambda: 0, pause=0)
    async with running(lookups):
        queue(lookups, 20)
        await until(lambda: len(slow.asked) == 8)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(slow.asked) == 8
        slow.may_answer.set()
        await until(lambda: lookups.counts.answered == 20)
    assert slow.asked == [(0x0A000000 + number).to_bytes(4, "big") for number in range(20)]


async def test_another_thread_wakes_it() -> None:
    slow = Slow()
    slow.may_answer.set()
    lookups = ReverseLookups(slow, pause=0)
    async with running(lookups):
        for count in (1, 2):
            await asyncio.to_thread(queue, lookups, count)
            await until(lambda count=count: lookups.counts.answered == count)


async def test_queries_end_with_the_run() -> None:
    slow = Slow()
    lookups = ReverseLookups(slow, pause=0)
    async with running(lookups):
        queue(lookups, 3)
        await until(lambda: len(slow.asked) == 3)
    assert slow.cancelled == 3
    queue(lookups, 4)  # the thread that captures may go on for a while
    assert lookups.counts == ReverseCounts(asked=3, failed=3)


async def test_queries_follow_one_another_with_a_pause() -> None:
    slow = Slow()
    lookups = ReverseLookups(slow, pause=1e9)
    async with running(lookups):
        queue(lookups, 2)
        await until(lambda: bool(slow.asked))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(slow.asked) == 1


class Server(asyncio.DatagramProtocol):
    """A DNS server over UDP, of which `reply` makes the answers."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.questions: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.questions.append(query.question[0].to_text())
        answer = self._reply(query)
        if answer is not None:
            self.transport.sendto(answer, client)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    made = ThreadPoolExecutor(1)
    yield made
    made.shutdown()


async def ask(
    executor: ThreadPoolExecutor, reply: Reply, address: bytes = X, seconds: float = 30
) -> tuple[PointerAnswer | None, list[str]]:
    """Return what is understood of a server's answers, and the questions that it got."""
    server = Server(reply)
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, sock=listening
    )

    def make_resolver() -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = listening.getsockname()[1]
        resolver.search = [dns.name.from_text("search.test")]
        return resolver

    try:
        queries = PointerQueries(executor, make_resolver, seconds)
        queries.open()
        return await queries.query(address), server.questions
    finally:
        transport.close()


def pointers(*targets: dns.name.Name, ttl: int = 300) -> Reply:
    def reply(query: dns.message.Message) -> bytes:
        answer = dns.message.make_response(query)
        owner = query.question[0].name
        texts = [target.to_text() for target in targets]
        answer.answer.append(dns.rrset.from_text(owner, ttl, "IN", "PTR", *texts))
        return answer.to_wire()

    return reply


def fails(rcode: dns.rcode.Rcode) -> Reply:
    def reply(query: dns.message.Message) -> bytes:
        answer = dns.message.make_response(query)
        answer.set_rcode(rcode)
        return answer.to_wire()

    return reply


def is_too_long(query: dns.message.Message) -> bytes:
    """Answer with a name of more than 255 bytes."""
    answer = dns.message.make_response(query)
    target = 5 * (b"\x3f" + b"x" * 63) + b"\0"
    record = b"\xc0\x0c\0\x0c\0\x01\0\0\0\x10" + len(target).to_bytes(2, "big") + target
    wire = answer.to_wire()
    return wire[:6] + b"\0\x01" + wire[8:] + record


def is_alias(query: dns.message.Message) -> bytes:
    answer = dns.message.make_response(query)
    owner, alias = query.question[0].name, "1.0-127.2.0.192.in-addr.arpa."
    answer.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", alias))
    answer.answer.append(dns.rrset.from_text(alias, 90, "IN", "PTR", "a.test."))
    return answer.to_wire()


def name(*labels: bytes) -> dns.name.Name:
    return dns.name.Name([*labels, b""])


A, B = name(b"A", b"test"), name(b"b", b"test")
NONE = PointerAnswer(frozenset())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (pointers(A), PointerAnswer(frozenset({"a.test"}), 300)),
        (pointers(A, B), PointerAnswer(frozenset({"a.test", "b.test"}), 300)),
        (is_alias, PointerAnswer(frozenset({"a.test"}), 90)),
        (pointers(dns.name.root), PointerAnswer(frozenset(), 300)),
        (fails(dns.rcode.NXDOMAIN), NONE),
        (fails(dns.rcode.NOERROR), NONE),
        (fails(dns.rcode.SERVFAIL), None),
        (fails(dns.rcode.REFUSED), None),
    ],
)
async def test_answers(
    executor: ThreadPoolExecutor, reply: Reply, expected: PointerAnswer | None
) -> None:
    answer, questions = await ask(executor, reply)
    assert answer == expected
    assert questions == ["1.2.0.192.in-addr.arpa. IN PTR"]


async def test_addresses_of_ipv6(executor: ThreadPoolExecutor) -> None:
    answer, questions = await ask(executor, pointers(A), X6)
    assert answer == PointerAnswer(frozenset({"a.test"}), 300)
    assert questions == [f"1.{23 * '0.'}8.b.d.0.1.0.0.2.ip6.arpa. IN PTR"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (name(b"\x1b[2J\x07", b"a b", b"x.y\n"), r"\027[2j\007.a\032b.x\.y\010"),
        (name("é".encode(), b"\xff"), r"\195\169.\255"),
        (dns.name.from_text(LONGEST), LONGEST),
        (name(*3 * [b"\0" * 63], b"\0" * 61), ".".join([*3 * [r"\000" * 63], r"\000" * 61])),
    ],
)  # fmt: skip
async def test_hostile_names_are_escaped_and_bounded(
    executor: ThreadPoolExecutor, target: dns.name.Name, expected: str
) -> None:
    answer, _ = await ask(executor, pointers(target))
    assert answer == PointerAnswer(frozenset({expected}), 300)
    assert len(expected) <= 1004


@pytest.mark.parametrize(
    "reply", [lambda _query: None, is_too_long, lambda _query: b"\0" * 3, lambda _query: b""]
)
async def test_no_answer_and_malformed_ones_are_failures(
    executor: ThreadPoolExecutor, reply: Reply
) -> None:
    answer, _ = await ask(executor, reply, seconds=0.2)
    assert answer is None


@pytest.mark.parametrize("text", [None, "", "nameserver x.test\n", "nameserver \xff\n"])
async def test_without_a_configuration_nothing_is_known_and_it_is_read_again(
    executor: ThreadPoolExecutor, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text, "latin-1")
    read = 0

    def make_resolver() -> dns.asyncresolver.Resolver:
        nonlocal read
        read += 1
        return dns.asyncresolver.Resolver(str(path))

    queries = PointerQueries(executor, make_resolver)
    assert [await queries.query(X) for _ in range(2)] == [None, None]
    assert read == 2
