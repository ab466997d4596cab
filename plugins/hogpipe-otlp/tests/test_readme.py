"""The README's examples run as printed."""

import asyncio
import re
import shlex
import sys
from pathlib import Path

import pytest
import trustme
from hogpipe_otlp import OtlpSettings, hogpipe_sinks
from hogpipe_otlp.attributes import flow_of, resource_of
from hogpipe_otlp.metrics import METRICS

from hogpipe import DeliveryError, Sink, load_config
from hogpipe.testing import RecordMaker, check_key_table, find_code_blocks, free_ports, make_sink

(SINK_TYPE,) = hogpipe_sinks()
README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = find_code_blocks(README, "toml")
    monkeypatch.setenv("OTLP_AUTHORIZATION", "Bearer x")
    path = tmp_path / "config.toml"
    trustme.CA().cert_pem.write_to_path(ca := tmp_path / "ca.pem")
    path.write_text(block.replace("/etc/hogpipe/ca.pem", str(ca)))
    (choice,) = load_config(path).sinks
    assert isinstance(choice.settings, OtlpSettings)
    assert choice.settings.headers == {"authorization": "Bearer x"}


def test_the_readme_has_every_key_with_its_default() -> None:
    check_key_table(README, OtlpSettings)


def test_the_readme_names_every_attribute() -> None:
    records = [record for record in RecordMaker().window(9) if record["type"] == "traffic"]
    sent = {name for record in records for name, _ in [*resource_of(record), *flow_of(record)]}
    assert sent <= set(re.findall(r"`([a-z0-9_.]+)`", README))


def test_the_readme_names_every_metric_with_its_unit() -> None:
    for metric in METRICS.values():
        (line,) = re.findall(rf"^\| (?:.*, )?`{re.escape(metric.name)}`.*\|$", README, re.MULTILINE)
        assert f"`{metric.unit}`" in line


async def test_rotel_shows_what_arrives(tmp_path: Path) -> None:
    (command,) = [block for block in find_code_blocks(README, "sh") if "rotel.agent" in block]
    line = command.splitlines()[1].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    http, grpc = free_ports(2)
    ports = f"--otlp-http-endpoint 127.0.0.1:{http} --otlp-grpc-endpoint 127.0.0.1:{grpc}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_shell(
            f"exec {line} {ports}", stdout=output, stderr=output
        )
    sink = make_sink(SINK_TYPE, {"endpoint": f"http://127.0.0.1:{http}/v1/metrics"})
    try:
        async with asyncio.timeout(30):
            while not await is_open(sink):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.05)
            await sink.write(RecordMaker().window(8))
            while b"process.network.io" not in log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await sink.close()
        process.kill()
        await process.wait()


async def is_open(sink: Sink) -> bool:
    try:
        await sink.open()
    except DeliveryError:  # not yet
        return False
    return True
