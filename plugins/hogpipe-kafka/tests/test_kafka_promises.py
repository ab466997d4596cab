"""What every sink promises, and a whole run of hogpipe, against a mock cluster of librdkafka."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hogpipe_kafka import KafkaSink, hogpipe_sinks
from msgspec.structs import fields

from hogpipe import ConfigurationError, JsonSettings, Record
from hogpipe.testing import PROMISES, RecordMaker, SinkCase, check_sink, read_settings

(KAFKA,) = hogpipe_sinks()
TRACE = Path(__file__).parents[3] / "tests" / "data" / "golden" / "trace.pcap"
README = Path(__file__).parent.parent / "README.md"


@contextlib.asynccontextmanager
async def _refusal(record: Record) -> AsyncIterator[None]:
    """Make the record larger than a broker takes."""
    record["process"] = {"command": "x" * (1 << 20)}  # type: ignore[typeddict-unknown-key]
    yield


@pytest.mark.parametrize("promise", PROMISES)
async def test_the_promises_of_sinks_are_kept(broker: Any, promise: str) -> None:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        broker.tell("down")
        yield
        broker.tell("up")

    @contextlib.asynccontextmanager
    async def stall() -> AsyncIterator[None]:
        broker.pause()
        try:
            yield
        finally:
            broker.resume()

    case = SinkCase(
        sink_type=KAFKA,
        keys={"servers": [broker.address], "ack_timeout": 0.5},
        arrived=broker.documents,
        outage=outage,
        stall=stall,
        refusal=_refusal,
        wrong_keys=[
            {"servers": []},
            {"servers": ["kafka://127.0.0.1"]},
            {"servers": ["127.0.0.1:x"]},
            {"topic": "with blanks"},
            {"compression": "zip"},
            {"batch_kib": 0},
            {"user": "me"},
            {"mechanism": "GSSAPI"},
            {"tls": {"ca": "none.pem"}},
        ],
        largest_window=10_000,
    )
    findings = await check_sink(case, [promise])
    assert promise == "reopening" or findings.kept == (promise,)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"servers": ["a", "b:65536"]}, r"servers\[1\]: 'b:65536' has no port from 1 to 65535"),
        ({"servers": ["u:p@host:1"]}, r"servers\[0\]: .* is not HOST"),
        (
            {"servers": ["a..b:1"]},
            r"servers\[0\]: 'a\.\.b:1' has a host that is no name or address",
        ),
        ({"user": "me"}, "password: required"),
        ({"tls": {"ca": "none.pem"}}, r"tls\.ca: /.*none\.pem: No such file"),
    ],
)
def test_what_makes_no_sense_is_told_before_the_run(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        read_settings(KAFKA, {"servers": ["127.0.0.1"], **keys})
    assert len(caught.value.problems) == 1


async def test_a_run_delivers_all_though_the_broker_came_late(broker: Any, tmp_path: Path) -> None:
    broker.tell("down")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[capture]\nsource = "savefile"\npath = "{TRACE}"\n'
        '[[sinks]]\ntype = "jsonl"\npath = "records.jsonl"\n'
        f'[[sinks]]\ntype = "kafka"\nservers = ["{broker.address}"]\n'
        'when_full = "block"\nqueue_windows = 1\nretry_initial = 0.01\nretry_max = 0.1\n'
    )
    command = [sys.executable, "-m", "hogpipe", "run", str(config)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert run.stderr is not None
        assert "Connection refused" in run.stderr.readline()
        broker.tell("up")
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    finally:
        run.kill()
        run.communicate()
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    received = await broker.documents()
    assert [(r["run"], r["sequence"]) for r in received] == [
        (r["run"], r["sequence"]) for r in told
    ]


async def test_the_readmes_consumer_reads_each_record_once(broker: Any, tmp_path: Path) -> None:
    window = RecordMaker().window(5)
    for _ in range(2):  # as after a restart of hogpipe, which remembers nothing
        sink = KafkaSink(read_settings(KAFKA, {"servers": [broker.address]}))
        await sink.open()
        await sink.write(window)
        await sink.close()
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "receive.py"
    script.write_text(snippet.replace("127.0.0.1:9092", broker.address))
    receiver = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert receiver.stdout is not None
        assert [json.loads(receiver.stdout.readline()) for _ in window] == window
    finally:
        receiver.kill()
        receiver.communicate()


def test_the_readme_tells_every_key_with_its_default() -> None:
    own = fields(KAFKA.settings)[len(fields(JsonSettings)) :]
    rows = {
        key: line
        for line in README.read_text().splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    for field in own:
        default = field.default
        if isinstance(default, (str, int, float)):
            told = str(default).lower() if isinstance(default, bool) else default
            told = f'"{told}"' if isinstance(default, str) else told
            assert str(told) in rows[field.name].split("|")[2]
        else:
            assert field.name in rows
