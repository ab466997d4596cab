"""PURE: the figures of growth.py as values: what each tool took at each size of a load, and slopes.

A curve set is a load at several sizes. Its file (growth.json) holds all sets; tables and plots are
made of that file, without another measurement.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of a tool at one size."""

    tool: str
    runs: list[float] = []
    """CPU time of each run in microseconds for each packet or connection."""
    a_second: float | None = None
    """Packets or connections a second while the tool ran."""
    new_us: float | None = None
    """CPU time in microseconds for each flow while all are new."""
    kernel_us: float | None = None
    """Run time of the tool's BPF programs for each packet, which is not in its own CPU time."""
    right: float | None = None
    """The least share of bytes that had the right process; None if the tool names no process."""
    dropped: float | None = None
    """The share of packets that the kernel dropped before the tool read them."""
    peak_bytes: int = 0
    wall_seconds: float | None = None
    start_seconds: float | None = None
    """CPU time of the start, which the runs are without."""
    remark: str = ""

    @property
    def cost(self) -> float | None:
        """Return the median of the runs."""
        return statistics.median(self.runs) if self.runs else None


class Point(msgspec.Struct, frozen=True):
    """One size of a load: what passed, and the figure of each tool."""

    size: int
    done: int
    """Packets or connections of a run."""
    figures: list[Figure]

    def cost_of(self, tool: str) -> float | None:
        return next((one.cost for one in self.figures if one.tool == tool), None)


class CurveSet(msgspec.Struct, frozen=True):
    """A load at several sizes."""

    title: str
    sizes: str
    """What grows, such as "flows"."""
    work: str
    """What a cost is divided by: "packet" or "connection"."""
    points: list[Point]

    @property
    def tools(self) -> list[str]:
        return list(dict.fromkeys(one.tool for point in self.points for one in point.figures))

    def curve_of(self, tool: str) -> list[tuple[int, float]]:
        """Return the sizes at which the tool has a cost, and that cost."""
        costs = ((point.size, point.cost_of(tool)) for point in self.points)
        return [(size, cost) for size, cost in costs if cost is not None and cost > 0]


class Figures(msgspec.Struct, frozen=True):
    """The content of growth.json."""

    host: str
    sets: dict[str, CurveSet]


LOSS = 0.001
"""The share of packets dropped or of bytes not right that is called a loss."""


def has_loss(one: Figure) -> bool:
    """Return whether a tool dropped packets, or did not give bytes to the right process."""
    return (one.dropped or 0) > LOSS or (one.right is not None and one.right < 1 - LOSS)


def slope_of(curve: Sequence[tuple[int, float]]) -> float | None:
    """Return the slope of a curve on two logarithmic axes, by least squares.

    0: the cost does not depend on the size; 1: it is proportional to it. None if fewer than two
    sizes are positive.
    """
    logs = [(math.log(size), math.log(cost)) for size, cost in curve if size > 0]
    if len(logs) < 2:
        return None
    sizes, costs = zip(*logs, strict=True)
    return statistics.linear_regression(sizes, costs).slope


def merge(before: Figures | None, host: str, sets: Mapping[str, CurveSet]) -> Figures:
    """Return figures with the points of `sets` in place of those of the same sizes."""
    merged = dict(before.sets) if before else {}
    for name, curves in sets.items():
        points = {point.size: point for point in merged[name].points} if name in merged else {}
        points |= {point.size: point for point in curves.points}
        ordered = [points[size] for size in sorted(points)]
        merged[name] = msgspec.structs.replace(curves, points=ordered)
    return Figures(host, merged)
