"""PURE: the counters of the run itself that the header shows, from stats records.

In: stats records. Out: totals that can be added and subtracted, and gauges of the last window.
"""

import msgspec

from hogpipe.records.schema import StatsBody


class Figures(msgspec.Struct):
    """Counters of one window, or of all windows up to the cursor."""

    windows: int = 0
    """How many stats records are in it: without one, the counters are unknown."""
    captured_packets: int = 0
    captured_bytes: int = 0
    dropped: int = 0
    """Packets that were dropped before capture."""
    not_local: int = 0
    """Packets between other hosts, which belong to no row."""
    lost_events: int = 0
    folded: int = 0
    """Groups and flows that were recorded as a sum, because there were too many."""
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    """The time that the counters cover; of a window only, as the gauges below."""
    pending_flows: int = 0
    memory_bytes: int = 0
    loop_delay: float = 0.0
    foreign_lines: int = 0
    """Lines of a file of records that are no records."""

    def add(self, other: "Figures", sign: int) -> None:
        """Add the counters of a window, or subtract them; the gauges stay those of a window."""
        self.windows += sign * other.windows
        self.captured_packets += sign * other.captured_packets
        self.captured_bytes += sign * other.captured_bytes
        self.dropped += sign * other.dropped
        self.not_local += sign * other.not_local
        self.lost_events += sign * other.lost_events
        self.folded += sign * other.folded
        self.cpu_seconds += sign * other.cpu_seconds
        self.foreign_lines += sign * other.foreign_lines


def parse_stats(body: StatsBody) -> Figures:
    """Return the figures of a stats record. Raises KeyError or TypeError if it is none."""
    capture, attribution = body["capture"], body["attribution"]
    dropped, own = capture["dropped"], body.get("self")
    ledger = attribution.get("ledger")
    return Figures(
        windows=1,
        captured_packets=capture["packets"],
        captured_bytes=capture["bytes"],
        dropped=dropped["kernel"] + dropped["interface"],
        not_local=capture["not_local"]["packets"],
        lost_events=ledger["events_lost"] + ledger["sockets_lost"] if ledger else 0,
        folded=body["aggregation"]["folded_groups"] + capture["overflowed"]["packets"],
        cpu_seconds=own["cpu"]["seconds"] if own else 0.0,
        pending_flows=attribution["pending"]["flows"],
        memory_bytes=own["memory"]["bytes"] if own else 0,
        loop_delay=own["loop"]["longest_delay_seconds"] if own else 0.0,
    )
