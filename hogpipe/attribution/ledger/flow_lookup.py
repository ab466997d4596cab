"""Looks flows up in a ledger: translates network namespaces, and asks span by span if contested.

In: flows with the spans in which their packets passed. Out: the ledger's entry for each flow that
it knows; for a contested flow (several processes used the five-tuple one after the other) an entry
for each span, None where a single span is contested too.

A flow whose network namespace has no cookie that can be found is unknown to the ledger.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hogpipe.attribution.ledger.socket_ledger import SocketLedger
from hogpipe.attribution.resolver import FlowsInSpans, FlowSpans
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.model import OWN_NAMESPACE, Contested, FlowKey, LedgerEntry, Span

_SLICE = 500  # flows that are found, in some 2 ms, before another thread may use the ledger


class LedgerMatches(NamedTuple):
    """What a ledger knows of flows; a flow that it does not know is in neither."""

    entries: dict[FlowKey, LedgerEntry]
    contested: dict[FlowKey, list[LedgerEntry | None]]
    """An entry for each span."""


class FlowLookup:
    """Looks flows up in `ledger`."""

    def __init__(self, ledger: SocketLedger, namespaces: NetworkNamespaces) -> None:
        self._ledger = ledger
        self._namespaces = namespaces

    def find(self, flows: FlowSpans, now: float) -> LedgerMatches:
        """Return what the ledger knows after all that has happened; `now` is in seconds.

        For one thread at a time. Raises OSError if the processes of other namespaces cannot be
        listed.
        """
        self._ledger.refresh()
        inodes = {flow.namespace for flow in flows if flow.namespace is not None}
        cookies: dict[int | None, int | None] = {None: None}
        cookies.update(self._namespaces.find_cookies(inodes, now).items())
        matches = LedgerMatches({}, {})
        whole: dict[int | None, list[tuple[FlowKey, Span | None]]] = {}
        for flow, spans in flows.items():
            if flow.namespace not in cookies:
                continue
            cookie = cookies[flow.namespace]
            if len(spans) > 1:
                self._find_divisible(flow, cookie, spans, matches)
            else:
                whole.setdefault(cookie, []).append((flow, spans[0] if spans else None))
        for cookie, asked in whole.items():
            for start in range(0, len(asked), _SLICE):
                self._find_whole(asked[start : start + _SLICE], cookie, matches)
        return matches

    def _find_whole(self, asked: FlowsInSpans, cookie: int | None, matches: LedgerMatches) -> None:
        """Find the owners of flows that are asked about in one span each."""
        found = self._ledger.owners_of(asked, cookie)
        for (flow, span), entry in zip(asked, found, strict=True):
            if isinstance(entry, LedgerEntry):
                matches.entries[flow] = entry
            elif entry is not None:
                matches.contested[flow] = [] if span is None else [None]

    def _find_divisible(
        self, flow: FlowKey, cookie: int | None, spans: Sequence[Span], matches: LedgerMatches
    ) -> None:
        """Find the owner of a flow in all spans, or one for each span if the flow is contested."""
        entry = self._ledger.owner_of(flow, cookie, _hull(spans), is_divisible=True)
        if isinstance(entry, LedgerEntry):
            matches.entries[flow] = entry
        elif entry is not None:
            entries = (self._ledger.owner_of(flow, cookie, span) for span in spans)
            matches.contested[flow] = [
                entry if isinstance(entry, LedgerEntry) else None for entry in entries
            ]

    def find_packet_senders(self, flows: FlowSpans) -> dict[FlowKey, LedgerEntry]:
        """Return the processes that send flows of our own namespace through packet sockets."""
        asked = [
            (flow, _hull(spans) if spans else None)
            for flow, spans in flows.items()
            if flow.namespace == OWN_NAMESPACE
        ]
        found = self._ledger.packet_senders_of(asked)
        return {
            flow: entry for (flow, _), entry in zip(asked, found, strict=True) if entry is not None
        }

    def recall(self, flows: FlowsInSpans) -> list[LedgerEntry | Contested | None]:
        """Return what the ledger has recorded of each flow of our own namespace, None of others.

        Safe from any thread; nothing is read or ingested.
        """
        own = [one for one in flows if one[0].namespace == OWN_NAMESPACE]
        found = iter(self._ledger.owners_of(own, self._namespaces.own_cookie))
        return [next(found) if flow.namespace == OWN_NAMESPACE else None for flow, _span in flows]


def _hull(spans: Sequence[Span]) -> Span:
    """Return the time from the beginning of the first span to the end of the last."""
    return Span(min(one.start_ns for one in spans), max(one.end_ns for one in spans))
