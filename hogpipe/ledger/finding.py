"""Which sockets a flow may be of, and what their age says of them.

Pure. Times are seconds of the caller's clock.
"""

from hogpipe.ledger.places import TCP, KnownSocket, Places
from hogpipe.model import FlowKey, Quality

# From a packet to the question whose it is, at the most where nothing is overloaded.
_LATENCY = 0.1
# A connection that is asked for so long after it was told of may have outlived who made it.
_SHORT_LIFE = 2.0


def find_candidates(
    places: Places, flow: FlowKey, namespace: int, now: float
) -> tuple[Quality, list[KnownSocket]]:
    """Return the sockets that fit `flow` most closely, which may be none, and how they do.

    By both its ends, unless that socket is gone and another takes what comes to its port; else by
    its local port. Nothing fits where a port that is free may by now be that of a socket whose port
    is not known.
    """
    socket = places.at_ends(flow, namespace)
    found = [] if socket is None else [socket]
    quality = Quality.LISTENER if socket is None else socket.quality
    if socket is None or _is_over(socket, now):
        at_port = places.at_port(flow, namespace)
        if at_port and (socket is None or not at_port[0].released):
            found, quality = at_port, Quality.LISTENER
    if found and _is_over(found[0], now) and places.has_rival(found[0], flow):
        return Quality.NONE, []
    return quality, found


def is_recent(socket: KnownSocket, now: float) -> bool:
    """Tell whether a socket was told of so lately that hardly another was in its place since."""
    return now - socket.told_at <= _SHORT_LIFE


def is_lasting(socket: KnownSocket, now: float) -> bool:
    """Tell whether a socket may still be open, though who used it is gone.

    The end of most connections is not told: those told of just now are taken for short ones.
    """
    return not socket.released and (socket.protocol != TCP or not is_recent(socket, now))


def _is_over(socket: KnownSocket, now: float) -> bool:
    """Tell whether the port of a socket may by now be another's.

    Packets are asked for soon after they passed, so of one that was released just now they are.
    """
    is_free = socket.released and socket.protocol != TCP
    return is_free and socket.told_at <= now - _LATENCY
