"""The promises of sinks, and a whole run of hogpipe, against a mock cluster of librdkafka."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hogpipe_kafka import hogpipe_sinks

from hogpipe import ConfigurationError, record_id
from hogpipe.testing import (
    PROMISES,
    RecordMaker,
    SinkCase,
    check_key_table,
    check_sink,
    find_code_blocks,
    make_sink,
    opened,
    oversized,
    read_settings,
    running_program,
)

(KAFKA,) = hogpipe_sinks()
TRACE = Path(__file__).parents[3] / "tests" / "data" / "golden" / "trace.pcap"
README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("promise", PROMISES)
async def test_the_promises_of_sinks_are_kept(broker: Any, promise: str) -> None:
    case = SinkCase(
        sink_type=KAFKA,
        keys={"servers": [broker.address], "ack_timeout": 0.5},
        arrived=broker.documents,
        outage=broker.outage,
        stall=broker.stall,
        refusal=oversized(1 << 20),
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
def test_invalid_settings_are_refused_before_the_run(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        read_settings(KAFKA, {"servers": ["127.0.0.1"], **keys})
    assert len(caught.value.problems) == 1


async def test_a_run_delivers_all_to_a_broker_that_starts_late(broker: Any, tmp_path: Path) -> None:
    broker.command("down")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[capture]\nsource = "savefile"\npath = "{TRACE}"\n'
        '[[sinks]]\ntype = "jsonl"\npath = "records.jsonl"\n'
        f'[[sinks]]\ntype = "kafka"\nservers = ["{broker.address}"]\n'
        'when_full = "block"\nqueue_windows = 1\nretry_initial = 0.01\nretry_max = 0.1\n'
    )
    with running_program(sys.executable, "-m", "hogpipe", "run", config) as run:
        assert run.stderr is not None
        assert "Connection refused" in run.stderr.readline()
        broker.command("up")
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    written = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    received = await broker.documents()
    assert list(map(record_id, received)) == list(map(record_id, written))


async def test_the_readmes_consumer_reads_each_record_once(broker: Any, tmp_path: Path) -> None:
    window = RecordMaker().window(5)
    for _ in range(2):  # as after a restart of hogpipe, which remembers nothing
        async with opened(make_sink(KAFKA, {"servers": [broker.address]})) as sink:
            await sink.write(window)
    (snippet,) = find_code_blocks(README.read_text(), "python")
    script = tmp_path / "receive.py"
    script.write_text(snippet.replace("127.0.0.1:9092", broker.address))
    with running_program(sys.executable, "-u", script) as receiver:
        assert receiver.stdout is not None
        assert [json.loads(receiver.stdout.readline()) for _ in window] == window


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README.read_text(), KAFKA.settings)
