"""PURE: one pending flow, from its first packets to the attribution of its bytes.

In: the deltas of a flow, and what each lookup found out about it. Out, after each lookup: the bytes
with their attribution (`Settled`), or the time of the next step (`Deferred`).

What follows a lookup
---------------------
- An owner, a translated flow, or a final resolution: the flow is settled.
- A socket whose owner is unknown, or no resolution: the lookup is retried with exponential backoff
  until the deadline. Then the user of the socket, if known, is all there is. So is the lookup of a
  socket whose holder may be found yet; at the deadline the owner of the last lookup counts.
- No socket: no retry, as another lookup would find none either. The flow stays pending until the
  deadline, when the endpoint heuristic may have learnt enough to name an owner, and it is known for
  how long the flow transmits without one (`infer_sender`).

Comparison
----------
A flow whose cached attribution is to be compared has an owner already (`known`). One lookup settles
it, unless the holder of its socket may be found by a retry. What the lookup found replaces the
known attribution if its quality is no worse. Otherwise the bytes are those of the known owner, as
they may have passed before the socket was closed; a TCP flow keeps that owner for its last packets,
too.

Pieces
------
The traffic is kept in pieces, as it came in, because several processes may have used the five-tuple
one after the other. A lookup is asked about the span of each piece. If the flow is contested, each
piece gets the owner of its span. Pieces that came in after the lookup began get the same owner as
those before, unless the flow was contested or invalidated meanwhile: then they need a lookup of
their own. Beyond `_MAX_PIECES` pieces between two lookups, further traffic is added to the last.
"""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from operator import itemgetter

import msgspec

from hogpipe.attribution.resolver import Resolution, Resolver
from hogpipe.attribution.stage.flow_cache import CachedFlow, is_as_certain
from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey, Quality, Span
from hogpipe.protocols import TCP

