import asyncio
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterable

import pytest
from hogpipe_prometheus import hogpipe_sinks
from hogpipe_prometheus import server as server_module
from prometheus_client.core import Metric, Sample
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from hogpipe import ConfigurationError, DeliveryError, InUseError, Sink
from hogpipe.testing import RecordMaker, SinkCase, check_sink, make_sink, total_bytes

PATIENCE = 30.0

(SINK_TYPE,) = hogpipe_sinks()
OpenSink = Callable[..., Awaitable[Sink]]
Scrape = Callable[..., Awaitable[str]]
parse_openmetrics = openmetrics_parser.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def samples(text: str, parse: Callable[[str], Iterable[Metric]] = parse_text) -> list[Sample]:
    return [sample for family in parse(text) for sample in family.samples]


def total(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for sample in samples(text)
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the peer ends it, orderly or not."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_scrape_has_the_sums_of_the_records(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    records = [*(maker := RecordMaker()).window(40), *maker.window(40)]
    await sink.write(records[:40])
    await sink.write(records[40:])
    text = await scrape()
    traffic = [record for record in records if record["type"] == "traffic"]
    for direction in ("transmit", "receive"):
        tallies = [record["network"]["io"][direction] for record in traffic]
        for unit, name in (("bytes", "io_bytes"), ("packets", "io_packets")):
            metric = f"hogpipe_network_{name}_total"
            assert total(text, metric, direction=direction) == sum(one[unit] for one in tallies)
    own = sum(
        total_bytes(one)
        for one in traffic
        if one.get("systemd", {}).get("unit") == "worker-0.service"
    )
    assert total(text, "hogpipe_network_io_bytes_total", unit="worker-0.service") == own > 0


async def test_both_formats_have_the_same_samples(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    await sink.write(RecordMaker().window(40))
    text, openmetrics = await scrape(), await scrape(Accept=OPENMETRICS)
    assert openmetrics.endswith("# EOF\n")
    assert "# UNIT hogpipe_network_io_bytes bytes" in openmetrics
    assert samples(text) == samples(openmetrics, parse_openmetrics)


async def test_promtool_finds_no_problem(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    await sink.write(RecordMaker().window(40))
    program = shutil.which("promtool")
    assert program, "promtool is not there: apt-get install --no-install-recommends prometheus"
    text = await scrape()
    check = await asyncio.to_thread(
        subprocess.run, [program, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


async def test_no_label_is_a_pid(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    window = RecordMaker().window(40)
    for n, record in enumerate(window[:-1]):
        record["process"] = {"pid": n, "name": "same"}
    await sink.write(window)
    found = samples(await scrape())
    assert all("pid" not in sample.labels for sample in found)
    with pytest.raises(ConfigurationError, match=r"sinks\[0\].labels\[0\]"):
        make_sink(SINK_TYPE, {"labels": ["pid"]})


async def test_the_counters_of_the_pipeline_are_included(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    maker = RecordMaker()
    windows = [maker.window(8), maker.window(8)]
    for window in windows:
        await sink.write(window)
    text = await scrape()
    stats = [window[-1] for window in windows]
    moved = sum(total_bytes(record) for window in windows for record in window)
    captured = sum(one["capture"]["bytes"] for one in stats)
    assert total(text, "hogpipe_capture_bytes_total") == captured == moved
    assert total(text, "hogpipe_attribution_bytes_total") == moved
    assert total(text, "hogpipe_network_io_bytes_total") == moved
    assert total(text, "hogpipe_capture_dropped_packets_total", by="kernel") == 2
    assert total(text, "hogpipe_attribution_new_flows_total") == 14
    assert total(text, "hogpipe_sink_delivered_records_total", sink="jsonl", type="jsonl") == 20
    assert total(text, "hogpipe_sink_retries_total", sink="jsonl") == 1
    assert total(text, "hogpipe_cpu_seconds_total") == pytest.approx(0.02)
    assert total(text, "hogpipe_resident_memory_bytes") == 90 << 20
    end = stats[-1]["window"]["end_unix"]
    assert total(text, "hogpipe_window_end_timestamp_seconds") == end


async def test_a_spool_is_included_for_sinks_with_one(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    (stats,) = RecordMaker().window(1)
    spool = {"records": 4, "bytes": 900, "recovered": 2, "damaged_files": 1, "disk_failures": 3}
    stats["sinks"] += [{**stats["sinks"][0], "name": "tcp", "type": "tcp", "spool": spool}]
    await sink.write([stats])
    found = {
        (one.name, one.labels["sink"]): one.value
        for one in samples(await scrape())
        if "spool" in one.name
    }
    assert found == {
        ("hogpipe_sink_spool_records", "tcp"): 4,
        ("hogpipe_sink_spool_bytes", "tcp"): 900,
        ("hogpipe_sink_spool_damaged_files_total", "tcp"): 1,
        ("hogpipe_sink_spool_disk_failures_total", "tcp"): 3,
    }


async def test_hostile_names_are_harmless(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened()
    window = RecordMaker().window(8)
    names = [
        '"} 1\nfake_total 7',
        "a\\nb",
        "back\\",
        "\x00\x1b[2J",
        "\u202eevil",
        "{}=,",
        "\u00e9\U0001f600",
    ]
    for name, record in zip(names, window, strict=False):
        record["process"] = {"pid": 1, "name": name}
    await sink.write(window)
    for accept, parse in (("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)):
        text = await scrape(Accept=accept)
        assert all(line.isprintable() for line in text.splitlines())
        found = samples(text, parse)
        programs = {one.labels["program"] for one in found if "program" in one.labels}
        assert {
            "a\\nb",
            "back\\",
            "{}=,",
            '"} 1\N{REPLACEMENT CHARACTER}fake_total 7',
        } < programs
        assert all(one.name.startswith("hogpipe_") for one in found)


async def test_groups_beyond_the_bound_are_other(opened: OpenSink, scrape: Scrape) -> None:
    sink = await opened(max_series=3, labels=["unit"])
    await sink.write(records := RecordMaker().window(200))
    text = await scrape()
    assert {one.labels["unit"] for one in samples(text) if "unit" in one.labels} >= {"other"}
    assert total(text, "hogpipe_prometheus_label_sets") == 3
    assert total(text, "hogpipe_network_io_bytes_total") == sum(map(total_bytes, records))
    assert total(text, "hogpipe_network_io_bytes_total", unit="other") > 0


async def test_two_sinks_are_independent(opened: OpenSink, scrape: Scrape) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        second = f"127.0.0.1:{free.getsockname()[1]}"
    first, other = await opened(), await opened(listen=second)
    await first.write(RecordMaker().window(8))
    await other.write([]) if False else None
    assert total(await scrape(), "hogpipe_network_io_bytes_total") > 0
    text = await scrape(port=int(second.rpartition(":")[2]))
    assert total(text, "hogpipe_network_io_bytes_total") == 0


async def test_the_error_of_a_port_in_use_has_the_remedy(opened: OpenSink, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(InUseError) as caught:
        await opened()
    assert str(caught.value) == (
        f"listen 127.0.0.1:{port}: something else listens there; end it, or choose another port"
    )


async def test_an_address_that_this_host_does_not_have_yet_is_retried(opened: OpenSink) -> None:
    with pytest.raises(DeliveryError, match=r"cannot listen at 192\.0\.2\.1:9750: Cannot assign"):
        await opened(listen="192.0.2.1:9750")


async def test_an_error_names_a_host_that_does_not_resolve(opened: OpenSink) -> None:
    with pytest.raises(DeliveryError, match=r"cannot listen at nowhere\.invalid:9750: "):
        await opened(listen="nowhere.invalid:9750")


@pytest.mark.parametrize(
    "listen",
    [
        "9750",
        ":9750",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "a@b:1",
        "h:1/x",
        "a..b:1",
        "",
    ],
)
def test_an_invalid_address_is_a_configuration_error(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sinks\[0\]\.listen: .*must be HOST:PORT"):
        make_sink(SINK_TYPE, {"listen": listen})


async def test_the_sink_listens_on_ipv6(opened: OpenSink, port: int) -> None:
    sink = await opened(listen=f"[::1]:{port}")
    await sink.write(RecordMaker().window(8))
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics SPDY/9\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", b"400 Bad Request"),
        (b"\xff\xfe\x00 /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
    ],
)
async def test_other_requests_get_an_error_status(
    opened: OpenSink, port: int, request_head: bytes, status: bytes
) -> None:
    await opened()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_head)
    assert (await reader.read()).startswith(b"HTTP/1.1 " + status + b"\r\n")
    writer.close()


async def test_an_endless_request_is_closed(
    opened: OpenSink, scrape: Scrape, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.2)
    await opened()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n")
    assert not await read_to_end(reader)
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x" * 100_000)
    assert not await read_to_end(reader)
    writer.close()
    assert "hogpipe_build_info" in await scrape()


async def test_idle_connections_have_a_bound_and_the_oldest_is_replaced(
    opened: OpenSink, scrape: Scrape, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 2)
    await opened()
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    async with asyncio.timeout(PATIENCE):
        assert not await read_to_end(idle[0][0])
    idle[1][1].write(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert (await idle[1][0].read()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert "hogpipe_build_info" in await scrape()
    for _reader, one in idle:
        one.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nX: "], ids=["nothing", "a part"])
async def test_a_scrape_succeeds_beside_hundreds_of_half_open_requests(
    opened: OpenSink, scrape: Scrape, port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 1e6)  # no scrape waits for this
    sink = await opened()
    await sink.write(RecordMaker().window(8))
    half_open = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
    for _reader, writer in half_open:
        writer.write(sent)
    for number in range(10):
        for _reader, writer in half_open:
            if not writer.is_closing():
                writer.write(b"x")
        assert "hogpipe_build_info" in await asyncio.wait_for(scrape(), PATIENCE), number
    for _reader, writer in half_open:
        writer.transport.abort()


async def test_answers_that_are_not_read_keep_no_scrape_out(
    opened: OpenSink, scrape: Scrape, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(server_module, "SECONDS", 1e6)
    sink = await opened(max_series=20_000)
    await sink.write(RecordMaker().window(20_000))  # more than the buffers of a socket hold
    deaf = []
    for _ in range(8):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deaf.append(one)
    for one in deaf:  # each answer has begun
        assert await asyncio.to_thread(one.recv, 1)
    assert "hogpipe_build_info" in await asyncio.wait_for(scrape(), PATIENCE)
    for one in deaf:
        one.close()


async def test_close_waits_for_no_peer(opened: OpenSink, port: int) -> None:
    sink = await opened()
    await sink.write(RecordMaker().window(5000))
    idle = await asyncio.open_connection("127.0.0.1", port)
    deaf = socket.create_connection(("127.0.0.1", port))
    deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.3)
    async with asyncio.timeout(0.4):
        await sink.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    deaf.close()
    idle[1].close()


async def test_the_promises_of_sinks_are_kept(scrape: Scrape, port: int) -> None:
    case = SinkCase(
        sink_type=SINK_TYPE,
        keys={"listen": f"127.0.0.1:{port}"},
        total_bytes=lambda: _scraped_bytes(scrape),
        wrong_keys=[{"listen": "nowhere"}, {"labels": ["unit", "unit"]}, {"max_series": 0}],
    )
    await check_sink(case)


async def _scraped_bytes(scrape: Scrape) -> int:
    try:
        return int(total(await scrape(), "hogpipe_network_io_bytes_total"))
    except OSError:  # not open
        return 0
