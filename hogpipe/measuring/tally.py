"""PURE: sums by peer, bounded in number, and the qualities of their bytes.

In: traffic with a peer. Out: the same as `Peer`s, and in total. Beyond `max_peers`, traffic of
further ones is added to one peer without an address for each protocol.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

from hogpipe.aggregation.dimensions import name_transport
from hogpipe.measuring.results import Peer, Rates, Totals, Traffic, sort_peers
from hogpipe.model import Quality

_MAX_PEERS = 10_000
_NOTHING = Totals()
_SHORTEST = 1e-9  # seconds, so that no rate is infinite


class PeerKey(NamedTuple):
    """What keeps peers apart; see `Peer`. The address is empty where it is not known."""

    address: bytes
    protocol: int
    port: int | None
    local_port: int | None


class Tally:
    """Adds up traffic by peer, from `now` on; times are in seconds of one clock.

    `nothing` are the totals without any traffic, whose payload is None if that is never known.
    """

    def __init__(self, now: float, max_peers: int = _MAX_PEERS, nothing: Totals = _NOTHING) -> None:
        self._began = self._read_at = now
        self._max_peers = max_peers
        self._by_peer: dict[PeerKey, Totals] = {}
        self._totals = self._read_totals = nothing
        self._quality: Counter[str] = Counter()
        self.unattributed_bytes = 0
        """Bytes without a known process."""

    def add(self, peer: PeerKey, totals: Totals, qualities: Mapping[Quality, int]) -> None:
        """Add traffic with a peer; `qualities` are bytes by how their owner was found."""
        if peer not in self._by_peer and len(self._by_peer) >= self._max_peers:
            peer = PeerKey(b"", peer.protocol, None, None)
        before = self._by_peer.get(peer)
        self._by_peer[peer] = totals if before is None else before + totals
        self._totals += totals
        for quality, size in qualities.items():
            self._quality[quality.value] += size

    def read(self, now: float, state: Traffic) -> Traffic:
        """Return `state` with the sums, and with the rates since the reading before."""
        elapsed = max(now - self._read_at, _SHORTEST)
        totals, before = self._totals, self._read_totals
        self._read_at, self._read_totals = now, totals
        return replace(
            state,
            seconds=now - self._began,
            totals=totals,
            rates=Rates(
                (totals.transmit_bytes - before.transmit_bytes) / elapsed,
                (totals.receive_bytes - before.receive_bytes) / elapsed,
            ),
            peers=self._list_peers(),
            quality=dict(self._quality),
            unattributed_bytes=self.unattributed_bytes,
        )

    def _list_peers(self) -> tuple[Peer, ...]:
        return sort_peers(
            Peer(
                str(ip_address(peer.address)) if peer.address else "",
                name_transport(peer.protocol),
                peer.port,
                peer.local_port,
                totals,
            )
            for peer, totals in self._by_peer.items()
        )


def make_peer_key(
    address: bytes, protocol: int, local_port: int, remote_port: int, service_port: int
) -> PeerKey:
    """Return the peer of a flow, by which of its two ports that of the service is."""
    is_remote = bool(service_port) and service_port == remote_port
    is_local = bool(service_port) and not is_remote
    return PeerKey(
        address, protocol, remote_port if is_remote else None, local_port if is_local else None
    )
