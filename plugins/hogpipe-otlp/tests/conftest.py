"""A real collector (Rotel) that passes on what it takes, a line to it that can be cut, and a
collector that answers as it is told.
"""

import asyncio
import importlib.util
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from hogpipe_otlp import OtlpSink, hogpipe_sinks
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from hogpipe.testing import make_sink

(SINK_TYPE,) = hogpipe_sinks()
PATIENCE = 30.0


class Received(NamedTuple):
    """A data point as it arrived."""

    resource: dict[str, Any]
    attributes: dict[str, Any]
    value: int
    start_ns: int
    end_ns: int
    temporality: int


class Receiver:
    """An OTLP/HTTP receiver. `answers` are given to the next requests, one each; then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.points: list[Received] = []
        self.requests: list[web.Request] = []
        self.sizes: list[int] = []
        """Points of each request, also of those that were not taken."""
        self.answers: list[web.Response] = []
        self.most_points: int | None = None
        """More in a request are answered with 413."""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has undone the gzip
        assert request.headers["Content-Encoding"] == "gzip"
        points = decode(body)
        self.requests.append(request)
        self.sizes.append(len(points))
        if self.answers:
            answer = self.answers.pop(0)
            if answer.status != 200:
                return answer
            self.points += points
            return answer
        if self.most_points is not None and len(points) > self.most_points:
            return web.Response(status=413)
        self.points += points
        return web.Response(content_type="application/x-protobuf")

    @property
    def total(self) -> int:
        return sum(point.value for point in self.points)

    async def wait_for(self, total: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.total != total:
            assert time.monotonic() < deadline, f"{self.total} bytes arrived, not {total}"
            await asyncio.sleep(0.02)


def decode(body: bytes) -> list[Received]:
    """Return the data points of a request, as OpenTelemetry's own classes read it."""
    points = []
    for owner in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = attributes(owner.resource.attributes)
        for scope in owner.scope_metrics:
            assert scope.scope.name == "hogpipe"
            for metric in scope.metrics:
                assert (metric.name, metric.unit) == ("process.network.io", "By")
                assert metric.sum.is_monotonic
                points += [
                    Received(
                        resource,
                        attributes(point.attributes),
                        point.as_int,
                        point.start_time_unix_nano,
                        point.time_unix_nano,
                        metric.sum.aggregation_temporality,
                    )
                    for point in metric.sum.data_points
                ]
    return points


def attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application(client_max_size=1 << 30)
    application.router.add_post("/v1/metrics", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0, ssl_context=tls)
        await site.start()
        _host, port = runner.addresses[0][:2]
        receiver.url = f"{'https' if tls else 'http'}://localhost:{port}/v1/metrics"
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
def tls_receiver() -> Callable[[ssl.SSLContext], Any]:
    return receiving


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Awaitable[OtlpSink]]]:
    """Opens a sink with the keys of its `[[sinks]]` table; it is closed in the end."""
    sinks = []

    async def open_sink(**keys: object) -> OtlpSink:
        sink = make_sink(SINK_TYPE, keys)
        assert isinstance(sink, OtlpSink)
        sinks.append(sink)
        await sink.open()
        return sink

    yield open_sink
    for sink in sinks:
        await sink.close()


class Collector:
    """A running Rotel, what it has passed on, and a line to it that can be cut or held up."""

    def __init__(self, onward: Receiver) -> None:
        self.onward = onward
        self.url = ""
        self.line: Line


class Line:
    """Passes bytes on to a port, both ways, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._cut = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self._flowing.set()
            self._break()
            while self._writers:  # noqa: ASYNC110 - they are soon gone
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self._cut = True
        self._break()
        yield
        self._cut = False

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        self._flowing.clear()
        yield
        self._flowing.set()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            if not self._cut:
                onward, answers = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(answers)
                await asyncio.gather(self._pass(reader, answers), self._pass(onward, writer))
                self._writers.discard(answers)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def _break(self) -> None:
        for writer in [*self._writers]:
            writer.transport.abort()


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    async with receiving() as onward, running_rotel(onward.url, tmp_path) as port:
        one = Collector(onward)
        one.line = Line(port)
        async with one.line.open() as entry:
            one.url = f"http://127.0.0.1:{entry}/v1/metrics"
            yield one


@asynccontextmanager
async def running_rotel(onward: str, folder: Path) -> AsyncIterator[int]:
    """Run a collector that sends what it takes to the URL `onward`; return its HTTP port."""
    spec = importlib.util.find_spec("rotel")
    assert spec is not None, "rotel is not there: pip install 'hogpipe-otlp[test]'"
    assert spec.submodule_search_locations is not None
    program = Path(spec.submodule_search_locations[0]) / "rotel-agent"
    http, grpc = free_ports(2)
    with (folder / "rotel.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            "start",
            f"--otlp-http-endpoint=127.0.0.1:{http}",
            f"--otlp-grpc-endpoint=127.0.0.1:{grpc}",
            "--exporter=otlp",
            "--otlp-exporter-protocol=http",
            f"--otlp-exporter-endpoint={onward.removesuffix('/v1/metrics')}",
            "--batch-timeout=50ms",
            f"--pid-file={folder / 'rotel.pid'}",
            f"--log-file={folder / 'rotel.log'}",
            stdout=log,
            stderr=log,
        )
        try:
            await wait_until_open(http, process)
            yield http
        finally:
            process.kill()
            await process.wait()


async def wait_until_open(port: int, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # not yet
            assert process.returncode is None, "the collector has ended: see rotel.log"
            assert time.monotonic() < deadline, "the collector does not begin to listen"
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return


@pytest.fixture(name="free_ports")
def free_ports_fixture() -> Callable[[int], Sequence[int]]:
    """Returns ports that nobody listens at."""
    return free_ports


def free_ports(count: int) -> Sequence[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
