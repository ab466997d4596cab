"""Where the health of connections comes from: programs beside the ledger's, or destroyed sockets.

In: the maps of the health programs, or messages of sock_diag. Out: rows of connections with their
health (linux/bpf/connection_maps.py), since the last call. Both may raise OSError.
"""

from typing import Protocol

import numpy as np

from hogpipe.flows.health_columns import FIELDS, KNOWN, make_health
from hogpipe.linux.bpf.connection_maps import NO_ROWS, ConnectionMaps, ConnectionRows
from hogpipe.linux.bpf.health_rows import HealthRows
from hogpipe.linux.bpf.programs import attach_health_programs
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.linux.destroyed_messages import DestroyedSocket, parse_destroyed
from hogpipe.linux.destroyed_sockets import DestroyedSockets
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.protocols import TCP

MAX_CONNECTIONS = 1 << 14
"""How many connections there may be between two readings."""


class HealthOrigin(Protocol):
    """For one thread at a time, until `close`."""

    knows_beginnings: bool
    """Whether health is that since the run began, also of connections that are older."""

    @property
    def lost(self) -> int:
        """How often there was no room, so far."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable while `ingest` has something to do."""

    def ingest(self) -> None:
        """Take in what there is."""

    def take(self) -> ConnectionRows | None:
        """Return the connections since the last call, None if there are none."""

    def close(self) -> None:
        """Release everything. May be called again."""


class ProgramHealth:
    """What the programs count. Raises BpfUnavailableError."""

    knows_beginnings = True

    def __init__(self) -> None:
        self._lost = 0
        programs = attach_health_programs(max_connections=MAX_CONNECTIONS)
        self._maps = ConnectionMaps(programs, MAX_CONNECTIONS)

    @property
    def lost(self) -> int:
        """How often all rows were taken."""
        return self._lost

    def fileno(self) -> int | None:
        """Return None: the maps are read when they are asked for."""
        return None

    def ingest(self) -> None:
        """Do nothing."""

    def take(self) -> ConnectionRows | None:
        """Begin another epoch, and return that before."""
        used = self._maps.count_used()
        if not used:
            return None
        if used >= MAX_CONNECTIONS:
            self._lost += 1
        self._maps.begin_epoch()
        return self._maps.take_connections()

    def close(self) -> None:
        """Detach the programs."""
        self._maps.close()


class DestroyedHealth:
    """The last tcp_info of sockets of this network namespace that are destroyed.

    It has the whole life of a connection, so that of older ones it says nothing of the run.
    """

    knows_beginnings = False

    def __init__(self) -> None:
        self._own_cookie = read_own_cookie()
        self._sockets = DestroyedSockets()
        self._found: list[DestroyedSocket] = []
        self._full = 0

    @property
    def lost(self) -> int:
        """How often there was no room for messages, here or in the kernel."""
        return self._sockets.overruns + self._full

    def fileno(self) -> int | None:
        """Return the descriptor of the link."""
        return self._sockets.fileno()

    def ingest(self) -> None:
        """Read the messages that are there."""
        found = map(parse_destroyed, self._sockets.read(MAX_CONNECTIONS))
        self._found += [one for one in found if one is not None]
        if len(self._found) > MAX_CONNECTIONS:
            self._full += 1
            del self._found[MAX_CONNECTIONS:]

    def take(self) -> ConnectionRows | None:
        """Return what was ingested."""
        found, self._found = self._found, []
        return make_rows(found, self._own_cookie) if found else None

    def close(self) -> None:
        """Stop listening."""
        self._sockets.close()


def make_rows(found: list[DestroyedSocket], namespace: int) -> ConnectionRows:
    """Return rows of connections in the network namespace with this cookie."""
    rows = np.zeros(len(found), TRAFFIC_ROW)
    health = make_health(len(found))
    rows["namespace"] = namespace
    for place, one in enumerate(found):
        ends = encode_endpoints(
            one.local_address, one.local_port, one.remote_address, one.remote_port, TCP
        )
        rows["cookie"][place] = one.cookie
        rows["endpoints"][place] = np.frombuffer(ends, np.uint64)
        health[place, :KNOWN] = [getattr(one.health, name) for name in FIELDS]
    health[:, KNOWN] = 1
    return ConnectionRows(rows, NO_ROWS, HealthRows(rows["cookie"].copy(), health))
