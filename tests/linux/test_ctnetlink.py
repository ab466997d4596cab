"""Connections that this kernel tracks, in namespaces of the test."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest
from support.namespaces import Namespace, namespace, require

from hogpipe.linux.ctnetlink import has_connections, read_connections
from hogpipe.linux.ctnetlink_messages import ECHO_REPLY, ConnectionTuple

TCP = 6
LOOPBACK = bytes([127, 0, 0, 1])
TRACK = """
table inet tracking {
    chain leaving {
        type filter hook output priority 0
        ct state new counter
    }
}
"""


@pytest.fixture
def tracking() -> Iterator[Namespace]:
    """A namespace that tracks connections."""
    require("ip", "nft")
    with namespace() as made:
        subprocess.run(made.command("nft", "-f", "-"), input=TRACK, text=True, check=True)
        yield made


def test_a_namespace_without_rules_tracks_nothing() -> None:
    require("ip")
    with namespace() as made, ExitStack() as stack:
        made.call(lambda: connect(stack))
        assert not made.call(has_connections)


def connect(stack: ExitStack) -> tuple[int, int]:
    """Connect over the loopback; return the ports of the client and the server."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.create_connection(server.getsockname()))
    stack.enter_context(server.accept()[0])
    return client.getsockname()[1], server.getsockname()[1]


def test_a_connection_is_found_by_the_tuple_of_either_direction(tracking: Namespace) -> None:
    with ExitStack() as stack:
        source, destination = tracking.call(lambda: connect(stack))
        assert tracking.call(has_connections)
        original = ConnectionTuple(TCP, LOOPBACK, source, LOOPBACK, destination)
        reply = ConnectionTuple(TCP, LOOPBACK, destination, LOOPBACK, source)
        unknown = original._replace(source_port=1)
        asked = [original, unknown, reply] * 100
        found = tracking.call(lambda: read_connections(asked))
    assert found == [(original, reply), None, (original, reply)] * 100


def test_any_protocol_can_be_asked_about(tracking: Namespace) -> None:
    asked = [
        ConnectionTuple(protocol, bytes(size), 0, bytes(size), 0, ECHO_REPLY.get(protocol, 0))
        for protocol, size in product(range(256), (4, 16))
    ]
    assert tracking.call(lambda: read_connections(asked)) == [None] * len(asked)


def test_nothing_asked_is_nothing_found(tracking: Namespace) -> None:
    assert tracking.call(lambda: read_connections([])) == []
