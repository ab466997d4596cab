"""Attribution and its cost: hogpipe, nethogs and tcpdump on the same load at the same time.

    sudo .venv/bin/python tests/bench/attribution.py [WORKLOAD…] [--seconds N]
        [--connections-per-second N] [--by-flow] [--ledger] [--ebpf] [--without-nethogs]
        [--json FILE]

Needs root, ip, tcpdump and nethogs. Everything runs in network namespaces that are removed at the
end. docs/benchmark.md explains the method and the columns.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import warm_batch
from report import as_json, host, render, table
from stage import RUN_ERRORS, Result, run_workload, stop_at_signals
from tools import EBPF, LEDGER, PROCFS
from workloads import WORKLOADS

WARM_BATCH = "warm-batch"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*WORKLOADS, WARM_BATCH]
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each load lasts")
    parser.add_argument(
        "--connections-per-second", type=float, metavar="N", help="total of all clients"
    )
    parser.add_argument(
        "--by-flow", action="store_true", help="compare each connection (costs hogpipe more CPU)"
    )
    parser.add_argument(
        "--ledger", action="store_true", help="run hogpipe a second time, with the ledger"
    )
    parser.add_argument(
        "--ebpf", action="store_true", help='run hogpipe once more, with source = "ebpf"'
    )
    parser.add_argument(
        "--without-nethogs", action="store_true", help="leave the cores to the other tools"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.workloads) - set(names)
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    chosen.workloads = chosen.workloads or names
    return chosen


def main() -> int:
    """Return 0, 1 if anything failed, or 130 after an interrupt."""
    chosen = parse_arguments()
    if os.geteuid() != 0:
        print("attribution.py: captures and namespaces need root; use sudo", file=sys.stderr)
        return 1
    stop_at_signals()
    results: list[Result] = []
    batches: dict[str, object] = {}
    code = 0
    try:
        for name in chosen.workloads:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                if name == WARM_BATCH:
                    batches = warm_batch.measure()
                else:
                    results.append(run_one(name, chosen))
            except RUN_ERRORS as error:
                print(f"{name}: failed: {error or repr(error)}", file=sys.stderr)
                code = 1
    except KeyboardInterrupt:
        code = 130
    print_tables(results, batches)
    if chosen.json:
        figures = {"host": host(), "workloads": [as_json(one) for one in results], **batches}
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    failed = any(verdict is None for result in results for _, verdict in result.tools)
    return code or int(failed)


def run_one(name: str, chosen: argparse.Namespace) -> Result:
    workload = WORKLOADS[name]
    if chosen.connections_per_second:
        workload = replace(workload, rate=chosen.connections_per_second)
    seconds = workload.seconds or chosen.seconds
    modes = [PROCFS, *[LEDGER] * chosen.ledger, *[EBPF] * chosen.ebpf]
    return run_workload(
        workload,
        seconds,
        by_flow=chosen.by_flow,
        modes=modes,
        nethogs=not chosen.without_nethogs,
    )


def print_tables(results: Sequence[Result], batches: dict[str, object]) -> None:
    print(host())
    if results:
        print(f"\n{render(results)}")
    if batches:
        print(f"\n{table(warm_batch.HEAD, warm_batch.rows(batches))}")
        print(f"\nresolver alone: {batches['peak_bytes'] / 1e6:.0f} MB peak memory")


if __name__ == "__main__":
    sys.exit(main())
