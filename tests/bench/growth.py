"""What the cost of each tool grows with: flows, packets of a file, sockets, processes, containers.

    sudo .venv/bin/python tests/bench/growth.py LOAD… [--sizes N,N…] [--tools NAME,NAME…]
        [--seconds N] [--rounds N] [--rate N] [--packets N] [--json FILE] [--plots FOLDER]
    .venv/bin/python tests/bench/growth.py [--json FILE] --plots FOLDER

The first measures loads, `all` of them or those that are named; figures go to FILE, in place of
those of the same load and size. The second measures nothing: it makes pictures and tables of FILE,
by default docs/data/growth.json. The tables are printed, too. Needs root, ip, tcpdump, nethogs and
ziglang to measure. docs/performance.md has the results.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

import connections
import live
import savefiles
from figures import CurveSet, Figures, Point, merge
from generator import built
from growth_table import refresh, render
from plots import draw
from report import host
from stage import RUN_ERRORS, stop_at_signals
from tools import EBPF, LEDGER, NETHOGS, PROCFS, TCPDUMP

FIGURES = Path(__file__).parents[2] / "docs/data/growth.json"
TOOLS = {"tcpdump": TCPDUMP, "pcap": PROCFS, "ledger": LEDGER, "ebpf": EBPF, "nethogs": NETHOGS}
FLOWS = (1, 100, 5_000, 50_000)
LIVE = {
    "live": live.LiveLoad(100_000, live.Flow.SOCKET),
    "live-received": live.LiveLoad(100_000, live.Flow.SOCKET, received=True),
    "live-fastest": live.LiveLoad(0, live.Flow.SOCKET),
    "live-ports": live.LiveLoad(100_000, live.Flow.PORT),
    "live-peers": live.LiveLoad(100_000, live.Flow.PEER),
    "live-peers-300000": live.LiveLoad(300_000, live.Flow.PEER),
}
SAVEFILES = {
    "savefiles": savefiles.SavefileLoad("Savefiles, beyond the start", savefiles.FIRST_PORT),
    "savefiles-unmatched": savefiles.SavefileLoad(
        "Savefiles of flows without a socket, beyond the start", savefiles.OTHER_PORT
    ),
}
FILES = {10: 2_000_000, 10_000: 2_000_000, 1_000_000: 3_000_000}
"""Packets by the number of flows; a file of another number has as many packets as the first."""
DEFAULT_SIZES: dict[str, Sequence[int]] = {
    **dict.fromkeys(LIVE, FLOWS),
    **dict.fromkeys(SAVEFILES, tuple(FILES)),
    "sockets": (0, 10_000, 30_000),
    "processes": (100, 1_000, 3_000),
    "containers": (1, 10, 100),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What applies to all loads."""

    sizes: Sequence[int] | None
    tools: Sequence[str]
    seconds: float
    rounds: int
    packets: int | None
    rate: float | None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(DEFAULT_SIZES)
    parser.add_argument("loads", nargs="*", metavar="LOAD", help=f"`all`, or of {names}")
    parser.add_argument("--sizes", type=read_numbers, metavar="N,N…", help="instead of the usual")
    parser.add_argument("--rate", type=float, metavar="N", help="packets a second of live loads")
    parser.add_argument("--packets", type=int, metavar="N", help="of each savefile")
    parser.add_argument(
        "--tools", default=",".join(TOOLS), metavar="NAME,NAME…", help="all by default"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long a tool is measured")
    parser.add_argument("--rounds", type=int, default=1, help="how often each tool is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures are kept")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write pictures and tables there"
    )
    chosen = parser.parse_args(arguments)
    if chosen.loads == ["all"]:
        chosen.loads = list(DEFAULT_SIZES)
    if unknown := set(chosen.loads) - DEFAULT_SIZES.keys():
        parser.error(f"no load {', '.join(sorted(unknown))}; there are: all, {names}")
    chosen.tools = chosen.tools.split(",")
    if unknown := set(chosen.tools) - TOOLS.keys():
        parser.error(f"no tool {', '.join(sorted(unknown))}; there are: {', '.join(TOOLS)}")
    return chosen


