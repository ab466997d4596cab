"""PURE: curves as SVG on two logarithmic axes, each named with its slope at its end.

The picture has its own background, and the colours follow the reader's light or dark scheme. A
hollow mark is a figure with a loss: packets dropped, or bytes without the right process. A size of
0 has no logarithm: it stands left of the others, and has no part in the slope.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from figures import CurveSet, has_loss, slope_of

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 540, 68, 360
LABEL_HEIGHT = 17
MARK = 4.5
LOSS_TEXT = "hollow: packets dropped, or bytes without the right process"
INK = {"light": ("#ffffff", "#1f2328", "#d0d7de"), "dark": ("#0d1117", "#e6edf3", "#30363d")}
"""Background, text and grid."""
COLOURS = {
    "tcpdump": ("#6e7781", "#9ea7b3"),
    "hogpipe": ("#0969da", "#58a6ff"),
    "hogpipe, ledger": ("#8250df", "#bc8cff"),
    "hogpipe, ebpf": ("#1a7f37", "#3fb950"),
    "nethogs": ("#cf222e", "#ff7b72"),
}
"""By tool: in a light and in a dark scheme."""


def draw(curves: CurveSet) -> str:
    """Return the picture; curves without a positive cost are left out."""
    tools = [tool for tool in curves.tools if curves.curve_of(tool)]
    costs = [cost for tool in tools for _, cost in curves.curve_of(tool)]
    if not costs:
        return _document([draw_text(LEFT, TOP, "no figures", "ink")], curves.title)
    sizes = [point.size for point in curves.points]
    across, up = _Across(sizes), _Up(min(costs), max(costs))
    parts = [draw_text(LEFT - 54, 28, curves.title, "ink title")]
    parts += [draw_text(LEFT - 54, 46, f"us of CPU time for each {curves.work}", "ink")]
    parts += _grid(curves, across, up)
    ends = []
    for tool in tools:
        points = [(across.place(size), up.place(cost)) for size, cost in curves.curve_of(tool)]
        parts += _curve(curves, tool, points)
        ends.append((points[-1][1], tool))
    for (_, tool), place in zip(sorted(ends), _spread([y for y, _ in sorted(ends)]), strict=True):
        slope = slope_of(curves.curve_of(tool))
        name = tool if slope is None else f"{tool}: slope {slope:.2f}"
        parts.append(draw_text(RIGHT + 14, place + 4, name, _style(tool)))
    if any(has_loss(figure) for point in curves.points for figure in point.figures):
        parts.append(draw_text(LEFT - 54, HEIGHT - 6, LOSS_TEXT, "ink"))
    return _document(parts, curves.title)


class _Across:
    """The horizontal axis."""

    def __init__(self, sizes: Sequence[int]) -> None:
        logs = [math.log(size) for size in sizes if size > 0]
        self._least = min(logs, default=0.0)
        self._most = max(logs, default=1.0)
        self._begin = LEFT + (90 if 0 in sizes else 20)

    def place(self, size: int) -> float:
        if size == 0:
            return LEFT + 20
        if self._most == self._least:
            return (self._begin + RIGHT - 10) / 2
        share = (math.log(size) - self._least) / (self._most - self._least)
        return self._begin + share * (RIGHT - 10 - self._begin)


class _Up:
    """The vertical axis, of whole decades."""

    def __init__(self, least: float, most: float) -> None:
        self.first = math.floor(math.log10(least))
        self.last = max(math.ceil(math.log10(most)), self.first + 1)

    def place(self, cost: float) -> float:
        share = (math.log10(cost) - self.first) / (self.last - self.first)
        return BOTTOM - share * (BOTTOM - TOP)


def _grid(curves: CurveSet, across: _Across, up: _Up) -> list[str]:
    parts = []
    for decade in range(up.first, up.last + 1):
        y = up.place(10.0**decade)
        parts.append(draw_line(LEFT, y, RIGHT, y, "grid"))
        parts.append(draw_text(LEFT - 8, y + 4, f"{10.0**decade:,.10g}", "ink end"))
    for point in curves.points:
        x = across.place(point.size)
        parts.append(draw_line(x, TOP, x, BOTTOM, "grid"))
        parts.append(draw_text(x, BOTTOM + 18, f"{point.size:,}", "ink middle"))
    parts.append(draw_text((LEFT + RIGHT) / 2, BOTTOM + 40, curves.sizes, "ink middle"))
    return parts


def _curve(curves: CurveSet, tool: str, points: Sequence[tuple[float, float]]) -> list[str]:
    style = _style(tool)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline class="curve {style}" points="{path}"/>']
    lossy = [
        has_loss(figure)
        for point in curves.points
        for figure in point.figures
        if figure.tool == tool and figure.cost is not None and figure.cost > 0
    ]
    for (x, y), loss in zip(points, lossy, strict=True):
        filled = "hollow" if loss else "mark"
        parts.append(f'<circle class="{filled} {style}" cx="{x:.1f}" cy="{y:.1f}" r="{MARK}"/>')
    return parts


def _spread(places: Sequence[float]) -> list[float]:
    """Return ascending places that are at least LABEL_HEIGHT apart, near the given ones."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + LABEL_HEIGHT) if spread else place)
    excess = max(0.0, spread[-1] - BOTTOM)
    for number in range(len(spread) - 1, -1, -1):
        limit = spread[number + 1] - LABEL_HEIGHT if number + 1 < len(spread) else BOTTOM
        spread[number] = min(spread[number], limit) if excess else spread[number]
    return spread


def _style(tool: str) -> str:
    return f"tool{list(COLOURS).index(tool)}"


def draw_line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def draw_text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def scheme_rules(number: int) -> list[str]:
    """Return the rules that all pictures have in a scheme: 0 is light, 1 is dark."""
    paper, ink, grid = list(INK.values())[number]
    return [f".paper {{ fill: {paper} }}", f".ink {{ fill: {ink} }}", f".grid {{ stroke: {grid} }}"]


def _colours(number: int) -> str:
    """Return the rules of a scheme for curves of tools."""
    paper = list(INK.values())[number][0]
    rules = [*scheme_rules(number), f".hollow {{ fill: {paper} }}"]
    for tool, colours in COLOURS.items():
        style, colour = _style(tool), colours[number]
        rules += [f"text.{style}, .mark.{style} {{ fill: {colour} }}"]
        rules += [f".curve.{style}, .mark.{style}, .hollow.{style} {{ stroke: {colour} }}"]
    return "\n".join(rules)


def _document(parts: Sequence[str], title: str) -> str:
    rules = (".curve { fill: none; stroke-width: 2 }", ".hollow { stroke-width: 2 }")
    return make_document(parts, title, HEIGHT, rules, _colours)


def make_document(
    parts: Sequence[str],
    title: str,
    height: int,
    rules: Sequence[str],
    colours: Callable[[int], str],
) -> str:
    """Return a picture of these parts; `colours` returns the rules of a scheme by its number."""
    style = "\n".join(
        [
            "text { font: 13px sans-serif }",
            ".title { font-size: 16px; font-weight: bold }",
            ".end { text-anchor: end }",
            ".middle { text-anchor: middle }",
            *rules,
            colours(0),
            f"@media (prefers-color-scheme: dark) {{\n{colours(1)}\n}}",
        ]
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}\n</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>\n",
        ]
    )
