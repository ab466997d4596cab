"""Whose sockets a flow may be of, at the time when its packets passed.

Pure. `Span`s are in the kernel's time, nanoseconds since boot; ages are seconds of the caller's
clock.
"""

from collections.abc import Sequence
from enum import Enum

from hogpipe.attribution.ledger.known_socket import (
    KnownSocket,
)
from hogpipe.attribution.ledger.socket_index import SocketIndex
from hogpipe.model import (
    FlowKey,
    Quality,
    Span,
    is_same_process,
)
from hogpipe.protocols import TCP

# A connection that is asked for so long after it was told of may have outlived who made it.
_SHORT_LIFE = 2.0
# What was sent right before a socket was closed may be seen to pass right after that.
_SETTLING_NS = 200_000
# The clock of packets and that of events are the same but for this.
_CLOCK_ERROR_NS = 50_000


class Doubt(Enum):
    """Why no owner can be told."""

    UNKNOWN = 1
    """No socket is known that fits, or another one may as well, of which no event came."""
    SHARED = 2
    """Several owners have sockets that fit."""
    IN_TURN = 3
    """Several had it one after the other, or one for a part of the time."""


def find_socket(
    places: SocketIndex, flow: FlowKey, namespace: int, span: Span
) -> tuple[Quality, KnownSocket] | Doubt:
    """Return the socket that all packets of `flow` in `span` were of, and how it fits.

    Those that fit more closely come before others for as long as they were there. Where none was,
    what comes late is of the one that was there last.
    """
    ranks = [list(rank) for rank in places.near(flow, namespace)]
    takers: list[KnownSocket] = []
    quality, is_covered = Quality.LISTENER, False
    for number, rank in enumerate(ranks):
        there = [one for one in rank if _had_part(one, span)]
        if there and not takers and number == 0:
            quality = there[-1].quality
        takers += [one for one in there if one not in takers]
        is_covered = any(_had_all(one, span) for one in there)
        if is_covered:
            break
    if not takers:
        return _find_last(places, ranks, flow, span)
    if any(_is_unsure(one, span) for one in takers):
        return Doubt.UNKNOWN
    if not is_covered and _is_anothers(places, takers, flow, span):
        is_elsewhere = flow.protocol == TCP and takers[0] not in ranks[0]
        return Doubt.UNKNOWN if is_elsewhere else Doubt.IN_TURN
    if all(is_same_process(one.owner, takers[0].owner) for one in takers[1:]):
        return quality, takers[0]
    at_once = all(one.until_ns is None and _had_all(one, span) for one in takers)
    return Doubt.SHARED if at_once else Doubt.IN_TURN


def is_recent(socket: KnownSocket, now: float) -> bool:
    """Tell whether a socket was told of so lately that hardly another was in its place since."""
    return now - socket.told_at <= _SHORT_LIFE


def is_lasting(socket: KnownSocket, now: float) -> bool:
    """Tell whether a socket may still be open, though who used it is gone.

    The end of most connections is not told: those told of just now are taken for short ones.
    """
    if socket.released_ns is not None or socket.until_ns is not None:
        return False
    return socket.protocol != TCP or not is_recent(socket, now)


def _find_last(
    places: SocketIndex, ranks: Sequence[list[KnownSocket]], flow: FlowKey, span: Span
) -> tuple[Quality, KnownSocket] | Doubt:
    """Return the socket that was there last before `span`, while nobody took its place.

    By then its port may be that of a socket whose port is not known.
    """
    left = [one for rank in ranks for one in rank if one.until_ns is not None]
    before = [one for one in left if (one.until_ns or 0) < span.end_ns]
    if before:
        last = max(before, key=lambda one: one.until_ns or 0)
        if _is_unsure(last, span) or places.has_rival(last, flow, span):
            return Doubt.UNKNOWN
        return last.quality if last in ranks[0] else Quality.LISTENER, last
    # Who has the place now came later. An older connection to a port may still be seen elsewhere.
    came_later = ranks[0] if flow.protocol == TCP else any(ranks)
    return Doubt.IN_TURN if came_later else Doubt.UNKNOWN


def _had_part(socket: KnownSocket, span: Span) -> bool:
    """Tell whether a socket was in its place for some of the time."""
    is_gone = socket.until_ns is not None and socket.until_ns + _SETTLING_NS < span.start_ns
    return socket.since_ns < span.end_ns + _CLOCK_ERROR_NS and not is_gone


def _had_all(socket: KnownSocket, span: Span) -> bool:
    """Tell whether a socket was in its place for the whole time."""
    stayed = socket.until_ns is None or socket.until_ns + _SETTLING_NS >= span.end_ns
    return socket.since_ns <= span.start_ns + _CLOCK_ERROR_NS and stayed


def _is_unsure(socket: KnownSocket, span: Span) -> bool:
    """Tell whether another may have taken its place by then, of which the event was lost."""
    if socket.sure_ns is None:
        return False
    known_ns = max(socket.sure_ns, socket.until_ns or 0)
    return known_ns + _SETTLING_NS < span.end_ns


def _is_anothers(places: SocketIndex, takers: list[KnownSocket], flow: FlowKey, span: Span) -> bool:
    """Tell whether somebody else may have had the place before the takers, or after them."""
    if all(one.since_ns > span.start_ns + _CLOCK_ERROR_NS for one in takers):
        return True
    is_left = all(
        one.until_ns is not None and one.until_ns + _SETTLING_NS < span.end_ns for one in takers
    )
    return is_left and places.has_rival(takers[-1], flow, span)