_FIRST_BACKOFF = 0.05
_MAX_PIECES = 8


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The end of a pending flow."""

    attributed: Sequence[tuple[FlowDelta, Attribution]]
    """The traffic, in order."""
    known: Attribution | None
    """The owner of further packets; None where it must be looked up."""
    checked_at: float = -math.inf
    """When a lookup found `known`; minus infinity if none did."""
    open_for: float = 0.0
    """For how many seconds the socket of `known` had been open then, as far as is known."""
    not_looked_up: Sequence[FlowDelta] = ()
    """Pieces that need a lookup of their own."""

    @property
    def is_given_up(self) -> bool:
        """Whether no lookup found `known`."""
        return math.isinf(self.checked_at)


class Deferred(msgspec.Struct, frozen=True, gc=False):
    """The flow stays pending, and is due again at this time."""

    due: float


class PendingResolution(msgspec.Struct, eq=False, gc=False):
    """A pending flow. A new connection on the five-tuple makes a new PendingResolution."""

    flow: FlowKey
    total: FlowDelta
    since: float
    """When its first bytes came in, by the clock of the stage."""
    hold: float
    """For how many seconds the flow may stay pending."""
    backoff: float = _FIRST_BACKOFF
    """Seconds until the next attempt."""
    fallback: Attribution = UNATTRIBUTED
    """The attribution if no owner is found."""
    known: CachedFlow | None = None
    """The cached attribution that the lookup is compared with; None for a flow without one."""
    is_answered: bool = False
    """Whether a lookup has found out anything yet."""
    has_no_socket: bool = False
    """Whether a lookup has shown that the flow has no socket."""
    pieces: list[FlowDelta] | None = None
    """In order; None while there is only one, which is `total`. A flood has no second pieces."""
    asked: int = 0
    """How many of the pieces the last lookup was asked about."""

    @property
    def deadline(self) -> float:
        """Until when the flow may stay pending."""
        return self.since + self.hold

    @property
    def is_opening(self) -> bool:
        """Whether only SYNs have passed, so that a further SYN is a retransmission."""
        total = self.total
        return total.opened and not (total.transmit_packets and total.receive_packets)

    @property
    def is_full(self) -> bool:
        """Whether further traffic before the next lookup is added to the last piece."""
        return self.pieces is not None and len(self.pieces) - self.asked >= _MAX_PIECES

    @property
    def has_later_pieces(self) -> bool:
        """Whether traffic came in after the last lookup began."""
        return self.pieces is not None and len(self.pieces) > self.asked

    def add(self, delta: FlowDelta) -> None:
        """Add traffic that came in while the flow was pending."""
        if self.pieces is None:
            self.pieces = [copy(self.total)]
        if self.is_full:
            self.pieces[-1].add(delta)
        else:
            self.pieces.append(copy(delta))
        self.total.add(delta)

    def ask(self) -> Sequence[Span]:
        """Return the spans to look up, one for each piece; none if the time of one is unknown."""
        if self.pieces is None:
            self.asked = 1
            span = self.total.span
            return () if span is None else (span,)
        self.asked = len(self.pieces)
        spans = [span for piece in self.pieces if (span := piece.span) is not None]
        return spans if len(spans) == self.asked else ()

    def conclude(
        self,
        resolution: Resolution | None,
        resolver: Resolver,
        *,
        now: float,
        is_last: bool,
        is_invalidated: bool,
    ) -> Settled | Deferred:
        """Return what follows from a lookup that ended `now`; None is a lookup without an answer.

        `is_last`: there will be no other lookup. `is_invalidated`: the resolution may be wrong for
        packets that came in after the lookup began.
        """
        if resolution is not None and resolution.owners_by_span is not None:
            return self._settle_by_piece(resolution.owners_by_span)
        if resolution is not None and resolution.may_be_refined:
            self.fallback = resolution.attribution
            if now < self.deadline and not is_last:
                return self._defer(resolution, now)
        if self.known is not None:
            return self._compare(self.known.attribution, resolution, now, is_invalidated)
        open_for = 0.0
        if resolution is not None and _is_found(resolution.attribution):
            attribution, open_for = resolution.attribution, resolution.open_for
        else:
            if resolution is not None and resolution.attribution.user is not None:
                self.fallback = resolution.attribution
            is_final = is_last or (resolution is not None and resolution.is_final)
            if now < self.deadline and not is_final:
                return self._defer(resolution, now)
            attribution = self._infer(resolver)
        if is_invalidated and self._later_pieces():
            return self._settle_by_piece([attribution] * len(self._asked_pieces()))
        return Settled([(self.total, attribution)], attribution, now, open_for)

    def spans_to_recall(self) -> Sequence[Span | None]:
        """Return the spans whose recorded owners `give_up` needs, one for each piece.

        None where the flow has an owner, or no socket.
        """
        if self.known is not None or self.has_no_socket:
            return ()
        return [piece.span for piece in self.pieces or (self.total,)]

    def give_up(
        self, recalled: Sequence[Resolution | None], resolver: Resolver, now: float
    ) -> Settled:
        """Return the flow with what is known `now`, without another lookup.

        `recalled` has the recorded owners of `spans_to_recall`. A flow that may have a socket is to
        be looked up.
        """
        if self.known is not None:
            attribution = self.known.attribution
            return Settled([(self.total, attribution)], attribution, now)
        if self.has_no_socket:
            attribution = self._infer(resolver)
            return Settled([(self.total, attribution)], attribution, now)
        pieces = self.pieces or (self.total,)
        fallback = self.fallback if any(recalled) else self._infer(resolver)
        owners = [fallback if one is None else one.attribution for one in recalled]
        open_for = 0.0 if recalled[-1] is None else recalled[-1].open_for
        return Settled(list(sum_runs(pieces, owners)), owners[-1], open_for=open_for)

    def _infer(self, resolver: Resolver) -> Attribution:
        """Return the owner by a rule, else what is known."""
        found = resolver.infer(self.flow) if self.has_no_socket else self.fallback
        return resolver.infer_sender(self.flow, self.total) if found == UNATTRIBUTED else found

    def _compare(
        self, known: Attribution, resolution: Resolution | None, now: float, is_invalidated: bool
    ) -> Settled:
        found = known if resolution is None else resolution.attribution
        of_bytes = found if is_as_certain(found, known) and found != known else known
        if is_invalidated and self._later_pieces():
            return self._settle_by_piece([of_bytes] * len(self._asked_pieces()))
        from_now_on = of_bytes if self.flow.protocol == TCP else found
        open_for = 0.0 if resolution is None else resolution.open_for
        return Settled([(self.total, of_bytes)], from_now_on, now, open_for)

    def _defer(self, resolution: Resolution | None, now: float) -> Deferred:
        self.has_no_socket = resolution is not None and resolution.attribution == UNATTRIBUTED
        due = self.deadline if self.has_no_socket else min(now + self.backoff, self.deadline)
        self.backoff *= 2
        return Deferred(due)

    def _settle_by_piece(self, owners: Sequence[Attribution]) -> Settled:
        pieces = self._asked_pieces()
        missing = [UNATTRIBUTED] * (len(pieces) - len(owners))
        attributed = list(sum_runs(pieces, [*owners, *missing]))
        return Settled(attributed, known=None, not_looked_up=self._later_pieces())

    def _asked_pieces(self) -> Sequence[FlowDelta]:
        return (self.total,) if self.pieces is None else self.pieces[: self.asked]

    def _later_pieces(self) -> Sequence[FlowDelta]:
        return () if self.pieces is None else self.pieces[self.asked :]


def _is_found(attribution: Attribution) -> bool:
    """Return whether there is an owner, or none to be found, because the other copy has it."""
    return attribution.quality is not Quality.NONE or attribution.is_translated


def sum_runs(
    pieces: Sequence[FlowDelta], owners: Sequence[Attribution]
) -> Iterator[tuple[FlowDelta, Attribution]]:
    """Yield the sum of each run of pieces with the same owner, and that owner; in order."""
    for owner, run in groupby(zip(owners, pieces, strict=True), key=itemgetter(0)):
        total = FlowDelta()
        for _owner, piece in run:
            total.add(piece)
        yield total, owner
