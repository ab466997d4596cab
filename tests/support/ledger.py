"""Owners, events and flows for tests of the ledger, and the settings of a run with a ledger."""

import struct

from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import SOCKET_EVENT, EventKind, format_of
from hogpipe.model import Contested, FlowKey, LedgerEntry, Quality, SocketOwner, Span

TCP, UDP = 6, 17
HERE, THERE, ELSEWHERE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
ANY4, ANY6 = bytes(4), bytes(16)
NAMESPACE = 1
ALICE, BOB = SocketOwner(10, 100, 1000, "alice", 1), SocketOwner(20, 200, 1001, "bob", 1)
_MAPPED = bytes(10) + b"\xff\xff"
_EVENT = struct.Struct(format_of(SOCKET_EVENT))
SERVICE_MANAGER = SocketOwner(1, 1, 0, "systemd", 1)

LEDGER_RUN = """
[capture]
interfaces = ["{interface}"]
[attribution]
ledger = "on"
[aggregation]
interval = 0.3
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
"""A configuration that records the flows of each process, found by the ledger."""


def make_event(
    kind: EventKind,
    cookie: int,
    local_port: int = 0,
    *,
    protocol: int = TCP,
    local: bytes = ANY4,
    remote: bytes = ANY4,
    remote_port: int = 0,
    namespace: int = NAMESPACE,
    at: float = 0.0,
) -> SocketEvent:
    boot_ns = round(at * 1e9)
    return SocketEvent(
        boot_ns,
        cookie,
        namespace,
        1,
        1,
        0,
        kind,
        protocol,
        local,
        local_port,
        remote,
        remote_port,
        "x",
    )


def flow(
    local_port: int,
    remote_port: int,
    protocol: int = TCP,
    local: bytes = HERE,
    remote: bytes = THERE,
) -> FlowKey:
    return FlowKey(protocol, local, local_port, remote, remote_port, "eth0")


def span_at(first: float, last: float | None = None) -> Span:
    """Return the span of packets from `first` to `last`, given in seconds since boot."""
    return Span(round(first * 1e9), round((first if last is None else last) * 1e9) + 1)


def find_owner(
    ledger: Ledger, key: FlowKey, now: float = 0.0, span: Span | None = None
) -> tuple[Quality, SocketOwner] | Contested | None:
    """Return the owner of the packets that passed in `span`, by default at `now`."""
    entry = ledger.owner_of(key, NAMESPACE, span or span_at(now), now)
    return (entry.quality, entry.owner) if isinstance(entry, LedgerEntry) else entry


def encode_event(event: SocketEvent) -> bytes:
    """Return an event as the kernel records it."""
    addresses = event.local_address, event.remote_address
    is_ipv6 = max(map(len, addresses)) == 16
    prefix = _MAPPED if is_ipv6 else b""
    local, remote = (
        one if len(one) == 16 else (prefix + one).ljust(16, b"\0") for one in addresses
    )
    return _EVENT.pack(
        event.boot_ns,
        event.cookie,
        event.namespace_cookie,
        event.cgroup,
        event.pid,
        event.user_id,
        event.kind,
        10 if is_ipv6 else 2,
        event.protocol,
        event.local_port,
        event.remote_port,
        local,
        remote,
        event.command.encode(),
    )
