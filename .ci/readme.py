"""The commands of the README: `block NAME` prints one, `try-run` runs the first one as printed."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMEOUT = 240.0  # seconds for the installation and the first windows


def find_block(name: str) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    if found is None:
        sys.exit(f"README.md has no block {name}")
    return found[1]


def find_children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in path.read_text().split()] if path.exists() else []
    return [pid, *[one for child in children for one in find_children(child)]]


def sum_up(lines: str) -> tuple[list[str], int, int]:
    """Return the traffic records, and how many packets and bytes were captured.

    Sinks have stats at a pace of their own, with the sums of the windows between.
    """
    records = [(line, json.loads(line)) for line in lines.splitlines()]
    captured = [record["capture"] for _, record in records if record["type"] == "stats"]
    traffic = [line for line, record in records if record["type"] == "traffic"]
    packets, size = (sum(one[name] for one in captured) for name in ("packets", "bytes"))
    return traffic, packets, size


def try_run() -> None:
    """Run the command `run` in a fresh clone, interrupt it, and compare what its sinks wrote."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "hogpipe"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", find_block("run")], cwd=clone, text=True,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert shell.stdout is not None
        started = time.monotonic()
        lines = [shell.stdout.readline() for _ in range(3)]
        for pid in find_children(shell.pid):
            if b"bin/hogpipe\0run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGINT)
                break
        rest, _ = shell.communicate(timeout=TIMEOUT)
        written = (clone / "hogpipe.jsonl").read_text()
        printed = "".join(lines) + rest
        if shell.returncode or "stats" not in printed or sum_up(printed) != sum_up(written):
            sys.exit(f"the run command ended with {shell.returncode}, having printed {printed!r}")
        seconds, count = time.monotonic() - started, printed.count("\n")
        print(f"ran as printed: {count} records in {seconds:.0f} s, the same on both sinks")


match sys.argv[1:]:
    case ["block", name]:
        print(find_block(name), end="")
    case ["try-run"]:
        try_run()
    case _:
        sys.exit("usage: readme.py block NAME | try-run")
