"""Two collectors: a real one (Rotel) behind a connection that can fail, and a scripted one."""

import asyncio
import importlib.util
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from hogpipe_otlp import hogpipe_sinks
from hogpipe_otlp.metrics import METRICS
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from hogpipe import Sink
from hogpipe.testing import free_ports, make_sink
from hogpipe.testing import opened as opened_sink

(SINK_TYPE,) = hogpipe_sinks()
PATIENCE = 30.0
IO = "process.network.io"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests with Rotel on a Python for which it has no wheel."""
    if sys.version_info >= (3, 14):
        here = Path(__file__).parent
        items[:] = [one for one in items if one.path.parent != here or not _needs_rotel(one)]


def _needs_rotel(item: pytest.Item) -> bool:
    return "collector" in getattr(item, "fixturenames", ()) or "rotel" in item.name


class Received(NamedTuple):
    """A data point as it arrived; `value` is the sum of a histogram, in seconds."""

    metric: str
    resource: dict[str, Any]
    attributes: dict[str, Any]
    value: float
    start_ns: int
    end_ns: int
    temporality: int
    count: int = 0
    least: float | None = None


class Receiver:
    """An OTLP/HTTP receiver. `answers` are given to the next requests, one each; then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.points: list[Received] = []
        self.requests: list[web.Request] = []
        self.sizes: list[int] = []
        """Points of each request, also of refused ones."""
        self.answers: list[web.Response] = []
        self.most_points: int | None = None
        """A request with more points is answered with 413."""

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
        """Bytes of `process.network.io`."""
        return sum(int(point.value) for point in self.points if point.metric == IO)

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
                about = METRICS[metric.name]
                assert (metric.unit, metric.description) == (about.unit, about.description)
                points += _decode_metric(resource, metric)
    return points


def _decode_metric(resource: dict[str, Any], metric: Any) -> list[Received]:
    is_sum = metric.HasField("sum")
    assert is_sum != METRICS[metric.name].is_duration
    assert not is_sum or metric.sum.is_monotonic
    data = metric.sum if is_sum else metric.histogram
    return [
        Received(
            metric.name,
            resource,
            attributes(point.attributes),
            point.as_int if is_sum else point.sum,
            point.start_time_unix_nano,
            point.time_unix_nano,
            data.aggregation_temporality,
            0 if is_sum else point.count,
            None if is_sum or not point.HasField("min") else point.min,
        )
        for point in data.data_points
    ]


def attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


async def close_connection(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()


@asynccontextmanager
async def receiving(
    tls: ssl.SSLContext | None = None, *, keeps_connections: bool = True
) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application(client_max_size=1 << 30)
    if not keeps_connections:
        application.on_response_prepare.append(close_connection)
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
async def opened() -> AsyncIterator[Callable[..., Awaitable[Sink]]]:
    """Open sinks with the keys of their `[[sinks]]` tables; they are closed when the test ends."""
    async with AsyncExitStack() as stack:
        yield lambda **keys: stack.enter_async_context(opened_sink(make_sink(SINK_TYPE, keys)))


class Collector:
    """A running Rotel, the receiver that it forwards to, and a connection to it that can fail."""

    def __init__(self, onward: Receiver) -> None:
        self.onward = onward
        self.url = ""
        self.line: Line


class Line:
    """A proxy: forwards bytes to a port and back, but for an outage or a stall."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._cut = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
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

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            if not self._cut:
                onward, answers = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(answers)
                await asyncio.gather(self._copy(reader, answers), self._copy(onward, writer))
                self._writers.discard(answers)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
    # A collector with more to forward opens more connections. Kept, these would be descriptors of
    # this process that no sink has left open.
    async with (
        receiving(keeps_connections=False) as onward,
        running_rotel(onward.url, tmp_path) as port,
    ):
        one = Collector(onward)
        one.line = Line(port)
        async with one.line.open() as entry:
            one.url = f"http://127.0.0.1:{entry}/v1/metrics"
            yield one


@asynccontextmanager
async def running_rotel(onward: str, folder: Path) -> AsyncIterator[int]:
    """Run a collector that forwards its data to the URL `onward`; yield its HTTP port."""
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
            assert time.monotonic() < deadline, "the collector does not listen"
            await asyncio.sleep(0.01)
        else:
            writer.close()
            await writer.wait_closed()
            return
