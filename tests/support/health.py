"""Health of TCP connections, made by Hypothesis."""

from collections.abc import Sequence

from hypothesis import strategies as st

from hogpipe.flows.health_columns import FIELDS, make_health
from hogpipe.flows.packet_rows import Health
from hogpipe.model import TcpHealth

LEAST = "rtt_min_us"
SUMS = tuple(name for name in TcpHealth.__struct_fields__ if name != LEAST)
_RTT = ("rtt_samples", "rtt_sum_us", LEAST)


def _make(counters: dict[str, int], rtt: tuple[int, int, int]) -> TcpHealth:
    return TcpHealth(**counters, **dict(zip(_RTT, rtt, strict=True)))


healths = st.builds(
    _make,
    st.fixed_dictionaries(
        {name: st.integers(0, 1 << 40) for name in TcpHealth.__struct_fields__ if name not in _RTT}
    ),
    st.just((0, 0, 0)) | st.tuples(*[st.integers(1, 1 << 32)] * 3),
)
"""The three counters of the round-trip time are all 0 or none is."""


def _spread(seed: int) -> TcpHealth:
    """Return a health of numbers that differ, a third of them without samples."""
    counters = {name: 1 + seed * (at + 1) % 1_000_003 for at, name in enumerate(SUMS)}
    least = seed % 3 and 1 + seed % 10_007
    if not least:
        counters |= {"rtt_samples": 0, "rtt_sum_us": 0}
    return TcpHealth(**counters, rtt_min_us=least)


quick_healths = st.integers(0, 1 << 30).map(_spread)
"""Drawn in a tenth of the time, for tests in which many are summed up."""


def encode_health(healths: Sequence[TcpHealth | None]) -> Health:
    """Return a row for each; `decode_health` is the inverse."""
    rows = make_health(len(healths))
    for row, health in zip(rows, healths, strict=True):
        if health is not None:
            row[:] = [*(getattr(health, name) for name in FIELDS), 1]
    return rows
