"""PURE: the flows whose owners are known, in bounded memory.

Two generations stand in for an exact list by last use: what is used moves to the young one, and
when that is full or old enough, the old one is forgotten and the young one takes its place. So a
hit costs one dict look-up, and forgetting costs nothing a flow.
"""

import msgspec

from hogpipe.model import Attribution, FlowKey, Quality
from hogpipe.protocols import TCP

_SURENESS = {Quality.NONE: 0, Quality.INFERRED: 1, Quality.LISTENER: 2, Quality.EXACT: 3}


class KnownFlow(msgspec.Struct, gc=False):
    """The answer to a flow, and the clock's time when it was last asked for."""

    attribution: Attribution
    checked: float


class FlowCache:
    """Keeps at most `max_flows` (2 or more), and surely the half of them that was used last.

    A flow is forgotten when it was idle for `idle` to twice `idle` seconds of the caller's clock.
    """

    def __init__(self, max_flows: int, idle: float, now: float) -> None:
        self._room = max(1, max_flows // 2)
        self._idle = idle
        self._turned = now
        self._young: dict[FlowKey, KnownFlow] = {}
        self._old: dict[FlowKey, KnownFlow] = {}
        self.forgotten = 0
        """How many flows were forgotten since the start."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, flow: FlowKey) -> KnownFlow | None:
        """Return what is known of `flow`, which counts as a use."""
        known = self._young.get(flow)
        if known is None and (known := self._old.pop(flow, None)) is not None:
            self._keep(flow, known)
        return known

    def put(self, flow: FlowKey, known: KnownFlow) -> None:
        """Remember `known` for `flow`."""
        self._old.pop(flow, None)
        self._keep(flow, known)

    def refresh(self, flow: FlowKey, answer: Attribution) -> None:
        """Take a new answer for `flow`, if it is known.

        A TCP connection keeps its owner after its socket is gone: what is still on its way is its
        own, though a look finds but the listener then, and the next connection begins with a SYN.
        """
        known = self.get(flow)
        if known is None:
            return  # forgotten or taken over meanwhile
        surer = _SURENESS[answer.quality] >= _SURENESS[known.attribution.quality]
        # Equal answers keep the object: others recognise it by identity.
        if (surer or flow.protocol != TCP) and answer != known.attribution:
            known.attribution = answer

    def discard(self, flow: FlowKey) -> None:
        """Remember nothing of `flow`; this is not counted as forgetting."""
        self._young.pop(flow, None)
        self._old.pop(flow, None)

    def clear(self) -> None:
        """Remember nothing; this is not counted as forgetting."""
        self._young.clear()
        self._old.clear()

    def forget_idle(self, now: float) -> None:
        """Forget what has been idle for long enough."""
        if now - self._turned >= self._idle:
            self._turned = now
            self._turn()

    def _keep(self, flow: FlowKey, known: KnownFlow) -> None:
        if flow not in self._young and len(self._young) >= self._room:
            self._turn()
        self._young[flow] = known

    def _turn(self) -> None:
        self.forgotten += len(self._old)
        self._old, self._young = self._young, {}
