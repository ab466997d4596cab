"""The sink, and collectors whose answers the test chooses."""

import asyncio
import errno
import gc
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientOSError, ClientSession, web
from hogpipe_otlp import hogpipe_sinks
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from hogpipe import ConfigurationError, DeliveryError, HttpClient, Record, RefusedError, Sink
from hogpipe.testing import RecordMaker, make_sink, total_bytes

OpenSink = Callable[..., Awaitable[Sink]]
(SINK_TYPE,) = hogpipe_sinks()


def partial(rejected: int, reason: str) -> web.Response:
    message = ExportMetricsServiceResponse()
    message.partial_success.rejected_data_points = rejected
    message.partial_success.error_message = reason
    return web.Response(body=message.SerializeToString(), content_type="application/x-protobuf")


def moved(records: list[Record]) -> int:
    return sum(map(total_bytes, records))


async def test_a_request_follows_otlp(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url, headers={"x-api-key": "secret"})
    await sink.write(RecordMaker().window(8))
    for request in receiver.requests:
        assert request.method == "POST"
        assert request.headers["Content-Type"] == "application/x-protobuf"
        assert request.headers["User-Agent"].startswith("hogpipe-otlp/")
        assert request.headers["X-Api-Key"] == "secret"
    assert receiver.sizes == [0, 14]  # that of open has no points


async def test_a_secret_may_come_from_the_environment(
    receiver: Any, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "Bearer s3cret")
    await opened(endpoint=receiver.url, headers={"authorization": {"env": "TOKEN"}})
    assert receiver.requests[0].headers["Authorization"] == "Bearer s3cret"


async def test_requests_have_a_bound(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url, max_points=20)
    await sink.write(records := RecordMaker().window(101))
    assert max(receiver.sizes) <= 20
    assert receiver.total == moved(records)


async def test_a_request_that_is_too_large_is_halved(receiver: Any, opened: OpenSink) -> None:
    receiver.most_points = 3
    sink = await opened(endpoint=receiver.url)
    await sink.write(records := RecordMaker().window(40))
    assert receiver.total == moved(records)


async def test_a_record_that_alone_is_too_large_is_refused(receiver: Any, opened: OpenSink) -> None:
    receiver.most_points = 1
    sink = await opened(endpoint=receiver.url)
    window = RecordMaker().window(4)
    window[0]["network"]["io"]["transmit"] = {"bytes": 0, "packets": 0}
    with pytest.raises(RefusedError, match="413") as caught:
        await sink.write(window)
    assert caught.value.refused == window[1:3]  # those that have two points
    assert receiver.total == total_bytes(window[0])


async def test_refused_records_are_reported_and_the_others_delivered(
    receiver: Any, opened: OpenSink
) -> None:
    sink = await opened(endpoint=receiver.url, max_points=16)
    window = RecordMaker().window(25)
    receiver.answers = [web.Response(), web.Response(status=400, text="no"), web.Response()]
    with pytest.raises(RefusedError, match=r"answers 400 Bad Request: no$") as caught:
        await sink.write(window)
    assert caught.value.refused == window[8:16]
    assert receiver.total == moved([*window[:8], *window[16:]])


async def test_after_a_failure_only_undelivered_records_are_sent(
    receiver: Any, opened: OpenSink
) -> None:
    sink = await opened(endpoint=receiver.url, max_points=16)
    window = RecordMaker().window(33)
    receiver.answers = [
        web.Response(),
        web.Response(status=400),
        web.Response(status=503),
    ]
    with pytest.raises(DeliveryError, match="503") as caught:
        await sink.write(window)
    assert caught.value.refused == window[8:16]
    assert caught.value.undelivered == window[16:32]
    await sink.write(caught.value.undelivered)
    assert receiver.total == moved([*window[:8], *window[16:]])


async def test_points_that_a_collector_rejects_are_counted(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url)
    window = RecordMaker().window(8)
    receiver.answers = [partial(2, "too old"), partial(99, "all of them"), partial(0, "careful")]
    with pytest.raises(RefusedError, match=r"rejects 2 points: too old$") as caught:
        await sink.write(window)
    assert caught.value.refused is not None
    assert len(caught.value.refused) == 2
    with pytest.raises(RefusedError, match=r"rejects all points: all of them$") as caught:
        await sink.write(window)
    assert caught.value.refused == window[:-1]
    await sink.write(window)


