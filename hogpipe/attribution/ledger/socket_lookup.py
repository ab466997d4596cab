"""Finds the socket that the packets of a flow belonged to, at the time when they passed.

PURE. In: the index, a flow, and the time span of its packets (nanoseconds since boot). Out: the
socket and how well it matches, or the reason why there is none.

Algorithm
---------
1. Candidates come from the index, the most specific match first. Those that held the five-tuple or
   port for a part of the span are holders.
2. The search stops at the first group in which a socket held it for the whole span.
3. If all holders have one owner, the oldest of the most specific ones is the match. Else the flow
   is ambiguous (all of them held it at once) or contested (one after the other).
4. Without a holder, the last socket that held it before the span is the match: packets may
   arrive after a socket was closed.

Times are compared with a tolerance: packets are seen up to `_SETTLING_NS` after their socket was
closed, and the clocks of packets and events differ by up to `_CLOCK_ERROR_NS`. The former is not so
for a TCP connection: the kernel begins no other one on its five-tuple before its last packet.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from hogpipe.attribution.ledger.known_socket import KnownSocket
from hogpipe.attribution.ledger.socket_index import SocketIndex
from hogpipe.model import FlowKey, Quality, Span, is_same_process
from hogpipe.protocols import TCP

# A connection that is looked up later than this after its last event may have outlived its owner.
_SHORT_LIFE_SECONDS = 2.0
# A socket that is looked up later than this after its last event may have been passed on. Shorter
# than the time after which the stage compares an attribution for the first time.
_LASTING_SECONDS = 0.75
_SETTLING_NS = 200_000
_CLOCK_ERROR_NS = 50_000


class SocketMatch(NamedTuple):
    """The socket of a flow."""

    quality: Quality
    socket: KnownSocket


class NoMatch(Enum):
    """Why a flow has no socket."""

    UNKNOWN = 1
    """No known socket matches, or the event of one that matches as well may have been lost."""
    AMBIGUOUS = 2
    """Sockets of several owners match at the same time."""
    CONTESTED = 3
    """Several owners held the flow one after the other, or one for a part of the span only."""


def find_socket(
    index: SocketIndex, flow: FlowKey, namespace_cookie: int, span: Span
) -> SocketMatch | NoMatch:
    """Return the socket that all packets of `flow` in `span` belonged to."""
    groups = list(index.find_candidates(flow, namespace_cookie))
    holders: list[KnownSocket] = []
    quality, is_covered = Quality.LISTENER, False
    for number, group in enumerate(groups):
        held = [one for one in group if _held_part(one, span)]
        if held and not holders and number == 0:
            quality = held[-1].quality
        holders += [one for one in held if one not in holders]
        is_covered = any(_held_whole(one, span) for one in held)
        if is_covered:
            break
    if not holders:
        return _find_last(index, groups, flow, span)
    if any(_may_be_replaced(one, span) for one in holders):
        return NoMatch.UNKNOWN
    if not is_covered and _may_have_other_holder(index, holders, flow, span):
        is_listener = flow.protocol == TCP and holders[0] not in groups[0]
        return NoMatch.UNKNOWN if is_listener else NoMatch.CONTESTED
    if all(is_same_process(one.owner, holders[0].owner) for one in holders[1:]):
        return SocketMatch(quality, holders[0])
    at_once = all(one.until_ns is None and _held_whole(one, span) for one in holders)
    return NoMatch.AMBIGUOUS if at_once else NoMatch.CONTESTED


def holds_since(socket: KnownSocket, start_ns: int) -> bool:
    """Return whether a socket certainly holds its five-tuple or port, since `start_ns` at least."""
    if socket.until_ns is not None or socket.complete_until_ns is not None:
        return False
    return socket.since_ns <= start_ns + _CLOCK_ERROR_NS


def may_outlive_owner(socket: KnownSocket, now: float) -> bool:
    """Return whether an open socket may stay so in another process after its owner has exited.

    The release of most connections is not recorded. Those whose last event is recent are taken for
    short-lived ones.
    """
    return socket.protocol != TCP or now - socket.last_event_at > _SHORT_LIFE_SECONDS


def is_lasting(socket: KnownSocket, now: float) -> bool:
    """Return whether an open socket is old enough to have been passed on to another process."""
    return now - socket.last_event_at > _LASTING_SECONDS


def _find_last(
    index: SocketIndex, groups: Sequence[list[KnownSocket]], flow: FlowKey, span: Span
) -> SocketMatch | NoMatch:
    """Return the last socket that held the flow before `span`, if no other may have come after it.

    A socket whose local port is unknown may have.
    """
    left = [one for group in groups for one in group if one.until_ns is not None]
    before = [one for one in left if (one.until_ns or 0) < span.end_ns]
    if before:
        last = max(before, key=lambda one: one.until_ns or 0)
        if _may_be_replaced(last, span) or index.has_rival(last, flow, span):
            return NoMatch.UNKNOWN
        return SocketMatch(last.quality if last in groups[0] else Quality.LISTENER, last)
    # All candidates came later. /proc may still show an older connection at a listening port.
    came_later = groups[0] if flow.protocol == TCP else any(groups)
    return NoMatch.CONTESTED if came_later else NoMatch.UNKNOWN


def _held_part(socket: KnownSocket, span: Span) -> bool:
    """Return whether a socket held the flow for a part of the span."""
    had_left = socket.until_ns is not None and socket.until_ns + _settling(socket) < span.start_ns
    return socket.since_ns < span.end_ns + _CLOCK_ERROR_NS and not had_left


def _held_whole(socket: KnownSocket, span: Span) -> bool:
    """Return whether a socket held the flow for the whole span."""
    stayed = socket.until_ns is None or socket.until_ns + _settling(socket) >= span.end_ns
    return socket.since_ns <= span.start_ns + _CLOCK_ERROR_NS and stayed


def _settling(socket: KnownSocket) -> int:
    """Return for how long after its end packets of a socket may be seen.

    A connection ends where the next one on its five-tuple begins. Packets that the clocks put right
    before that are those that open the next one: its own last packet was longer ago.
    """
    is_connection = socket.protocol == TCP and socket.remote_port
    return -_CLOCK_ERROR_NS if is_connection else _SETTLING_NS


def _may_be_replaced(socket: KnownSocket, span: Span) -> bool:
    """Return whether another may have replaced it by the end of the span, with the event lost."""
    if socket.complete_until_ns is None:
        return False
    complete_ns = max(socket.complete_until_ns, socket.until_ns or 0)
    return complete_ns + _SETTLING_NS < span.end_ns


def _may_have_other_holder(
    index: SocketIndex, holders: list[KnownSocket], flow: FlowKey, span: Span
) -> bool:
    """Return whether an unknown socket may have held the flow before the holders, or after them."""
    if all(one.since_ns > span.start_ns + _CLOCK_ERROR_NS for one in holders):
        return True
    have_left = all(
        one.until_ns is not None and one.until_ns + _SETTLING_NS < span.end_ns for one in holders
    )
    return have_left and index.has_rival(holders[-1], flow, span)
