"""Runs hogpipe on sockets of every kind, and sums up which bytes have their owner.

    python tests/support/socket_kinds_run.py      (as root) writes the table of docs/sockets.md

Conversations of socket_kinds.py take place in a network namespace: of each kind, with sockets that
one process holds, that a parent and its child hold, and, on the serving side, that a group of
processes has on one port; made before hogpipe starts, and after.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import socket_kinds
from support.namespaces import Namespace, namespace
from support.running import read_records, running, traffic_of, write_config
from support.socket_kinds import KINDS

WAYS = {
    "pcap, without the ledger": ('interfaces = ["lo"]', 'ledger = "off"', "capturing on lo"),
    "pcap": ('interfaces = ["lo"]', 'ledger = "on"', "capturing on lo"),
    "ebpf": ('source = "ebpf"', "", "counting"),
}
ONE, CHILD, GROUP = "one", "parent and child", "group"
BEFORE, AFTER = "before", "after"
WRONG, UNSEEN, ACCEPTED = "wrong", "not seen", "exact¹"
SIDES = ("client", "server")
PAGE = Path(__file__).parents[2] / "docs" / "sockets.md"
# With so much time for its lookups, no outcome depends on how busy the host is.
_CONFIG = """
[capture]
{capture}
[attribution]
hold = 30
cpu_budget = 1
{attribution}
[aggregation]
interval = 0.5
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
_SECONDS = 2.5  # of traffic after the sockets of `AFTER` are made
_TOLERANCE = 0.1  # of the bytes of a case
_TABLE = re.compile(r"<!-- sockets -->\n(.*?)<!-- end -->", re.DOTALL)
_ADDRESS = re.compile(r"127\.1\.(\d+)\.[12]|fd00::([0-9a-f]+):[12]")


@dataclass(frozen=True)
class Case:
    """The sockets of one side of a conversation."""

    kind: str
    side: str
    holders: str
    age: str


Outcomes = dict[Case, Counter[str]]
"""Bytes by outcome: a quality if there is no owner or the right one, or `WRONG`."""


@dataclass
class Conversations:
    """The conversations of one run."""

    cases: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """Kind, holders and age by number."""
    pids: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    """The processes that use the sockets, by number and side."""
    missing: set[str] = field(default_factory=set)
    """Kinds that the kernel does not have."""


class _Processes:
    """The processes of one age, in a namespace. The conversations are added to `made`."""

    def __init__(self, where: Namespace, made: Conversations) -> None:
        self._where = where
        self._made = made
        self._running = ExitStack()
        self._started: dict[str, list[tuple[dict[int, str], Any]]] = {"server": [], "client": []}
        """By side: the conversations of each process, and the process."""

    @contextmanager
    def run(self, age: str) -> Iterator[None]:
        """Let the conversations take place for as long as the context lasts."""
        with self._running:
            groups = {holders: self._number(holders, age) for holders in (ONE, CHILD, GROUP)}
            for holders, numbers in groups.items():
                self._start_servers(holders, numbers)
            self._read_missing("server")
            for holders, numbers in groups.items():
                self._start_clients(holders, numbers)
            self._read_missing("client")
            self._begin("server")
            self._begin("client")
            yield
            for _, process in (*self._started["client"], *self._started["server"]):
                process.stdin.close()
                process.wait(30)

    def _number(self, holders: str, age: str) -> dict[int, str]:
        """Return the kinds of new conversations by number."""
        names = [name for name in KINDS if _takes_place(name, holders)]
        numbers = dict(enumerate(names, start=len(self._made.cases) + 1))
        self._made.cases.update((n, (name, holders, age)) for n, name in numbers.items())
        _add_addresses(self._where, numbers)
        return numbers

    def _start_servers(self, holders: str, numbers: dict[int, str]) -> None:
        served = {n: name for n, name in numbers.items() if not socket_kinds.is_by_kernel(name)}
        for _ in range(2 if holders == GROUP else 1):
            self._start("server", holders, "", served)

    def _start_clients(self, holders: str, numbers: dict[int, str]) -> None:
        for thread in sorted({KINDS[name].thread for name in numbers.values()}):
            part = {n: name for n, name in numbers.items() if KINDS[name].thread == thread}
            self._start("client", holders, thread, part)

    def _start(self, role: str, holders: str, thread: str, numbers: dict[int, str]) -> None:
        words = [sys.executable, socket_kinds.__file__, role]
        words += [CHILD if holders == CHILD else ONE, thread, json.dumps(numbers)]
        if holders == GROUP:
            words = ["sh", "-c", '"$@"; :', "sh", *words]  # each has its own parent: unrelated
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        run = self._running.enter_context(running(self._where, *words, **pipes))
        self._started[role].append((numbers, run.process))

    def _read_missing(self, side: str) -> None:
        for _, process in self._started[side]:
            numbers = json.loads(process.stdout.readline())
            self._made.missing.update(self._made.cases[number][0] for number in numbers)

    def _begin(self, side: str) -> None:
        """Let the processes of a side begin, and read which they are."""
        for _, process in self._started[side]:
            process.stdin.write("\n")
            process.stdin.flush()
        for numbers, process in self._started[side]:
            user = json.loads(process.stdout.readline())
            for number in numbers:
                self._made.pids.setdefault((number, side), set()).add(user)