def read_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(name: str, options: Options, compiled: Callable[[], Path]) -> CurveSet:
    """Measure a load at each size; one that fails is left out, and its reason is reported."""
    title, sizes, work, measure_point = choose(name, options, compiled)
    points = []
    for size in options.sizes or DEFAULT_SIZES[name]:
        note(f"{title}: {size:,} {sizes} …")
        try:
            points.append(measure_point(size))
        except RUN_ERRORS as error:
            note(f"failed: {error or repr(error)}")
    return CurveSet(title, sizes, work, points)


def choose(
    name: str, options: Options, compiled: Callable[[], Path]
) -> tuple[str, str, str, Callable[[int], Point]]:
    """Return a load's title, its sizes, what costs are divided by, and what measures a size."""
    tools = [TOOLS[tool] for tool in TOOLS if tool in options.tools]
    pace = {"tools": tools, "seconds": options.seconds, "rounds": options.rounds}
    if name in LIVE:
        load = LIVE[name]
        if options.rate is not None:
            load = replace(load, rate=options.rate)
        point = partial(live.measure_point, program=compiled(), load=load, **pace)
        return load.title, "flows", "packet", point
    if name in SAVEFILES:
        readers = [tool for tool in tools if tool in savefiles.TOOLS]

        def read(size: int) -> Point:
            packets = options.packets or FILES.get(size, FILES[10])
            return savefiles.measure_point(size, packets, readers, options.rounds, SAVEFILES[name])

        return SAVEFILES[name].title, "flows", "packet", read
    around = connections.LOADS[name]
    point = partial(connections.measure_point, load=around, **pace)
    return around.title, around.sizes, "connection", point


def read_figures(path: Path) -> Figures | None:
    """Return the content of a file of figures, None if it does not exist."""
    return msgspec.json.decode(path.read_bytes(), type=Figures) if path.exists() else None


def write_pages(folder: Path, figures: Figures, text: str) -> None:
    """Write a picture of each set and the tables of all, and those of performance.md again."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, curves in figures.sets.items():
        (folder / f"growth-{name}.svg").write_text(draw(curves))
    (folder / "data" / "growth.md").write_text(text)
    page = folder / "performance.md"
    if page.exists():
        page.write_text(refresh(page.read_text(), figures.sets))


def render_all(line: str, sets: Mapping[str, CurveSet]) -> str:
    tables = "\n\n".join(render(curves) for curves in sets.values())
    return f"# growth.py\n\nOutput of `growth.py` on {line}. {EXPLAINED}\n\n{tables}\n"


EXPLAINED = "[performance.md](../performance.md) explains the loads and the columns."


def main() -> int:
    """Return 0, 1 if anything failed, or 130 after an interrupt."""
    chosen = parse_arguments()
    if chosen.loads and os.geteuid() != 0:
        print("growth.py: captures and namespaces need root; use sudo", file=sys.stderr)
        return 1
    if chosen.loads:
        stop_at_signals()
    path = chosen.json or (None if chosen.loads else FIGURES)
    options = Options(**{name: getattr(chosen, name) for name in Options.__slots__})
    try:
        sets = measure_all(chosen.loads, options, chosen.json)
        figures = merge(read_figures(path) if path else None, host(), sets)
        print(render_all(host(), sets or figures.sets))
        if chosen.plots:
            write_pages(chosen.plots, figures, render_all(figures.host, figures.sets))
    except (*RUN_ERRORS, msgspec.DecodeError) as error:
        note(f"growth.py: failed: {error or repr(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    wanted = sum(len(options.sizes or DEFAULT_SIZES[name]) for name in chosen.loads)
    return int(sum(len(curves.points) for curves in sets.values()) < wanted)


def measure_all(names: Sequence[str], options: Options, path: Path | None) -> dict[str, CurveSet]:
    """Measure loads; the figures are kept in a file after each."""
    sets = {}
    with ExitStack() as stack:
        compiled = cache(lambda: stack.enter_context(built()))
        for name in names:
            sets[name] = measure(name, options, compiled)
            if path:
                figures = merge(read_figures(path), host(), {name: sets[name]})
                encoded = msgspec.json.format(msgspec.json.encode(figures), indent=1)
                path.write_bytes(encoded + b"\n")
    return sets


if __name__ == "__main__":
    sys.exit(main())