async def test_a_warning_is_logged_once(
    receiver: Any, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await opened(endpoint=receiver.url)
    receiver.answers = [partial(0, "use\x1b[2J less"), partial(0, "use less")]
    await sink.write(RecordMaker().window(8))
    await sink.write(RecordMaker().window(8))
    (record,) = caplog.records
    assert record.getMessage().endswith("warns: 'use\\x1b[2J less'")


async def test_retry_after_is_respected(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url)
    receiver.answers = [web.Response(status=429, headers={"Retry-After": "1"})]
    window = RecordMaker().window(8)
    with pytest.raises(DeliveryError, match="429"):
        await sink.write(window)
    asked = len(receiver.requests)
    with pytest.raises(DeliveryError, match="wants to be left alone for 1 s"):
        await sink.write(window)
    assert len(receiver.requests) == asked
    await asyncio.sleep(1)
    await sink.write(window)
    assert receiver.total == moved(window)


async def test_cumulative_points_count_nothing_twice(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url, temporality="cumulative")
    maker = RecordMaker()
    first, second = maker.window(3), maker.window(3)
    receiver.answers = [web.Response(), web.Response(status=503), web.Response(), web.Response()]
    await sink.write(first)
    with pytest.raises(DeliveryError):
        await sink.write(second)
    await sink.write(second)
    assert receiver.points[-1].value == max(point.value for point in receiver.points)
    last = {str(point[:3]): point.value for point in receiver.points}
    assert sum(last.values()) == moved([*first, *second])


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "set the credentials"), (403, "set the cred"), (404, "see the path")]
)
async def test_wrong_credentials_and_paths_are_errors_at_the_start(
    receiver: Any, opened: OpenSink, status: int, hint: str
) -> None:
    receiver.answers = [web.Response(status=status)]
    with pytest.raises(DeliveryError, match=f"answers {status} .*; {hint}"):
        await opened(endpoint=receiver.url)


async def test_an_error_names_a_collector_that_is_down(opened: OpenSink) -> None:
    with pytest.raises(DeliveryError, match=r"^127\.0\.0\.1:9: no connection: Connection refused$"):
        await opened(endpoint="http://127.0.0.1:9/v1/metrics")


async def test_an_error_names_a_host_that_does_not_resolve(opened: OpenSink) -> None:
    with pytest.raises(DeliveryError, match=r"^nowhere\.invalid:80: no connection: \w"):
        await opened(endpoint="http://nowhere.invalid/v1/metrics")


async def test_an_error_names_a_server_without_http(opened: OpenSink) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.readuntil(b"\r\n\r\n")  # unread bytes would reset the connection
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DeliveryError) as caught:
            await opened(endpoint=f"http://127.0.0.1:{port}/?token=sesame")
        what = rf"127\.0\.0\.1:{port}: no answer in HTTP: [\w /]+"  # the words of aiohttp's parser
        assert re.fullmatch(what, str(caught.value))


async def test_a_probe_reports_what_the_collector_answers(receiver: Any, opened: OpenSink) -> None:
    sink: Any = await opened(endpoint=receiver.url)
    assert (await sink.probe()).endswith(": accepts requests")
    for status, kind in ((401, DeliveryError), (400, RefusedError)):
        receiver.answers = [web.Response(status=status)]
        with pytest.raises(kind, match=f"answers {status}"):
            await sink.probe()


@pytest.mark.parametrize(
    ("code", "reason"), [(None, "broke"), (errno.EPIPE, "broke: Broken pipe")], ids=str
)
async def test_an_error_of_a_request_that_breaks_has_no_query(
    code: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's own text has the URL. It raises this where a write ends before a read: a race."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise ClientOSError(code, f"Can not write request body for {endpoint}")

    endpoint = "http://127.0.0.1:4318/v1/metrics?key=sesame"
    monkeypatch.setattr(ClientSession, "post", fail)
    client = HttpClient(endpoint, headers={})
    with pytest.raises(DeliveryError) as error:
        await client.post(endpoint, b"")
    assert str(error.value) == f"127.0.0.1:4318: the connection {reason}"


async def test_a_redirect_is_an_error_and_not_followed(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url)
    receiver.answers = [web.Response(status=307, headers={"Location": receiver.url})]
    with pytest.raises(DeliveryError, match=r"answers 307 .*; set `endpoint` to where it leads"):
        await sink.write(RecordMaker().window(8))
    assert len(receiver.requests) == 2


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
            await opened(endpoint=f"http://127.0.0.1:{port}/v1/metrics")


async def test_a_stalled_collector_fails_in_time_and_close_does_not_wait() -> None:
    accepted, dropped = asyncio.Event(), asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        dropped.set()
        writer.close()

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}/v1/metrics"
        sink = make_sink(SINK_TYPE, {"endpoint": endpoint, "write_timeout": 0.5})
        window = RecordMaker().window(8)
        begun = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer in time") as caught:
            await sink.write(window)
        assert time.monotonic() - begun < 0.5
        assert caught.value.undelivered == window[:-1]
        async with asyncio.timeout(5):
            await dropped.wait()

        accepted.clear()
        opening = asyncio.create_task(sink.open())
        await accepted.wait()
        opening.cancel()
        async with asyncio.timeout(0.4):
            await asyncio.wait({opening})
            await sink.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def files(folder: Path, authority: trustme.CA) -> dict[str, str]:
    """Return settings that name the files of `authority` and of a client's certificate."""
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("agent.example")
    own.private_key_pem.write_to_path(folder / "key.pem")
    for part in own.cert_chain_pems:
        part.write_to_path(folder / "cert.pem", append=True)
    names = {"ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"}
    return {key: str(folder / name) for key, name in names.items()}


