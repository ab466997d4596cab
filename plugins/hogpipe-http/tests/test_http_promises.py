"""Each preset keeps the promises of sinks, with a server that answers as its store documents it."""

from collections.abc import Callable
from typing import Any

import pytest
from hogpipe_http import hogpipe_sinks

from hogpipe.testing import SinkCase, check_sink

(SINK_TYPE,) = hogpipe_sinks()
SECRETS = ["open-sesame", "hidden-header"]
WRONG_KEYS = [
    {"url": "collector:4318"},
    {"url": "http://user:secret@localhost/"},
    {"tls": {}},
    {"url": "https://localhost:1/", "tls": {"ca": "/no/such/file"}},
    {"user": "x"},
    {"password": "x"},
    {"token": "x\ny"},
    {"token": None, "user": "a:b"},
    {"headers": {"content-type": "text/plain"}},
    {"headers": {"Authorization": "Bearer x"}},
    {"headers": {"x": "line\nend"}},
    {"preset": "influx"},
    {"compression": "lz4"},
    {"max_records": 0},
    {"max_mib": 0},
]


def make_case(server: Any, preset: str, **more: Any) -> SinkCase:
    keys = {
        "url": f"{server.url}/",
        "preset": preset,
        "token": "open-sesame",
        "headers": {"x-key": "hidden-header"},
        "write_timeout": 10,
        **more.pop("keys", {}),
    }
    return SinkCase(
        sink_type=SINK_TYPE,
        keys=keys,
        secrets=SECRETS,
        arrived=server.arrived,
        outage=server.outage,
        stall=server.stall,
        refusal=None if "splunk" in keys else server.refusal,
        wrong_keys=WRONG_KEYS,
        **more,
    )


PRESETS = ["ndjson", "elasticsearch", "loki", "splunk", "clickhouse"]


@pytest.mark.parametrize("preset", PRESETS)
async def test_a_preset_keeps_the_promises_about_a_write(
    serve: Callable[..., Any], preset: str
) -> None:
    server = await serve(preset)
    case = make_case(server, preset, largest_window=1000)
    await check_sink(case, ("outage in a write", "refusal", "probing"))


async def test_the_promises_about_the_settings_are_kept(serve: Callable[..., Any]) -> None:
    await check_sink(make_case(await serve("ndjson"), "ndjson"), ["settings"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
async def test_a_preset_keeps_all_promises(serve: Callable[..., Any], preset: str) -> None:
    server = await serve(preset)
    case = make_case(server, preset, keys={"write_timeout": 2}, largest_window=1000)
    assert (await check_sink(case)).left_out == ("reopening",)
    # The store is of Python, in this thread: for 50,000 records it needs time.
    await check_sink(make_case(server, preset, keys={"write_timeout": 60}), ["large window"])


@pytest.mark.slow
async def test_splunk_keeps_all_promises_with_acknowledgement(serve: Callable[..., Any]) -> None:
    server = await serve("splunk")
    server.store.delayed = True
    options = {"acknowledge": True, "acknowledge_interval": 0.01}
    keys = {"write_timeout": 2, "splunk": options}
    case = make_case(server, "splunk", keys=keys, largest_window=1000)
    # After a refusal, events before the refused one are sent again: no receipt acknowledges them.
    assert (await check_sink(case)).left_out == ("refusal", "reopening")
