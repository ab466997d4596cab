"""The sink, and stores whose answers the test chooses."""

import asyncio
import base64
import gc
import ssl
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from hogpipe_http import hogpipe_sinks
from hogpipe_http.compression import make_compress

from hogpipe import ConfigurationError, DeliveryError, RefusedError, Sink
from hogpipe.testing import RecordMaker, enlarge, make_sink

OpenSink = Callable[..., Awaitable[Sink]]
Serve = Callable[..., Awaitable[Any]]
(SINK_TYPE,) = hogpipe_sinks()


def sequences(records: Any) -> list[int]:
    return [record["sequence"] for record in records]


async def test_a_window_is_sent_in_requests_of_bounded_size(serve: Serve, opened: OpenSink) -> None:
    server = await serve("ndjson")
    sink = await opened(url=server.url, max_records=20)
    await sink.write(window := RecordMaker().window(101))
    assert server.store.documents() == window
    assert len(server.requests) == 1 + 6  # that of open has no records


async def test_the_bytes_of_a_request_are_bounded_too(serve: Serve, opened: OpenSink) -> None:
    server = await serve("elasticsearch")
    sink = await opened(url=server.url, preset="elasticsearch", max_mib=1, max_records=10_000)
    window = RecordMaker().window(4000)
    enlarge(window[7], 2 << 20)  # goes alone
    await sink.write(window)
    assert server.store.documents() == window
    assert sum(size > 1.3 * (1 << 20) for size in server.sizes) == 1
    assert len(server.sizes) > 4


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_bodies_are_compressed(serve: Serve, opened: OpenSink, compression: str) -> None:
    server = await serve("ndjson")
    sink = await opened(url=server.url, compression=compression)
    await sink.write(window := RecordMaker().window(100))
    assert server.store.documents() == window
    sent = int(server.requests[-1].headers["Content-Length"])
    assert (sent < server.sizes[-1] / 3) == (compression != "none")


def test_gzip_has_the_header_of_gzip() -> None:
    compress = make_compress("gzip")
    assert compress is not None
    assert zlib.decompress(compress(b"x"), wbits=31) == b"x"


@pytest.mark.parametrize(
    ("preset", "keys", "sent"),
    [
        ("ndjson", {"token": "open-sesame"}, "Bearer open-sesame"),
        ("splunk", {"token": "open-sesame"}, "Splunk open-sesame"),
        (
            "ndjson",
            {"user": "me", "password": "pä:ss"},
            "Basic " + base64.b64encode("me:pä:ss".encode()).decode(),
        ),
        ("ndjson", {"headers": {"Authorization": "ApiKey x"}}, "ApiKey x"),
    ],
)
async def test_requests_have_credentials_and_headers(
    serve: Serve, opened: OpenSink, preset: str, keys: dict[str, Any], sent: str
) -> None:
    server = await serve(preset)
    await opened(url=server.url, preset=preset, **keys)
    headers = server.requests[0].headers
    assert headers["Authorization"] == sent
    assert headers["User-Agent"].startswith("hogpipe-http/")


