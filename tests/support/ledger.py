"""What tests of the ledger's book are told with: owners, events and flows between two places."""

from hogpipe.ledger.book import Ledger
from hogpipe.ledger.contract import Owner
from hogpipe.ledger.events import Kind, SocketEvent
from hogpipe.model import FlowKey, Quality

TCP, UDP = 6, 17
HERE, THERE, ELSEWHERE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
ANY4, ANY6 = bytes(4), bytes(16)
NAMESPACE = 1
ALICE, BOB = Owner(10, 100, 1000, "alice", 1), Owner(20, 200, 1001, "bob", 1)
MANAGER = Owner(1, 1, 0, "systemd", 1)


def happened(
    kind: Kind,
    cookie: int,
    local_port: int = 0,
    *,
    protocol: int = TCP,
    local: bytes = ANY4,
    remote: bytes = ANY4,
    remote_port: int = 0,
    namespace: int = NAMESPACE,
) -> SocketEvent:
    return SocketEvent(
        0, cookie, namespace, 1, 1, 0, kind, protocol, local, local_port, remote, remote_port, "x"
    )


def flow(
    local_port: int,
    remote_port: int,
    protocol: int = TCP,
    local: bytes = HERE,
    remote: bytes = THERE,
) -> FlowKey:
    return FlowKey(protocol, local, local_port, remote, remote_port, "eth0")


def ask(book: Ledger, key: FlowKey, now: float = 0.0) -> tuple[Quality, Owner] | None:
    entry = book.owner_of(key, NAMESPACE, now)
    return None if entry is None else (entry.quality, entry.owner)
