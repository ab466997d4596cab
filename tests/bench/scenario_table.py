"""PURE: how right a tool is about a scenario, and the table of all scenarios."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from acts import connections, datagrams, processes, servers
from acts.common import Owners
from report import ABSENT, table
from scenario_truth import Passed
from tools import EBPF, LEDGER, NETHOGS, PROCFS
from verdict import ETHERNET_HEADER

TOOLS = (PROCFS, LEDGER, EBPF, NETHOGS)
TOLERANCE = 0.01
BLOCK = re.compile(r"(<!-- scoreboard -->\n).*?(<!-- end -->)", re.DOTALL)
_ACTS = (connections, processes, datagrams, servers)

EXPLAINED = {
    "forked_sender": "The ledger and `ebpf` have the process that connected. A comparison with "
    "/proc, seconds later, finds who holds the descriptor now; earlier bytes stay with the parent.",
    "passed_descriptor": "The same: no hook of a control group runs when a descriptor is passed. "
    "With `ebpf` the holder has all that passes until the connection ends.",
    "udp_fragments": "`ebpf` counts a datagram before it is fragmented, so without the headers of "
    "the further fragments: 1.2 % of these bytes.",
}
"""Why the ledger, or `ebpf`, is not right about a scenario."""

Score = Mapping[str, Any]
"""`processes`, and of these `named` and `exact`, those with their bytes; the shares of the truth
that the `right` processes and `wrong` ones got. Or `error`."""
Scores = Mapping[str, Score]
"""By tool; empty if the kernel cannot do the scenario."""


def score(
    reported: Mapping[int | None, int],
    owners: Owners,
    passed: Passed,
    *,
    both_ends: bool,
    link_header: bool,
) -> Score:
    """Compare the bytes of each process with what passed on its ports.

    Processes that share a port moved the same there: all of it if they are `both_ends`.
    """
    header = ETHERNET_HEADER if link_header else 0
    sharers = Counter((protocol, port) for _, protocol, ports in owners for port in ports)
    truth: Counter[int] = Counter()
    for pid, protocol, ports in owners:
        for key in ((protocol, port) for port in ports):
            size = passed.bytes[key] + header * passed.packets[key]
            truth[pid] += size if both_ends else size // sharers[key]
    total = truth.total()
    if not total:
        raise ValueError("nothing passed on the ports of the scenario")
    given = {pid: reported.get(pid, 0) for pid in truth}
    others = sum(size for pid, size in reported.items() if pid and pid not in truth)
    return {
        "processes": len(truth),
        "named": sum(size > 0 for size in given.values()),
        "exact": sum(abs(given[pid] - size) <= TOLERANCE * size for pid, size in truth.items()),
        "right": sum(min(given[pid], size) for pid, size in truth.items()) / total,
        "excess": sum(max(0, given[pid] - size) for pid, size in truth.items()) / total,
        "wrong": others / total,
    }


def is_right(one: Score) -> bool:
    """Return whether all processes are named with their bytes, and no other one is."""
    return "error" not in one and one["exact"] == one["processes"] and one["wrong"] <= TOLERANCE


def describe(one: Score | None) -> str:
    """Return a cell: `right`, or what is not."""
    if one is None:
        return ABSENT
    if "error" in one:
        return "failed"
    if is_right(one):
        return "right"
    found = []
    if one["named"] < one["processes"]:
        found.append(f"{one['named']} of {one['processes']} named" if one["named"] else "not named")
    if one["named"]:
        found.append(f"{100 * one['right']:.1f} % of bytes")
    if one["excess"] > TOLERANCE:
        found.append(f"{100 * one['excess']:.1f} % too many")
    if one["wrong"] > TOLERANCE:
        found.append(f"{100 * one['wrong']:.1f} % to others")
    return ", ".join(found)


def render(figures: Mapping[str, Scores]) -> str:
    """Return the table, and how many scenarios each tool is right about."""
    rows = [
        [_title(name), *(describe(scores.get(tool)) for tool in TOOLS)]
        for name, scores in figures.items()
        if scores
    ]
    done = [scores for scores in figures.values() if scores]
    counts = [sum(tool in one and is_right(one[tool]) for one in done) for tool in TOOLS]
    total = [f"**right, of {len(done)}**", *(f"**{count}**" for count in counts)]
    reasons = [f"- **{_title(name)}.** {reason}" for name, reason in EXPLAINED.items()]
    return "\n".join([table(("scenario", *TOOLS), [*rows, total]), "", *reasons])


def unexplained(figures: Mapping[str, Scores]) -> list[tuple[str, str]]:
    """Return each scenario, and tool, that should be right and is not."""
    return [
        (name, tool)
        for name, scores in figures.items()
        for tool in (LEDGER, EBPF)
        if tool in scores and not is_right(scores[tool]) and name not in EXPLAINED
    ]


def refresh(page: str, figures: Mapping[str, Scores]) -> str:
    """Return a page with the table in its block."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{render(figures)}\n\n{block[2]}", page)


def _title(name: str) -> str:
    """Return what an act says of itself."""
    (found,) = (getattr(one, name) for one in _ACTS if hasattr(one, name))
    return (found.__doc__ or name).rstrip(".")