async def test_a_secret_comes_from_the_environment_or_a_file(
    serve: Serve, opened: OpenSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = await serve("ndjson")
    monkeypatch.setenv("TOKEN", "open-sesame")
    await opened(url=server.url, token={"env": "TOKEN"})
    (tmp_path / "password").write_text("s3cret\n")
    await opened(url=server.url, user="me", password={"file": str(tmp_path / "password")})
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer open-sesame", "Basic " + base64.b64encode(b"me:s3cret").decode()]


async def test_a_server_that_repeats_a_secret_gives_none_away(
    serve: Serve, opened: OpenSink
) -> None:
    server = await serve("ndjson")
    secrets = ["open-sesame", "hidden-header", "key-in-query", "key-in-a-path-of-its-own"]
    url = f"{server.url}/{secrets[3]}/in?key={secrets[2]}"
    sink = await opened(url=url, token=secrets[0], headers={"x-key": secrets[1]})
    for status in (400, 403, 503):
        server.answers = [web.Response(status=status, text=f"no {' '.join(secrets)} today")]
        with pytest.raises((DeliveryError, RefusedError)) as caught:
            await sink.write(RecordMaker().window(1))
        assert not any(secret in str(caught.value) for secret in secrets)
        assert "no [redacted] [redacted] [redacted] [redacted] today" in str(caught.value)
    server.answers = [
        web.Response(status=301, headers={"Location": url.replace("http:", "https:")})
    ]
    with pytest.raises(DeliveryError, match="not followed") as caught:
        await sink.write(RecordMaker().window(1))
    assert not any(secret in str(caught.value) for secret in secrets)


async def test_a_request_that_is_too_large_is_halved(
    serve: Serve, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve("loki")
    server.most_bytes = 4000
    sink = await opened(url=server.url, preset="loki")
    await sink.write(window := RecordMaker().window(40))
    assert server.store.documents() == window
    (line,) = caplog.records  # once
    assert "answers 413" in line.getMessage()
    assert "max_mib" in line.getMessage()


async def test_a_record_that_alone_is_too_large_is_refused(serve: Serve, opened: OpenSink) -> None:
    server = await serve("ndjson")
    server.most_bytes = 4000
    window = RecordMaker().window(8)
    enlarge(window[3], 5000)
    sink = await opened(url=server.url)
    with pytest.raises(RefusedError, match="413") as caught:
        await sink.write(window)
    assert caught.value.refused == [window[3]]
    assert server.store.documents() == [*window[:3], *window[4:]]


@pytest.mark.parametrize("preset", ["ndjson", "elasticsearch", "loki", "splunk", "clickhouse"])
async def test_refused_records_are_named_once_and_the_others_delivered_once(
    serve: Serve, opened: OpenSink, preset: str
) -> None:
    server = await serve(preset)
    keys = {"preset": preset, "token": "open-sesame", "max_records": 30}
    sink = await opened(url=server.url, **keys)
    window = RecordMaker().window(100)
    wrong = {window[4]["sequence"], window[77]["sequence"]}
    server.store.refused = lambda document: document["sequence"] in wrong
    with pytest.raises(RefusedError) as caught:
        await sink.write(window)
    assert sequences(caught.value.refused) == sorted(wrong)
    assert "\n" not in str(caught.value)
    assert sorted(sequences(server.store.documents())) == sorted({*sequences(window)} - wrong)


async def test_after_a_failure_only_what_is_left_is_sent(serve: Serve, opened: OpenSink) -> None:
    server = await serve("ndjson")
    sink = await opened(url=server.url, max_records=2)
    window = RecordMaker().window(9)
    server.answers = [None, web.Response(status=500), None, web.Response(status=502)]
    with pytest.raises(DeliveryError, match="500") as caught:
        await sink.write(window)
    assert caught.value.undelivered == window[2:]
    with pytest.raises(DeliveryError, match="502") as caught:
        await sink.write(window[2:])
    assert caught.value.undelivered == window[4:]
    await sink.write(window[4:])
    assert server.store.documents() == window


async def test_items_that_are_not_taken_now_are_sent_again(serve: Serve, opened: OpenSink) -> None:
    server = await serve("elasticsearch")
    sink = await opened(url=server.url, preset="elasticsearch")
    window = RecordMaker().window(20)
    refused = window[2]["sequence"]
    server.store.refused = lambda document: document["sequence"] == refused
    server.store.busy = 5
    with pytest.raises(DeliveryError, match="1 are refused, 5 sent again: 400 document") as caught:
        await sink.write(window)
    assert caught.value.refused == [window[2]]
    assert caught.value.undelivered == [*window[:2], *window[3:6]]
    await sink.write(caught.value.undelivered)
    arrived = sequences(server.store.documents())
    assert sorted(arrived) == sorted({*sequences(window)} - {refused})


@pytest.mark.parametrize("preset", ["elasticsearch", "loki", "clickhouse"])
async def test_a_repeat_changes_nothing(serve: Serve, opened: OpenSink, preset: str) -> None:
    """The answer breaks off after the store has the records."""
    server = await serve(preset)
    sink = await opened(url=server.url, preset=preset, max_records=7)
    window = RecordMaker().window(20)
    left = window
    server.cut = 2
    for _cut in range(2):
        with pytest.raises(DeliveryError, match="in the middle of its answer") as caught:
            await sink.write(left)
        left = caught.value.undelivered
        assert left == window
    await sink.write(left)
    assert server.store.documents() == window


async def test_what_an_answer_with_retry_after_asks_for_is_done(
    serve: Serve, opened: OpenSink
) -> None:
    server = await serve("ndjson")
    sink = await opened(url=server.url)
    window = RecordMaker().window(3)
    server.answers = [web.Response(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(DeliveryError, match="429"):
        await sink.write(window)
    asked = len(server.requests)
    with pytest.raises(DeliveryError, match="wants to be left alone for 300 s"):
        await sink.write(window)
    assert len(server.requests) == asked


@pytest.mark.parametrize("preset", ["elasticsearch", "loki", "splunk", "clickhouse"])
async def test_the_page_of_a_proxy_loses_nothing(
    serve: Serve, opened: OpenSink, preset: str
) -> None:
    server = await serve(preset)
    keys = {"url": server.url, "preset": preset, "token": "open-sesame"}
    sink = await opened(**keys)
    page = {"text": "<html>Please log in</html>", "content_type": "text/html"}
    server.answers = [web.Response(**page), None, web.Response(**page)]
    window = RecordMaker().window(8)
    with pytest.raises(DeliveryError, match="is this a proxy, or another server"):
        await sink.write(window)
    await sink.write(window)
    assert server.store.documents() == window
    with pytest.raises(DeliveryError, match="200 with text/html"):
        await opened(**keys)


async def test_wrong_credentials_are_an_error_at_the_start(serve: Serve, opened: OpenSink) -> None:
    server = await serve("splunk")
    with pytest.raises(DeliveryError, match="403 Forbidden: code 4: Invalid token; set `token`"):
        await opened(url=server.url, preset="splunk", token="wrong-token")


async def test_records_are_delivered_when_splunk_acknowledges_them(
    serve: Serve, opened: OpenSink
) -> None:
    server = await serve("splunk")
    server.store.delayed = True
    options = {"acknowledge": True, "acknowledge_interval": 0.01}
    keys = {"preset": "splunk", "token": "open-sesame", "splunk": options, "max_records": 4}
    sink = await opened(url=server.url, **keys)
    await sink.write(window := RecordMaker().window(10))
    assert server.store.documents() == window
    assert [request.path[-3:] for request in server.requests] == ["ent"] * 4 + ["ack"] * 2


async def test_with_acknowledgement_a_refused_record_takes_no_other_with_it(
    serve: Serve, opened: OpenSink
) -> None:
    server = await serve("splunk")
    server.store.delayed = True
    options = {"acknowledge": True, "acknowledge_interval": 0.01}
    sink = await opened(url=server.url, preset="splunk", token="open-sesame", splunk=options)
    window = RecordMaker().window(10)
    wrong = window[4]["sequence"]
    server.store.refused = lambda document: document["sequence"] == wrong
    with pytest.raises(RefusedError, match="400 Bad Request: code 6: Invalid data") as caught:
        await sink.write(window)
    assert caught.value.refused == [window[4]]
    arrived = sequences(server.store.documents())
    assert {*arrived} == {*sequences(window)} - {wrong}


async def test_what_splunk_does_not_acknowledge_is_sent_again(
    serve: Serve, opened: OpenSink
) -> None:
    server = await serve("splunk")
    server.store.delayed = True
    server.store._index = lambda: None
    # The second query would be after the end of the write.
    options = {"acknowledge": True, "acknowledge_interval": 1000}
    keys = {"preset": "splunk", "token": "open-sesame", "splunk": options}
    sink = await opened(url=server.url, **keys)
    window = RecordMaker().window(10)
    with pytest.raises(DeliveryError, match="no acknowledgement in time; see `write_t") as caught:
        await sink.write(window)
    assert caught.value.undelivered == window


async def test_a_probe_reports_what_the_server_answers(serve: Serve, opened: OpenSink) -> None:
    server = await serve("elasticsearch")
    sink: Any = await opened(url=server.url, preset="elasticsearch")
    found = await sink.probe()
    assert found == f"127.0.0.1:{server.port}: answers 400 to a request without records"
    server.answers = [web.Response(status=401)]
    with pytest.raises(DeliveryError, match="answers 401"):
        await sink.probe()


async def test_an_error_names_a_server_that_is_down(opened: OpenSink) -> None:
    with pytest.raises(DeliveryError, match=r"^127\.0\.0\.1:9: no connection: Connection refused$"):
        await opened(url="http://127.0.0.1:9/")


async def test_a_request_has_a_time_limit_of_its_own() -> None:
    dropped = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        dropped.set()
        writer.close()

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        keys = {"url": f"http://127.0.0.1:{port}/", "request_timeout": "50ms"}
        sink = make_sink(SINK_TYPE, keys)
        window = RecordMaker().window(8)
        with pytest.raises(DeliveryError, match="no answer in time") as caught:
            await sink.write(window)
        assert caught.value.undelivered == window
        async with asyncio.timeout(5):
            await dropped.wait()
        await sink.close()


async def test_an_endless_answer_is_not_read_to_its_end(opened: OpenSink) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 1000000000000\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(10):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DeliveryError, match="answers 401 Unauthorized: xxx"):
            await opened(url=f"http://127.0.0.1:{port}/")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_certificates_that_do_not_fit_have_a_remedy(
    serve: Serve, opened: OpenSink, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("store.example").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    server = await serve("ndjson", ssl_context=context)
    url = server.url.replace("http:", "https:")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("agent").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    ca, mine = str(tmp_path / "ca.pem"), str(tmp_path / "me.pem")
    place = rf"^127\.0\.0\.1:{server.port}: "
    for tls, text in (
        ({}, "its certificate is not accepted: self-signed .*; set `tls.ca` to the "),
        ({"ca": ca}, "its certificate is not accepted: IP address mismatch.*`tls.server_name`"),
    ):
        with pytest.raises(DeliveryError, match=place + text):
            await opened(url=url, tls=tls)
    names = {"ca": ca, "server_name": "store.example"}
    with pytest.raises(DeliveryError, match=place):
        await opened(url=url, tls=names)  # without a certificate of its own
    sink = await opened(url=url, tls={**names, "certificate": mine})
    await sink.write(window := RecordMaker().window(8))
    assert server.store.documents() == window
    with pytest.raises(DeliveryError, match="no TLS: wrong version number"):
        await opened(url=(await serve("loki")).url.replace("http:", "https:"), preset="loki")
    gc.collect()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"preset": "loki", "compression": "zstd"}, "compression: loki takes gzip or none"),
        ({"loki": {"labels": ["unit"]}}, "loki: only with the preset loki"),
        ({"token": "t", "user": "u"}, "token: either token, or user and password"),
        ({"token": "t", "headers": {"authorization": "x"}}, "headers.authorization: either"),
        ({"preset": "loki", "loki": {"labels": ["pid"]}}, "labels"),
        ({"preset": "elasticsearch", "elasticsearch": {"index": "Big/x"}}, "elasticsearch.index"),
        ({"url": "http://me:s3cret@x/"}, "url: must hold no user or password"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_sink(SINK_TYPE, {"url": "http://x/", **keys})
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)
