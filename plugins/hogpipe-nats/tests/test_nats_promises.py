"""The promises of sinks, and a whole run of hogpipe, against a real server."""

import asyncio
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hogpipe_nats import hogpipe_sinks

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

(NATS,) = hogpipe_sinks()
TRACE = Path(__file__).parents[3] / "tests" / "data" / "golden" / "trace.pcap"
README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("promise", PROMISES)
async def test_the_promises_of_sinks_are_kept(server: Any, promise: str) -> None:
    case = SinkCase(
        sink_type=NATS,
        keys={"servers": [server.url]},
        arrived=server.documents,
        outage=server.outage,
        stall=server.stall,
        refusal=oversized(1 << 20),
        exactly_once=True,
        largest_window=10_000,
        ordered=False,  # unacknowledged records are sent again, after acknowledged ones
        wrong_keys=[
            {"servers": []},
            {"servers": ["http://127.0.0.1"]},
            {"servers": ["nats://127.0.0.1:0x10"]},
            {"subject": "with blanks"},
            {"subject": "hogpipe.>"},
            {"subject": "hogpipe..x"},
            {"subject": "hogpipe.{pid}"},
            {"stream": "with.dots"},
            {"user": "me"},
            {"user": "me", "password": "secret", "token": "secret"},
            {"tls": {"ca": "none.pem"}},
            {"tls": {"key": "none.pem"}},
            {"credentials": "none.creds"},
        ],
    )
    findings = await check_sink(case, [promise])
    assert promise == "reopening" or findings.kept == (promise,)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"subject": "a b"}, "subject: must be tokens"),
        ({"user": "me"}, "password: required"),
        ({"token": "t", "user": "me", "password": "p"}, "token: only one of"),
        ({"servers": ["nats://a", "nats://:pw@"]}, r"servers\[1\]: must be nats://"),
        ({"servers": ["nats://a:65536"]}, r"servers\[0\]: the port is none"),
        ({"servers": ["nats://me:pw@a..b"]}, r"servers\[0\]: the host is no name or address$"),
        ({"credentials": "none.creds"}, r"credentials: /.*none\.creds: No such file"),
        ({"tls": {"ca": "none.pem"}}, r"tls\.ca: /.*none\.pem: No such file"),
    ],
)
def test_invalid_settings_are_refused_before_the_run(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        read_settings(NATS, {"servers": ["nats://127.0.0.1"], **keys})
    assert len(caught.value.problems) == 1


async def test_a_run_delivers_all_to_a_server_that_starts_late_and_is_killed(
    make_server: Any, tmp_path: Path
) -> None:
    server = make_server()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[capture]\nsource = "savefile"\npath = "{TRACE}"\n'
        "[aggregation]\ninterval = 0.05\n"
        '[[sinks]]\ntype = "jsonl"\npath = "records.jsonl"\n'
        f'[[sinks]]\ntype = "nats"\nservers = ["{server.url}"]\n'
        'when_full = "block"\nqueue_windows = 1\nretry_initial = 0.01\nretry_max = 0.1\n'
    )
    with running_program(sys.executable, "-m", "hogpipe", "run", config) as run:
        assert run.stderr is not None
        assert "Connection refused" in run.stderr.readline()
        await server.start()
        await _first_message(server)
        server.kill()
        assert run.poll() is None
        await server.start()
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    written = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    received = await server.documents()
    assert len(received) == len(written)
    assert sorted(map(record_id, received)) == sorted(map(record_id, written))


async def _first_message(server: Any) -> None:
    async with server.client() as client, asyncio.timeout(30):
        subscription = await client.subscribe("hogpipe.>", max_msgs=1)
        await subscription.next_msg(timeout=30)


async def test_the_readmes_consumer_reads_each_record_once(server: Any, tmp_path: Path) -> None:
    window = RecordMaker().window(5)
    async with opened(make_sink(NATS, {"servers": [server.url]})) as sink:
        await sink.write(window)
    async with server.client() as client:  # as after an acknowledgement that came too late
        document = json.dumps(window[0]).encode()
        await client.jetstream().publish("hogpipe.web1.traffic", document)
    (snippet,) = find_code_blocks(README.read_text(), "python")
    script = tmp_path / "receive.py"
    script.write_text(snippet.replace("nats://127.0.0.1:4222", server.url))
    with running_program(sys.executable, "-u", script) as receiver:
        assert receiver.stdout is not None
        assert [json.loads(receiver.stdout.readline()) for _ in window] == window


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README.read_text(), NATS.settings)


def test_the_fleet_guide_agrees_with_the_settings() -> None:
    page = (README.parents[2] / "docs" / "fleet.md").read_text()
    (table,) = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])["sinks"]
    settings = read_settings(NATS, table)
    assert settings.subjects == "hogpipe.*.*"
    assert "nats_subjects = 'hogpipe.>'" in page
    assert f"nats_stream = '{settings.stream}'" in page
    assert read_settings(NATS, {"servers": ["a"]}).stream_mib == 1024
    assert "With the default of 1 GiB" in page