async def test_tls_with_certificates_on_both_sides(
    tls_receiver: Any, opened: OpenSink, authority: trustme.CA, tmp_path: Path
) -> None:
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with tls_receiver(context) as receiver:
        keys = files(tmp_path, authority)
        sink = await opened(endpoint=receiver.url, tls=keys)
        await sink.write(window := RecordMaker().window(8))
        assert receiver.total == moved(window)
        begun = time.monotonic()
        await sink.close()
        assert time.monotonic() - begun < 0.4
        with pytest.raises(DeliveryError):
            await opened(endpoint=receiver.url, tls={"ca": keys["ca"]})
    gc.collect()


async def test_a_wrong_authority_and_a_wrong_name_are_errors(
    tls_receiver: Any, opened: OpenSink, authority: trustme.CA, tmp_path: Path
) -> None:
    async with tls_receiver(server_context(authority)) as receiver:
        place = receiver.url.split("/")[2]
        with pytest.raises(DeliveryError, match=f"^{place}: its certificate is not accepted: "):
            await opened(endpoint=receiver.url)
    ca = files(tmp_path, authority)["ca"]
    async with tls_receiver(server_context(authority, "other.example")) as receiver:
        with pytest.raises(DeliveryError, match=r"not accepted: Hostname mismatch"):
            await opened(endpoint=receiver.url, tls={"ca": ca})


async def test_an_error_names_a_collector_without_tls(receiver: Any, opened: OpenSink) -> None:
    url = receiver.url.replace("http:", "https:")
    with pytest.raises(DeliveryError, match=r": no TLS: wrong version number$"):
        await opened(endpoint=url)


def test_an_error_names_a_file_without_a_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    keys = files(tmp_path, authority)
    for key in keys:
        tls = {**keys, key: str(tmp_path / "missing.pem")}
        with pytest.raises(ConfigurationError, match=rf"tls\.{key}: .*missing\.pem: No such file"):
            make_sink(SINK_TYPE, {"endpoint": "https://localhost:9/v1/metrics", "tls": tls})


async def test_the_name_of_the_certificate_can_be_configured(
    tls_receiver: Any, opened: OpenSink, authority: trustme.CA, tmp_path: Path
) -> None:
    tls = {"ca": files(tmp_path, authority)["ca"], "server_name": "other.example"}
    async with tls_receiver(server_context(authority, "other.example")) as receiver:
        await opened(endpoint=receiver.url, tls=tls)


async def test_a_certificate_removed_during_a_run_loses_nothing(
    tls_receiver: Any, opened: OpenSink, authority: trustme.CA, tmp_path: Path
) -> None:
    keys = files(tmp_path, authority)
    async with tls_receiver(server_context(authority)) as receiver:
        sink = await opened(endpoint=receiver.url, tls=keys)
        receiver.answers = [web.Response(status=503)]
        window = RecordMaker().window(8)
        with pytest.raises(DeliveryError):
            await sink.write(window)
        await sink.close()  # what a broken connection comes to
        ca = (tmp_path / "ca.pem").rename(tmp_path / "away.pem")
        with pytest.raises(DeliveryError, match="No such file"):
            await sink.write(window)
        ca.rename(tmp_path / "ca.pem")
        await sink.write(window)
        assert receiver.total == moved(window)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:4318",
        "ftp://x/",
        "http://",
        "http://x:99999/",
        "http://a b/",
        "http://x\n/",
        "http://a..b/",
    ],
)
def test_an_invalid_endpoint_is_an_error(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sinks\[0\]\.endpoint: must be http"):
        make_sink(SINK_TYPE, {"endpoint": endpoint})


def test_no_message_has_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret\nx")
    for keys in (
        {"endpoint": "http://user:s3cret@localhost/"},
        {"headers": {"authorization": {"env": "TOKEN"}}},
    ):
        with pytest.raises(ConfigurationError) as caught:
            make_sink(SINK_TYPE, keys)
        assert "s3cret" not in str(caught.value)
