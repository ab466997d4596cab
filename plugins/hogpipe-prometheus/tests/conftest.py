"""A sink as a run makes it, and a real Prometheus that scrapes it (Debian's package)."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hogpipe_prometheus import hogpipe_sinks

from hogpipe import Record, Sink
from hogpipe.testing import free_ports, make_sink
from hogpipe.testing import opened as opened_sink

(SINK_TYPE,) = hogpipe_sinks()
PATIENCE = 30.0

CONFIG = """
global:
  scrape_interval: 200ms
scrape_configs:
  - job_name: hogpipe
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """A running Prometheus server. `ask` takes PromQL."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str, **parameters: str) -> Any:
        """Return what its HTTP API answers."""
        query = urllib.parse.urlencode(parameters)
        text = await asyncio.to_thread(fetch, f"{self._url}{path}?{query}")
        return json.loads(text)["data"]

    async def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series that `query` gives now."""
        data = await self.get("/api/v1/query", query=query)
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    async def value(self, query: str) -> float | None:
        """Return the one value that `query` gives now; None if it gives none."""
        found = await self.ask(query)
        assert len(found) <= 1
        return found[0][1] if found else None

    async def wait_for(self, query: str, value: float | None) -> None:
        """Wait until `query` gives `value`."""
        deadline = time.monotonic() + PATIENCE
        while (found := await self.value(query)) != value:
            assert time.monotonic() < deadline, f"{query} gives {found}, not {value}"
            await asyncio.sleep(0.1)


def fetch(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read().decode()


@pytest.fixture
def port() -> int:
    """A port on which nothing listens."""
    return free_ports(1)[0]


@pytest.fixture
def scrape(port: int) -> Callable[..., Awaitable[str]]:
    """Scrape the sink, without blocking the event loop."""

    async def get(*, port: int = port, **headers: str) -> str:
        return await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics", **headers)

    return get


@pytest.fixture
async def opened(port: int) -> AsyncIterator[Callable[..., Awaitable[Sink]]]:
    """Open sinks with the keys of their `[[sinks]]` tables; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def open_sink(**keys: object) -> Awaitable[Sink]:
            sink = make_sink(SINK_TYPE, {"listen": f"127.0.0.1:{port}", **keys})
            return stack.enter_async_context(opened_sink(sink))

        yield open_sink


@asynccontextmanager
async def running_prometheus(folder: Path, config: str) -> AsyncIterator[Prometheus]:
    program = shutil.which("prometheus")
    assert program, "prometheus is not there: apt-get install --no-install-recommends prometheus"
    file = folder / "prometheus.yml"
    file.write_text(config)
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={listen}",
            stdout=log,
            stderr=log,
        )
        try:
            await _wait_until_ready(f"http://{listen}/-/ready", folder / "prometheus.log")
            yield Prometheus(f"http://{listen}")
        finally:
            process.kill()
            await process.wait()


async def _wait_until_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await asyncio.to_thread(fetch, url)
        except OSError:  # not yet; HTTPError is one
            assert time.monotonic() < deadline, f"not ready: see {log}"
            await asyncio.sleep(0.05)
        else:
            return


@pytest.fixture
async def prometheus(tmp_path: Path, port: int) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes `port` five times a second."""
    async with running_prometheus(tmp_path, CONFIG.format(target=f"127.0.0.1:{port}")) as server:
        yield server


@pytest.fixture
def promtool() -> Callable[..., None]:
    """Run promtool, which has to succeed."""
    program = shutil.which("promtool")
    assert program, "promtool is not there: apt-get install --no-install-recommends prometheus"

    def run(*words: str | Path) -> None:
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture
def with_health() -> Callable[[list[Record]], list[Record]]:
    """Add health to the traffic of a window, as the source `ebpf` does."""

    def add(window: list[Record]) -> list[Record]:
        for record in window:
            if record["type"] == "traffic":
                record["network"]["tcp"] = {
                    "retransmits": 1,
                    "rtt": {"samples": 2, "sum_us": 300, "min_us": 100},
                    "connections": {
                        "opened": 1, "accepted": 1, "closed": 1, "refused": 1,
                        "opening_us": 10, "lifetime_us": 90,
                    },
                }  # fmt: skip
        return window

    return add
