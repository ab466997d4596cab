"""The flows whose cached attributions may be wrong by now: for the flow cache, which drops them.

The ledger adds flows from whichever thread ingests its events, and the thread of the source those
whose SYNs were folded (capture/handoff.py). The attributor drains them, each once, before it uses
its cache. Before packets are attributed by cached answers, a drain first has the ledger ingest the
events that have happened until then, so that no answer is used that an earlier event invalidated.

The number of flows is bounded. Beyond the bound a drain reports EVERY_FLOW: the flow cache must be
emptied. That costs lookups and never a wrong owner.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import Final, Literal

from hogpipe.model import FlowKey


class _Overflow(Enum):
    EVERY_FLOW = "every flow"


EVERY_FLOW: Final = _Overflow.EVERY_FLOW


class StaleFlows:
    """At most `max_flows` flows wait for the next drain. Safe from any thread."""

    def __init__(self, max_flows: int = 262_144) -> None:
        self._max_flows = max_flows
        self._lock = threading.Lock()
        self._flows: dict[FlowKey, None] = {}
        self._overflowed = False
        self._ingest_events: Callable[[], None] | None = None

    def ingest_before_drain(self, ingest_events: Callable[[], None]) -> None:
        """Call `ingest_events` at the beginning of a drain; it adds what is stale by then.

        It must not take long: the event loop waits for it.
        """
        self._ingest_events = ingest_events

    def add(self, flow: FlowKey) -> None:
        """Report that the attribution of `flow` may be wrong by now."""
        with self._lock:
            self._flows[flow] = None
            if len(self._flows) > self._max_flows:
                self._overflow()

    def add_all(self, flows: Iterable[FlowKey]) -> None:
        """Report that the attributions of `flows` may be wrong by now."""
        with self._lock:
            self._flows.update(dict.fromkeys(flows))
            if len(self._flows) > self._max_flows:
                self._overflow()

    def drain(self, *, ingest: bool = True) -> Collection[FlowKey] | Literal[_Overflow.EVERY_FLOW]:
        """Return the flows that were added since the last drain; EVERY_FLOW after an overflow.

        Without `ingest` they are those of the events that were ingested before.
        """
        if ingest and self._ingest_events is not None:
            self._ingest_events()
        with self._lock:
            flows, self._flows = self._flows, {}
            overflowed, self._overflowed = self._overflowed, False
        return EVERY_FLOW if overflowed else list(flows)

    def _overflow(self) -> None:
        self._flows.clear()
        self._overflowed = True
