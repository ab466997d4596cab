"""PURE: a soak as SVG: memory, descriptors and threads, and packets over time, with its faults.

The picture has its own background, and the colours follow the reader's light or dark scheme. A
tick below the curves is a fault.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from plots import INK, draw_line, draw_text, make_document, scheme_rules

LEFT, RIGHT = 160, 740
TITLE = "A soak: memory, descriptors, threads and packets, with faults"
STRIPS = (("resident memory, MiB", 70, 180), ("descriptors, and threads", 220, 310))
PACKETS = ("packets a second", 350, 430)
FAULTS_TOP, ROW = 462, 15
COLOURS = (("#0969da", "#58a6ff"), ("#1a7f37", "#3fb950"), ("#8250df", "#bc8cff"))

Points = Sequence[tuple[float, float]]


def draw(soak: Mapping[str, Any]) -> str:
    """Return the picture of what soak.py has written."""
    seconds = soak["seconds"]
    samples = soak["samples"]
    names = sorted({fault["name"] for fault in soak["faults"]})
    height = FAULTS_TOP + ROW * len(names) + 40
    parts = [
        draw_text(16, 26, f"{seconds / 60:.0f} minutes of mixed load with faults", "ink title"),
        draw_text(16, 46, f"{len(soak['faults'])} faults, seed {soak['seed']}", "ink"),
    ]
    memory = [(one["seconds"], one["mib"]) for one in samples]
    descriptors = [(one["seconds"], one["descriptors"]) for one in samples]
    threads = [(one["seconds"], one["threads"]) for one in samples]
    parts += _strip(*STRIPS[0], seconds, [memory])
    parts += _strip(*STRIPS[1], seconds, [descriptors, threads])
    parts += _strip(*PACKETS, seconds, [[tuple(one) for one in soak["packets"]]])
    for row, name in enumerate(names):
        y = FAULTS_TOP + ROW * row
        times = [fault["seconds"] for fault in soak["faults"] if fault["name"] == name]
        parts.append(
            draw_text(LEFT - 8, y + 4, f"{name.replace('_', ' ')} ({len(times)})", "ink label end")
        )
        for at in times:
            x = _across(at, seconds)
            parts.append(draw_line(x, y - 5, x, y + 5, "fault"))
    for share in range(5):
        at, style = seconds * share / 4, "ink end" if share == 4 else "ink middle"
        parts.append(draw_text(_across(at, seconds), height - 12, f"{at / 60:.1f} min", style))
    return make_document(parts, TITLE, height, [".label { font-size: 11px }"], _colours)


def _across(at: float, seconds: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(1.0, at / seconds)


def _strip(
    title: str, top: int, bottom: int, seconds: float, curves: Sequence[Points]
) -> list[str]:
    most = max((value for points in curves for _, value in points), default=0.0) or 1.0
    parts = [draw_text(LEFT, top - 8, title, "ink")]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        parts.append(draw_line(LEFT, y, RIGHT, y, "grid"))
        parts.append(draw_text(LEFT - 8, y + 4, f"{most * share:,.0f}", "ink end"))
    for number, points in enumerate(curves):
        places = " ".join(
            f"{_across(at, seconds):.1f},{bottom - value / most * (bottom - top):.1f}"
            for at, value in points
        )
        parts.append(f'<polyline class="curve{number}" points="{places}"/>')
    return parts


def _colours(number: int) -> str:
    paper = list(INK.values())[number][0]
    rules = [
        *scheme_rules(number),
        f".label {{ paint-order: stroke; stroke: {paper}; stroke-width: 3px }}",
        f".fault {{ stroke: {COLOURS[2][number]}; stroke-width: 2 }}",
    ]
    for curve, colours in enumerate(COLOURS):
        rules.append(f".curve{curve} {{ fill: none; stroke: {colours[number]} }}")
    return "\n".join(rules)
