"""The tables of a benchmark in Markdown; every kind of loss has a column."""

import os
import platform
from collections.abc import Iterable, Sequence
from typing import Any

from stage import LoadResult, Result
from tools import Outcome
from verdict import Verdict

LOAD_HEAD = (
    "workload", "connections", "a second", "failed", "ms median", "ms p99",
    "packets", "MB", "stray", "tcpdump drops",
)  # fmt: skip
BYTES_HEAD = (
    "workload", "tool", "right %", "near %", "far %", "wrong %", "unattr. %", "missing %",
    "exact %", "listener %", "inferred %", "none %", "drops", "remarks",
)  # fmt: skip
COST_HEAD = (
    "workload", "tool", "CPU s", "lookup s", "ms/conn", "ms/conn reported", "us/packet",
    "nethogs/this", "peak MB", "loop ms", "start CPU s",
)  # fmt: skip
QUALITIES = ("exact", "listener", "inferred", "none")
ABSENT = "-"


def host() -> str:
    """Return a line about this host."""
    cores = len(os.sched_getaffinity(0))
    return f"Linux {platform.release()}, {cores} cores, Python {platform.python_version()}"


def load_row(result: Result) -> list[str]:
    load = result.load
    return [
        result.workload,
        str(load.opened),
        f"{load.opened / load.seconds:.0f}",
        str(load.failed),
        f"{load.median_ms:.2f}",
        f"{load.p99_ms:.2f}",
        str(load.packets),
        f"{load.bytes / 1e6:.1f}",
        str(load.stray_packets),
        str(load.dropped),
    ]


def bytes_rows(result: Result) -> list[list[str]]:
    """Return how each tool attributed the bytes, in percent of the truth in its own unit."""
    rows = []
    for outcome, verdict in result.tools:
        cells = [result.workload, outcome.tool]
        if verdict is None:
            cells += [ABSENT] * (len(BYTES_HEAD) - 3)
        else:
            cells.append(_percent(verdict.right, verdict.truth))
            for addresses in result.sides:
                share = verdict.right_share(addresses)
                cells.append(ABSENT if share is None else f"{100 * share:.2f}")
            parts = (verdict.wrong, verdict.unattributed, verdict.missing)
            cells += [_percent(size, verdict.truth) for size in parts]
            for quality in QUALITIES:
                size = outcome.by_quality.get(quality, 0)
                cells.append(_percent(size, verdict.truth) if outcome.by_quality else ABSENT)
            cells.append(ABSENT if outcome.dropped is None else str(outcome.dropped))
        rows.append([*cells, _remark(outcome)])
    return rows


def _remark(outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"failed: {outcome.error}"
    return "killed while behind: CPU is a lower bound" if outcome.unfinished else ""


def cost_rows(result: Result) -> list[list[str]]:
    """Return the cost of each tool that ran."""
    nethogs = next((one.cpu_seconds for one, _ in result.tools if one.tool == "nethogs"), 0.0)
    return [
        [result.workload, outcome.tool, *_costs(outcome, verdict, result.load, nethogs)]
        for outcome, verdict in result.tools
        if verdict is not None
    ]


def _costs(outcome: Outcome, verdict: Verdict, load: LoadResult, nethogs: float) -> Iterable[str]:
    cpu, notes = outcome.cpu_seconds, outcome.notes
    several = load.opened > 1  # a cost per connection is meaningless for a single long one
    reported = load.opened * (1 - verdict.missing / verdict.truth) if several else 0
    yield f"{cpu:.2f}"
    yield f"{notes['lookup_seconds']:.2f}" if notes else ABSENT
    yield f"{1e3 * cpu / load.opened:.3f}" if several else ABSENT
    yield f"{1e3 * cpu / reported:.3f}" if reported > 0 else ABSENT
    yield f"{1e6 * cpu / load.packets:.1f}"
    yield f"{nethogs / cpu:.2f}" if nethogs and cpu else ABSENT
    yield f"{outcome.peak_bytes / 1e6:.0f}"
    yield f"{1e3 * notes['longest_loop_delay_seconds']:.1f}" if notes else ABSENT
    yield f"{outcome.start_cpu_seconds:.2f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"


def as_json(result: Result) -> dict[str, Any]:
    """Return the unrounded figures of a workload."""
    return {
        "workload": result.workload,
        "load": vars(result.load),
        "tools": [
            {
                **{key: value for key, value in vars(outcome).items() if key != "reported"},
                "verdict": verdict and {**vars(verdict), "missing": verdict.missing},
            }
            for outcome, verdict in result.tools
        ],
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


def render(results: Sequence[Result]) -> str:
    """Return three tables: the loads, the attribution of each tool, and its cost."""
    tables = (
        (LOAD_HEAD, [load_row(result) for result in results]),
        (BYTES_HEAD, [row for result in results for row in bytes_rows(result)]),
        (COST_HEAD, [row for result in results for row in cost_rows(result)]),
    )
    return "\n\n".join(table(head, rows) for head, rows in tables)
