"""What every sink promises, and a whole run of hogpipe, against a real server."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hogpipe_nats import hogpipe_sinks
from msgspec.structs import fields

from hogpipe import ConfigurationError, JsonSettings, Record
from hogpipe.testing import PROMISES, RecordMaker, SinkCase, check_sink, read_settings

(NATS,) = hogpipe_sinks()
TRACE = Path(__file__).parents[3] / "tests" / "data" / "golden" / "trace.pcap"
README = Path(__file__).parent.parent / "README.md"


@contextlib.asynccontextmanager
async def _refusal(record: Record) -> AsyncIterator[None]:
    """Make the record larger than the server takes."""
    record["process"] = {"command": "x" * (1 << 20)}  # type: ignore[typeddict-unknown-key]
    yield


@pytest.mark.parametrize("promise", PROMISES)
async def test_the_promises_of_sinks_are_kept(server: Any, promise: str) -> None:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        server.kill()
        yield
        await server.start()

    @contextlib.asynccontextmanager
    async def stall() -> AsyncIterator[None]:
        server.pause()
        try:
            yield
        finally:
            server.resume()

    case = SinkCase(
        sink_type=NATS,
        keys={"servers": [server.url]},
        arrived=server.documents,
        outage=outage,
        stall=stall,
        refusal=_refusal,
        exactly_once=True,
        largest_window=10_000,
        ordered=False,  # what has no acknowledgement comes again, after what has one
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
def test_what_makes_no_sense_is_told_before_the_run(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        read_settings(NATS, {"servers": ["nats://127.0.0.1"], **keys})
    assert len(caught.value.problems) == 1


async def test_a_run_delivers_all_though_the_server_came_late_and_was_killed(
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
    command = [sys.executable, "-m", "hogpipe", "run", str(config)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert run.stderr is not None
        assert "Connection refused" in run.stderr.readline()
        await server.start()
        await _first_message(server)
        server.kill()
        assert run.poll() is None
        await server.start()
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    finally:
        run.kill()
        run.communicate()
    told = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    received = await server.documents()
    assert len(received) == len(told)
    assert sorted(map(_identity, received)) == sorted(map(_identity, told))


async def _first_message(server: Any) -> None:
    async with server.client() as client, asyncio.timeout(30):
        subscription = await client.subscribe("hogpipe.>", max_msgs=1)
        await subscription.next_msg(timeout=30)


def _identity(document: dict[str, Any]) -> tuple[str, int]:
    return document["run"], document["sequence"]


async def test_the_readmes_consumer_reads_each_record_once(server: Any, tmp_path: Path) -> None:
    settings = read_settings(NATS, {"servers": [server.url]})
    sink = NATS.create(settings)
    await sink.open()
    window = RecordMaker().window(5)
    await sink.write(window)
    async with server.client() as client:  # as if an acknowledgement had come too late
        document = json.dumps(window[0]).encode()
        await client.jetstream().publish("hogpipe.web1.traffic", document)
    await sink.close()
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "receive.py"
    script.write_text(snippet.replace("nats://127.0.0.1:4222", server.url))
    receiver = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert receiver.stdout is not None
        read = [json.loads(receiver.stdout.readline()) for _ in window]
        assert read == window
        receiver.send_signal(signal.SIGINT)
    finally:
        receiver.kill()
        receiver.communicate()


def test_the_readme_tells_every_key_with_its_default() -> None:
    own = fields(NATS.settings)[len(fields(JsonSettings)) :]
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


def test_the_fleet_guide_configures_what_there_is() -> None:
    page = (README.parents[2] / "docs" / "fleet.md").read_text()
    (table,) = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])["sinks"]
    settings = read_settings(NATS, table)
    assert settings.subjects == "hogpipe.*.*"
    assert "nats_subjects = 'hogpipe.>'" in page
    assert f"nats_stream = '{settings.stream}'" in page
    assert read_settings(NATS, {"servers": ["a"]}).stream_mib == 1024
    assert "Left at its default of 1 GiB" in page
