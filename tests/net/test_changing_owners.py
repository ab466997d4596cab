"""Whose bytes they are where the owner changes or hides: on this kernel, in each way to find it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bpf import require_bpf
from support.changing_owners import PROGRAM, SITUATIONS
from support.namespaces import Namespace, namespace, require
from support.running import assert_conserved, read_records, running, traffic_of, write_config

TESTS = Path(__file__).parent.parent
CONFIG = """
[capture]
{capture}
[attribution]
ledger = "{ledger}"
[aggregation]
interval = 0.5
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
LO = 'interfaces = ["lo"]'
WAYS = {"off": (LO, "off"), "ledger": (LO, "on"), "ebpf": ('source = "ebpf"', "auto")}
HANDSHAKE = 400  # bytes that who connected may have, before the connection is handed on

Outcome = tuple[list[dict[str, Any]], dict[str, tuple[int, dict[str, int]]]]


@pytest.fixture(scope="module", params=WAYS)
def outcome(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    """Run all situations under hogpipe; give the records, and what the situations report."""
    require("ip", "nsenter")
    way, folder = request.param, tmp_path_factory.mktemp("run")
    capture, ledger = WAYS[way]
    if way != "off":
        require_bpf()
    with namespace() as where:
        reports = run(where, write_config(folder, CONFIG.format(capture=capture, ledger=ledger)))
        yield read_records(folder / "records.jsonl"), reports


def run(where: Namespace, config: Path) -> dict[str, tuple[int, dict[str, int]]]:
    program = subprocess.Popen(
        where.enter(sys.executable, "-m", PROGRAM),
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    words = where.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        with running(None, *words) as hogpipe:
            hogpipe.wait_for("capturing on lo|counting at all sockets")
            if "ebpf" in config.read_text():
                time.sleep(1)
            program.stdin.write("\n")
            program.stdin.flush()
            reports: dict[str, tuple[int, dict[str, int]]] = json.loads(program.stdout.readline())
            assert hogpipe.end() == 0, hogpipe.errors
    return reports


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_process_that_transmits_has_its_bytes(outcome: Outcome, situation: str) -> None:
    records, reports = outcome
    port, owners = reports[situation]
    transmitted: Counter[str] = Counter()
    for record in traffic_of(records):
        if record["network"].get("local", {}).get("port") == port:
            pid = str(record.get("process", {}).get("pid"))
            transmitted[pid] += record["network"]["io"]["transmit"]["bytes"]
    for pid, size in owners.items():
        assert transmitted.pop(pid, 0) >= size, transmitted
    allowed = HANDSHAKE if situation.startswith(("fork", "message")) else 0
    assert transmitted.total() <= allowed, transmitted


def test_no_byte_is_lost(outcome: Outcome) -> None:
    assert_conserved(outcome[0])