def _takes_place(name: str, holders: str) -> bool:
    kind = KINDS[name]
    if kind.thread:
        return holders == ONE
    return holders != GROUP or kind.reuse


def _add_addresses(where: Namespace, numbers: Mapping[int, str]) -> None:
    over_ipv6 = [
        number for number, name in numbers.items() if KINDS[name].family == socket_kinds.V6
    ]
    where.batch(
        *(
            f"addr add fd00::{number:x}:{end}/128 dev lo nodad"
            for number in over_ipv6
            for end in (1, 2)
        )
    )


def run_way(way: str, folder: Path) -> tuple[Outcomes, set[str]]:
    """Return the bytes of each case by outcome, and the kinds that the kernel does not have."""
    capture, attribution, ready = WAYS[way]
    made = Conversations()
    config = write_config(folder, _CONFIG.format(capture=capture, attribution=attribution))
    with namespace() as where, ExitStack() as stack:
        _configure(where)
        stack.enter_context(_Processes(where, made).run(BEFORE))
        words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
        with running(None, *words) as run:
            run.wait_for(ready)
            with _Processes(where, made).run(AFTER):
                time.sleep(_SECONDS)
                assert run.end() == 0, run.errors
    records = traffic_of(read_records(folder / "records.jsonl"))
    return _sum_up(records, made), made.missing


def _configure(where: Namespace) -> None:
    where.ip("link", "set", "lo", "multicast", "on")
    where.ip("route", "add", "224.0.0.0/4", "dev", "lo")
    settings = (
        "net.ipv4.ping_group_range=0 2147483647",
        # For what a packet socket sends from a loopback address.
        "net.ipv4.conf.lo.accept_local=1",
        "net.ipv4.conf.lo.route_localnet=1",
    )
    subprocess.run(where.command("sysctl", "-qw", *settings), check=True)


def _sum_up(records: Sequence[Mapping[str, Any]], made: Conversations) -> Outcomes:
    outcomes: Outcomes = {}
    for record in records:
        network = record["network"]
        if "local" not in network:
            continue
        local, peer = network["local"]["address"], network["peer"]["address"]
        found = _ADDRESS.fullmatch(local) or _ADDRESS.fullmatch(peer)
        if found is None:
            continue
        number = int(found[1]) if found[1] else int(found[2], 16)
        kind, holders, age = made.cases[number]
        side = "client" if local == socket_kinds.ends_of(kind, number).client else "server"
        if side == "server" and socket_kinds.is_by_kernel(kind):
            continue
        counted = outcomes.setdefault(Case(kind, side, holders, age), Counter())
        right = made.pids[number, side]
        pid = record.get("process", {}).get("pid")
        for quality, octets in record["attribution"].items():
            is_wrong = pid is not None and pid not in right
            counted[WRONG if is_wrong else quality] += octets
    return outcomes


