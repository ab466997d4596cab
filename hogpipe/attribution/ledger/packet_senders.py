"""The processes that send flows through packet sockets: DHCP clients, injectors, generators.

In: flows of our own network namespace, with the time of their packets. Out: their senders, as the
kernel recorded them at the interface (packet_sockets.bpf.h). Nothing raises: a map that cannot be
read has no senders.

A flow has both directions, so what the peer answers is the sender's, too.

Known limits: of a process that sends the same flow as another one did, only what passes after the
other one's last packet is attributed. An attribution in use is compared within ten seconds.
"""

from collections.abc import Sequence
from contextlib import suppress

from hogpipe.attribution.ledger.event_owners import EventOwners
from hogpipe.attribution.ledger.socket_events import EventProcess
from hogpipe.linux.bpf.sender_map import PacketSender, PacketSenderMap
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.model import OWN_NAMESPACE, FlowKey, LedgerEntry, Quality, Span
from hogpipe.protocols import NANOSECONDS

_EXPIRED_NS = 60 * NANOSECONDS


class PacketSenders:
    """Finds the senders in a map; `owners` identifies processes. For one thread at a time."""

    def __init__(self, senders: PacketSenderMap, owners: EventOwners) -> None:
        self._senders = senders
        self._owners = owners

    def find(self, flows: Sequence[tuple[FlowKey, Span]], now: float) -> list[LedgerEntry | None]:
        """Return the entry of each flow; spans are nanoseconds since boot, `now` is in seconds."""
        with suppress(OSError):  # the programs are closed, or memory is short
            if not self._senders.is_empty():
                return [self._find(flow, span, now) for flow, span in flows]
        return [None] * len(flows)

    def _find(self, flow: FlowKey, span: Span, now: float) -> LedgerEntry | None:
        if flow.namespace != OWN_NAMESPACE:
            return None
        sender = self._senders.find(
            encode_endpoints(
                flow.local_address,
                flow.local_port,
                flow.remote_address,
                flow.remote_port,
                flow.protocol,
            )
        )
        if sender is None or not _covers(sender, span):
            return None
        owner = self._owners.identify(
            EventProcess(sender.cgroup, sender.pid, sender.user_id, sender.command),
            sender.boot_ns,
            now,
        )
        if owner is None:
            return None
        return LedgerEntry(Quality.EXACT, owner, sender.cookie, is_released=True)


def _covers(sender: PacketSender, span: Span) -> bool:
    if span.start_ns - sender.last_ns > _EXPIRED_NS:
        return False
    return not sender.is_shared or sender.boot_ns <= span.start_ns
