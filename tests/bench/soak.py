"""A soak: mixed load, churn and random faults, with invariants that are checked throughout.

    sudo .venv/bin/python tests/bench/soak.py [--seconds N] [--seed N] [--json FILE] [--plot FILE]
    .venv/bin/python tests/bench/soak.py --figures FILE --plot FILE

hogpipe runs on one of two joined network namespaces with datagrams, short connections and short
processes. Every few seconds there is a fault (soak_faults.py), chosen by the seed. Each record has
to be in sequence, each byte that is counted in a record, and the collector has to have each record
of the file at the end; memory, descriptors and threads have bounds (soak_checks.py), and after each
fault packets have to be captured again. The exit code is 1 if anything of this does not hold.

The second command only draws figures of an earlier soak. docs/reliability.md has a plot.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

import soak_faults
import soak_load
from report import host
from soak_checks import RecordChecker, Sample, check_samples
from soak_plot import draw
from support import odd_plugin
from support.disks import tiny_disk
from support.namespaces import Namespace, pair
from support.running import Running

ADDRESSES = [("10.77.0.1/24", "10.77.0.2/24")]
RATE = 2_000  # datagrams a second, beside the connections
CALM_SECONDS = (1.0, 4.0)
"""Between two faults."""
RECOVERY_SECONDS = 20.0
CONFIG = """
[capture]
buffer_mib = 4
[attribution]
procfs = "proc"
max_flows = 16384
[aggregation]
group_by = ["program", "interface"]
[plugins]
paths = ["odd_plugin.py"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
[[sinks]]
type = "odd"
retry_max = 1.0
[[sinks]]
type = "tcp"
host = "127.0.0.1"
port = 9010
spool = "disk/spool"
retry_max = 0.5
"""
COLLECTOR = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 9010))
print("ready", file=sys.stderr, flush=True)
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        connection, _peer = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                file.write(data)
"""
Violations = list[str]


class Soak:
    """A site of soak_faults.py; `observe` has to be called all the time."""

    def __init__(self, left: Namespace, right: Namespace, folder: Path) -> None:
        self.left = left
        self.right = right
        self.folder = folder
        self.run: Running
        self.collector: Running
        self.checker = RecordChecker()
        self.samples: list[Sample] = []
        self.violations: Violations = []
        self._file = folder / "records.jsonl"
        self._position = 0
        self._processes = 0
        self._begun = time.monotonic()
        self.begun_unix = time.time()

    @property
    def seconds(self) -> float:
        """Since the begin."""
        return time.monotonic() - self._begun

    def start(self) -> None:
        """Start hogpipe, and wait until it captures."""
        self._processes += 1
        words = self.left.enter(sys.executable, "-m", "hogpipe", "-v", "run", "config.toml")
        self.run = start(words, cwd=self.folder)
        self.run.wait_for("owners come from")

    def restart(self, number: signal.Signals, code: int) -> None:
        """End hogpipe by a signal, and start it again."""
        self.end(number, code)
        self.start()

    def end(self, number: signal.Signals, code: int) -> None:
        """End hogpipe by a signal; another exit code is a violation."""
        ended = self.run.end(number)
        if ended != code:
            tail = "".join(self.run.errors[-3:])
            self.violations.append(f"exit code {ended} in place of {code}: {tail}")
        self.run.close()

    def close(self) -> None:
        """Kill hogpipe, if it is running."""
        self.run.close()

    def observe(self, *, is_calm: bool) -> None:
        """Check the records that came, and take a sample of the process."""
        for line in self._read_lines():
            self.checker.add(json.loads(line))
        if self.run.process.poll() is None:
            mib, descriptors, threads = soak_faults.read_status(self.run.process.pid)
            at, number = round(self.seconds, 1), self._processes
            self.samples.append(Sample(at, number, round(mib, 1), descriptors, threads, is_calm))

    def rest(self, seconds: float) -> None:
        """Observe for some time without a fault, until packets are captured."""
        calm_until, patience = self.seconds + seconds, self.seconds + RECOVERY_SECONDS
        before = self.checker.packets
        while self.seconds < calm_until or self.checker.packets == before:
            time.sleep(0.5)
            self.observe(is_calm=self.seconds >= calm_until)
            if self.run.process.poll() is not None:
                tail = "".join(self.run.errors[-3:])
                raise RuntimeError(f"hogpipe has ended with {self.run.process.returncode}: {tail}")
            if self.seconds > patience:
                self.violations.append(f"no packet is captured at {self.seconds:.0f} s")
                return

    def check_collector(self, path: Path) -> None:
        """Compare what the collector has with the file."""
        received = set()
        for line in path.read_bytes().split(b"\n"):
            if line:
                record = json.loads(line)
                received.add((record["run"], record["sequence"]))
        if missing := len(self.checker.seen - received):
            self.violations.append(f"the collector lacks {missing} records of the file")

    def _read_lines(self) -> Sequence[bytes]:
        """Return the whole lines since the last call."""
        if not self._file.exists():
            return ()
        with self._file.open("rb") as file:
            file.seek(self._position)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.splitlines()


def start(words: Sequence[str | Path], **options: Any) -> Running:
    return Running(subprocess.Popen(words, text=True, stderr=subprocess.PIPE, **options))


def soak(seconds: float, seed: int) -> dict[str, Any]:
    """Soak; return what docs/data/soak.json has."""
    chance, faults = random.Random(seed), list[dict[str, Any]]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Soak(*stack.enter_context(pair(ADDRESSES)), folder)
        stack.enter_context(tiny_disk(folder / "disk", kib=64 << 10))
        (folder / "proc").mkdir()
        subprocess.run(["mount", "-t", "proc", "proc", folder / "proc"], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", folder / "proc"], check=True)
        (folder / "config.toml").write_text(CONFIG)
        shutil.copy(odd_plugin.__file__, folder)
        words = [sys.executable, "-c", COLLECTOR, folder / "received"]
        site.collector = start(site.left.enter(*words))
        stack.callback(site.collector.close)
        site.collector.wait_for("ready")
        stack.enter_context(loaded(site))
        site.start()
        stack.callback(site.close)
        site.rest(3)
        while site.seconds < seconds:
            fault = soak_faults.choose(chance)
            faults.append({"seconds": round(site.seconds, 1), "name": fault.__name__})
            try:
                fault(site, chance)
                site.observe(is_calm=False)
                site.rest(chance.uniform(*CALM_SECONDS))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                tail = "".join(site.run.errors[-5:])
                site.violations.append(f"{fault.__name__}: {error}; {tail}")
                break
        time.sleep(2)
        site.end(signal.SIGTERM, 0)
        site.observe(is_calm=True)
        time.sleep(1)
        site.check_collector(folder / "received")
    checker = site.checker
    violations = [*checker.violations, *site.violations, *check_samples(site.samples)]
    return {
        "host": host(),
        "seconds": round(site.seconds, 1),
        "seed": seed,
        "records": checker.records,
        "runs": checker.runs,
        "packets_captured": checker.packets,
        "packets_dropped": checker.dropped,
        "packets_without_flow": checker.overflowed,
        "bytes": checker.bytes,
        "bytes_unattributed": checker.unattributed,
        "violations": violations,
        "faults": faults,
        "samples": [msgspec.structs.asdict(one) for one in thin(site.samples)],
        "packets": [
            [round(at - site.begun_unix, 1), round(rate)] for at, rate in thin(checker.rates)
        ],
    }


def thin(rows: Sequence[Any]) -> Sequence[Any]:
    """Return at most some hundreds of rows."""
    return rows[:: max(1, len(rows) // 300)]


def loaded(site: Soak) -> ExitStack:
    """Start the loads; they end with the stack."""
    stack = ExitStack()
    load = Path(soak_load.__file__)
    wanted = [
        (site.right, "serve", "10.77.0.2"),
        (site.left, "serve", "10.77.0.1"),
        (site.left, "steady", "10.77.0.2", f"{RATE}"),
        (site.right, "steady", "10.77.0.1", f"{RATE // 2}"),
        (site.left, "connections", "10.77.0.2", "50"),
        (site.right, "connections", "10.77.0.1", "50"),
        (site.left, "processes", "10.77.0.2", "10"),
    ]
    for where, *words in wanted:
        command = where.enter(sys.executable, load, *words)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
    return stack


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (SVG) there")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="draw these, without a soak")
    return parser.parse_args(arguments)


def main() -> None:
    chosen = parse_arguments()
    if chosen.figures:
        chosen.plot.write_text(draw(json.loads(chosen.figures.read_text())))
        return
    if os.geteuid():
        sys.exit("soak.py needs root")
    result = soak(chosen.seconds, chosen.seed)
    if chosen.json:
        chosen.json.write_text(json.dumps(result) + "\n")
    if chosen.plot:
        chosen.plot.write_text(draw(result))
    lists = {"faults", "samples", "packets"}
    print(json.dumps({key: one for key, one in result.items() if key not in lists}, indent=1))
    sys.exit(1 if result["violations"] else 0)


if __name__ == "__main__":
    main()