def make_cells(outcomes: Outcomes, missing: set[str]) -> dict[tuple[str, str], str]:
    """Return the text of the table for each kind and side that the kernel has."""
    cells = {}
    for name in KINDS.keys() - missing:
        for side in SIDES[: 1 if socket_kinds.is_by_kernel(name) else 2]:
            cells[name, side] = _describe(
                {
                    (holders, age): _outcome(Case(name, side, holders, age), outcomes)
                    for holders in (ONE, CHILD, GROUP)
                    if _takes_place(name, holders)
                    for age in (BEFORE, AFTER)
                }
            )
    return cells


def _outcome(case: Case, outcomes: Outcomes) -> str:
    counted = outcomes.get(case)
    if not counted:
        return UNSEEN
    total = counted.total()
    if counted[WRONG] > _TOLERANCE * total:
        return WRONG
    if KINDS[case.kind].type == socket_kinds.STREAM and case.side == "server":
        # A connection matches its listener until the server has accepted it.
        known = counted["exact"] + counted["listener"]
        if case.age == AFTER and known >= (1 - _TOLERANCE) * total:
            return ACCEPTED
    quality, most = counted.most_common(1)[0]
    return quality if most >= (1 - _TOLERANCE) * total else f"mixed: {dict(counted)}"


def _describe(cells: Mapping[tuple[str, str], str]) -> str:
    """Return the outcomes by holders and age in as few words as they need."""
    by_holders = {
        holders: _describe_ages(cells[holders, BEFORE], cells[holders, AFTER])
        for holders, age in cells
        if age == BEFORE
    }
    texts = [by_holders[ONE]]
    texts += [f"{name}: {text}" for name, text in by_holders.items() if text != texts[0]]
    return "; ".join(texts)


def _describe_ages(before: str, after: str) -> str:
    if after == ACCEPTED and before == "exact":
        return ACCEPTED
    return before if before == after else f"{after} (older than the run: {before})"


def format_table(by_way: Mapping[str, Mapping[tuple[str, str], str]]) -> str:
    """Return the table, with one row where the cells of both sides are equal."""
    lines = [f"| socket | side | {' | '.join(by_way)} |", "|---" * (2 + len(by_way)) + "|"]
    for name in KINDS:
        rows = {
            side: [cells[name, side] for cells in by_way.values()]
            for side in SIDES
            if all((name, side) in cells for cells in by_way.values())
        }
        if len(rows) == len(SIDES) and rows["client"] == rows["server"]:
            rows = {"both": rows["client"]}
        lines += [f"| {name} | {side} | {' | '.join(row)} |" for side, row in rows.items()]
    return "\n".join(lines) + "\n"


def read_table() -> dict[str, dict[tuple[str, str], str]]:
    """Return the cells of the table on the page by way, kind and side."""
    by_way: dict[str, dict[tuple[str, str], str]] = {way: {} for way in WAYS}
    for line in _TABLE.search(PAGE.read_text())[1].splitlines()[2:]:  # type: ignore[index]
        name, side, *texts = (cell.strip() for cell in line.strip("|").split("|"))
        for way, text in zip(WAYS, texts, strict=True):
            for one in SIDES if side == "both" else (side,):
                by_way[way][name, one] = text
    return by_way


def main() -> None:
    by_way = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            by_way[way] = make_cells(*run_way(way, Path(folder)))
    text = PAGE.read_text()
    table = f"<!-- sockets -->\n{format_table(by_way)}<!-- end -->"
    PAGE.write_text(_TABLE.sub(lambda _: table, text))


if __name__ == "__main__":
    main()
