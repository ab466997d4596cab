"""A replay of a recorded capture with a recorded /proc gives the same JSON, byte for byte.

support/record_golden.py makes the recording, and describes how to repeat it.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from support.wire import read_packets

from hogpipe import stream_records
from hogpipe.config import load_config

GOLDEN = Path(__file__).parent / "data" / "golden"
EXPECTED = GOLDEN / "expected.jsonl"
LOCAL = {bytes([192, 0, 2, 10]), bytes.fromhex("20010db8000000000000000000000010")}


async def replay(*overrides: str) -> list[bytes]:
    settings = load_config(GOLDEN / "config.toml", overrides)
    settings = msgspec.structs.replace(settings, sinks=())
    async with stream_records(settings, host="recorded") as records:
        return [orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) async for record in records]


async def test_the_recording_gives_the_expected_records() -> None:
    lines = await replay()
    if not EXPECTED.exists():
        EXPECTED.write_bytes(b"".join(lines))
        pytest.fail(f"{EXPECTED} was missing and has been written: read it, then keep it")
    assert b"".join(lines) == EXPECTED.read_bytes()


def run_hogpipe() -> bytes:
    command = [sys.executable, "-m", "hogpipe", "run", GOLDEN / "config.toml"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def test_the_command_gives_the_same_bytes_each_time() -> None:
    first = run_hogpipe()
    assert first.count(b"\n") > 3
    assert first == run_hogpipe()


async def test_other_settings_for_the_same_recording_give_another_run_id() -> None:
    by_process, by_flow = await replay(), await replay('aggregation.group_by=["flow"]')
    assert orjson.loads(by_process[0])["run"] != orjson.loads(by_flow[0])["run"]


def moved(records: Sequence[dict[str, Any]]) -> Counter[tuple[str, int]]:
    """Return bytes by (transport and direction, local port)."""
    totals: Counter[tuple[str, int]] = Counter()
    for record in records:
        network = record["network"]
        for way in ("transmit", "receive"):
            name = f"{network['transport']} {way}"
            totals[name, network["local"].get("port", 0)] += network["io"][way]["bytes"]
    return +totals


async def test_the_bytes_of_each_port_are_those_on_the_wire() -> None:
    lines = [orjson.loads(line) for line in await replay('aggregation.group_by=["flow"]')]
    recorded = moved([record for record in lines if record["type"] == "traffic"])
    truth: Counter[tuple[str, int]] = Counter()
    for packet in read_packets(GOLDEN / "trace.pcap"):
        transport = {6: "tcp", 17: "udp"}[packet.protocol]
        if packet.source in LOCAL:
            truth[f"{transport} transmit", packet.source_port] += packet.size
        if packet.destination in LOCAL:
            truth[f"{transport} receive", packet.destination_port] += packet.size
    assert {key: size for key, size in recorded.items() if "icmp" not in key[0]} == truth


async def test_connections_count_at_the_port_that_listens_in_the_recorded_tables() -> None:
    lines = [orjson.loads(line) for line in await replay('aggregation.group_by=["port", "flow"]')]
    tables = (GOLDEN / "proc/net/tcp").read_text() + (GOLDEN / "proc/net/tcp6").read_text()
    listening = {int(one, 16) for one in re.findall(r":([0-9A-F]{4}) \w+:0000 0A", tables)}
    tcp = [one for one in lines if one.get("network", {}).get("transport") == "tcp"]
    served = [record for record in tcp if record["network"]["local"]["port"] in listening]
    assert 0 < len(served) < len(tcp)
    for record in tcp:
        end = "local" if record in served else "peer"
        assert record["server"]["port"] == record["network"][end]["port"]


async def test_only_follows_the_chosen_process_in_tcp_and_udp_and_sums_up_the_rest() -> None:
    everyone = [orjson.loads(line) for line in await replay()]
    chosen = [orjson.loads(line) for line in await replay('aggregation.only=["exe:curl"]')]

    def total(records: Sequence[dict[str, Any]], name: str | None) -> int:
        return sum(
            sum(record["attribution"].values())
            for record in records
            if record["type"] == "traffic"
            if name is None or record.get("process", {}).get("command") == name
        )

    assert total(chosen, "curl") == total(everyone, "curl") > 0
    assert total(chosen, "nginx") == 0
    assert total(chosen, None) == total(everyone, None)
    transports = {
        record["network"]["transport"]
        for line in await replay(
            'aggregation.only=["exe:curl"]', 'aggregation.group_by=["transport"]'
        )
        if (record := orjson.loads(line))["type"] == "traffic" and "remainder" not in record
    }
    assert transports == {"tcp", "udp"}
