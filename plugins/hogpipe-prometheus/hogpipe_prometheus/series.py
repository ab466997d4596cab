"""PURE: totals by label set, as counters that never decrease.

The traffic of a window is added to its label set, or to `other` if there is no room for that set.
It never moves from one set to another, so a rate over any set never exceeds the real traffic. The
sum of all sets decreases only when a stale set is removed. A removed set that returns starts at
zero, as a counter of a restarted process does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from heapq import nlargest

from hogpipe import TcpHealth, join_health
from hogpipe_prometheus.labels import Labels


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Counters of one set of labels; bytes are IP bytes. `health` is None where it is unknown."""

    transmit_bytes: int = 0
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0
    records: int = 0
    health: TcpHealth | None = None

    def add(self, other: "Traffic") -> None:
        """Add what `other` moved."""
        self.transmit_bytes += other.transmit_bytes
        self.transmit_packets += other.transmit_packets
        self.receive_bytes += other.receive_bytes
        self.receive_packets += other.receive_packets
        self.records += other.records
        self.health = join_health(self.health, other.health)

    @property
    def bytes(self) -> int:
        """Bytes of both directions."""
        return self.transmit_bytes + self.receive_bytes


class SeriesTable:
    """The totals of at most `max_series` label sets, and those of all others as `other`."""

    def __init__(self, other: Labels, max_series: int, stale_after: float) -> None:
        self._other_labels = other
        self._max_series = max_series
        self._stale_after = stale_after
        self._totals: dict[Labels, Traffic] = {}
        self._last_traffic: dict[Labels, float] = {}
        self._other = Traffic()
        self.removed = 0
        """Stale sets that were removed, since the start."""

    @property
    def folded_records(self) -> int:
        """Records in `other`, since the start."""
        return self._other.records

    def __len__(self) -> int:
        """Return how many label sets have series of their own."""
        return len(self._totals)

    def add(self, window: Mapping[Labels, Traffic], end: float) -> None:
        """Add the traffic of a window that ends at `end`, in seconds since the epoch."""
        self._remove_stale(end)
        new = [one for one in window if one not in self._totals and one != self._other_labels]
        room = self._max_series - len(self._totals)
        for labels in nlargest(room, new, key=lambda labels: window[labels].bytes):
            self._totals[labels] = Traffic()
        for labels, traffic in window.items():
            totals = self._totals.get(labels)
            if totals is None:
                self._other.add(traffic)
            else:
                totals.add(traffic)
                self._last_traffic[labels] = end

    def rows(self) -> list[tuple[Labels, Traffic]]:
        """Return each set of labels with a copy of its totals, `other` last."""
        named = [*self._totals.items(), (self._other_labels, self._other)]
        return [(labels, replace(totals)) for labels, totals in named]

    def _remove_stale(self, end: float) -> None:
        limit = end - self._stale_after
        stale = [labels for labels, moved in self._last_traffic.items() if moved < limit]
        for labels in stale:
            del self._totals[labels], self._last_traffic[labels]
        self.removed += len(stale)
