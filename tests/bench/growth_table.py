"""PURE: the tables of growth.py: ratios first, then costs, and each loss in the same row."""

import re
from collections.abc import Mapping, Sequence

from figures import LOSS, CurveSet, Figure, Point, has_loss, slope_of
from report import ABSENT, table
from tools import NETHOGS, TCPDUMP

LOSS_MARK = "†"
BLOCK = re.compile(r"(<!-- growth: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""The block of a page that has the curves of a set."""
DEARER = 1.05
"""A cost that is called dearer than another one is at least as many times that."""


def render(curves: CurveSet) -> str:
    """Return the heading, the curves, and all figures of each size."""
    head = (
        curves.sizes, "tool", "/ tcpdump", "/ nethogs", f"us a {curves.work}", "range", "a second",
        "us of programs", "us a new flow", "right %", "dropped %", "wall s", "start s", "peak MB",
        "loss",
    )  # fmt: skip
    rows = [row for point in curves.points for row in rows_of(point)]
    return f"## {curves.title}\n\n{render_curves(curves)}\n\n{without_empty_columns(head, rows)}"


def render_curves(curves: CurveSet) -> str:
    """Return a table of the curves: at each size the ratio to tcpdump, and the cost in us."""
    sizes = [f"{point.size:,}" for point in curves.points]
    head = (f"us a {curves.work} by {curves.sizes}", *sizes, "slope")
    return table(head, [curve_row(curves, tool) for tool in curves.tools])


def curve_row(curves: CurveSet, tool: str) -> list[str]:
    """Return a tool's ratio to tcpdump and cost at each size, marked where it has a loss."""
    cells = [tool]
    for point in curves.points:
        found = next((one for one in point.figures if one.tool == tool), None)
        if found is None or found.cost is None:
            cells.append(ABSENT)
            continue
        times = ratio(found.cost, point.cost_of(TCPDUMP))
        mark = f" {LOSS_MARK}" if has_loss(found) else ""
        cells.append(f"{times}x ({number(found.cost)}){mark}")
    slope = slope_of(curves.curve_of(tool))
    return [*cells, ABSENT if slope is None else f"{slope:.2f}"]


def refresh(page: str, sets: Mapping[str, CurveSet]) -> str:
    """Return a page with the curves of each set in the block of its name."""

    def replace(block: re.Match[str]) -> str:
        begin, name, end = block.groups()
        return f"{begin}\n{render_curves(sets[name])}\n\n{end}" if name in sets else block[0]

    return BLOCK.sub(replace, page)


def without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of the columns that have a value."""
    columns = zip(head, *rows, strict=True)
    kept = [column for column in columns if set(column[1:]) != {ABSENT}]
    kept_head, *kept_rows = zip(*kept, strict=True)
    return table(kept_head, kept_rows)


def rows_of(point: Point) -> list[list[str]]:
    return [
        [
            f"{point.size:,}",
            one.tool,
            ratio(one.cost, point.cost_of(TCPDUMP)),
            ratio(one.cost, point.cost_of(NETHOGS)),
            number(one.cost),
            f"{number(min(one.runs))} to {number(max(one.runs))}" if len(one.runs) > 1 else ABSENT,
            number(one.a_second),
            number(one.kernel_us),
            number(one.new_us),
            percent(one.right),
            percent(one.dropped),
            number(one.wall_seconds),
            number(one.start_seconds),
            f"{one.peak_bytes / 1e6:.0f}" if one.peak_bytes else ABSENT,
            "; ".join(losses_of(one, point)) or ABSENT,
        ]
        for one in point.figures
    ]


def losses_of(one: Figure, point: Point) -> list[str]:
    """Return in which ways a tool is worse than it should be, or than nethogs."""
    found = []
    nethogs = point.cost_of(NETHOGS)
    if one.cost and nethogs and one.cost > DEARER * nethogs:
        found.append("dearer than nethogs")
    if (one.dropped or 0) > LOSS:
        found.append(f"dropped {percent(one.dropped)} %")
    if one.right is not None and one.right < 1 - LOSS:
        found.append(f"{percent(1 - one.right)} % not right")
    return [*found, one.remark] if one.remark else found


def ratio(cost: float | None, other: float | None) -> str:
    return number(cost / other) if cost is not None and other else ABSENT


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return ABSENT
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.2f}"
