"""PURE: the stats of a span of a history: how many windows it has, and their merged stats records.

In: windows, and rows of the table `spans`. Out: their sums. The column `stats` is JSON without what
would be zero in a run without traffic, without the stamp, and without `sinks`, whose counters are
totals since a run began.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import orjson

from hogpipe.history.packing import UnpackedWindow
from hogpipe.model import AttributionCounts, CaptureCounts
from hogpipe.records.merged_stats import merge_bodies
from hogpipe.records.schema import Stamp, StatsBody
from hogpipe.records.stats import aggregation_info, attribution_info, capture_info

_NOT_KEPT = {"type", "sinks", *Stamp.__annotations__}
_ZEROS: StatsBody = {
    "capture": capture_info(CaptureCounts()),
    "attribution": attribution_info(AttributionCounts(), {}, timed=False),
    "aggregation": aggregation_info(records=0, folded_groups=0, uncounted_flows=0),
}


class SpanSums(msgspec.Struct):
    """What a span says beside its traffic: how many windows, for how long, and their stats."""

    windows: int = 0
    covered_ms: int = 0
    stats: StatsBody | None = None

    def add(self, later: "SpanSums") -> None:
        """Add windows that arrived later."""
        self.windows += later.windows
        self.covered_ms += later.covered_ms
        if later.stats is not None:
            self.add_stats(later.stats)

    def add_stats(self, later: StatsBody) -> None:
        """Add a stats record that arrived later."""
        self.stats = later if self.stats is None else merge_bodies(self.stats, later)


def describe_window(start_ms: int, end_ms: int, window: UnpackedWindow) -> SpanSums:
    """Return what one window adds to its span."""
    span = SpanSums(1, end_ms - start_ms)
    for one in window.stats:
        own = {key: value for key, value in one.items() if key not in _NOT_KEPT}
        span.add_stats(cast("StatsBody", own))
    return span


def write_stats(span: SpanSums) -> str | None:
    """Return the column `stats` of a span, None if it has no stats record."""
    if span.stats is None:
        return None
    return orjson.dumps(_drop_zeros(span.stats, _ZEROS)).decode()


def read_span(columns: Sequence[object]) -> SpanSums:
    """Return what a row of `spans` says: its columns `windows`, `covered_ms` and `stats`."""
    windows, covered_ms, text = cast("tuple[int, int, str | None]", tuple(columns))
    if text is None:
        return SpanSums(windows, covered_ms)
    return SpanSums(windows, covered_ms, cast("StatsBody", _add_zeros(orjson.loads(text), _ZEROS)))


def _drop_zeros(tree: Mapping[str, object], zeros: Mapping[str, object]) -> dict[str, object]:
    """Return the parts of a tree that differ from those of `zeros`."""
    kept: dict[str, object] = {}
    for key, value in tree.items():
        zero = zeros.get(key)
        if isinstance(value, Mapping) and isinstance(zero, Mapping):
            if part := _drop_zeros(value, zero):
                kept[key] = part
        elif value != zero:
            kept[key] = value
    return kept


def _add_zeros(tree: Mapping[str, object], zeros: Mapping[str, object]) -> dict[str, object]:
    """Return a tree with the parts of `zeros` that it lacks."""
    whole = dict(tree)
    for key, zero in zeros.items():
        value = tree.get(key, {} if isinstance(zero, Mapping) else zero)
        if isinstance(value, Mapping) and isinstance(zero, Mapping):
            value = _add_zeros(value, zero)
        whole[key] = value
    return whole
