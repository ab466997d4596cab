#!/usr/bin/env python3
"""Records a second on one core, by preset: the CPU time of the process that sends.

    .venv/plugins/bin/python plugins/hogpipe-http/tests/benchmark.py [--records 200000]

A receiver in another process reads each request and answers with success, as the store of the
preset does. Windows of 10,000 records, as `RecordMaker` makes them, are made before the clock
starts. What is measured is all that a run spends on this sink: JSON, compression, HTTP, answers.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from aiohttp import web
from hogpipe_http import HttpSettings, HttpSink, hogpipe_sinks

from hogpipe import Record
from hogpipe.testing import RecordMaker, opened, read_settings

(SINK_TYPE,) = hogpipe_sinks()
PRESETS = ("ndjson", "elasticsearch", "loki", "splunk", "clickhouse")
WINDOW = 10_000
TARGET = 50_000


class Receiver:
    """Answers with success, and counts what it reads."""

    def __init__(self, preset: str, records: int) -> None:
        self._preset = preset
        items = [{"create": {"status": 201}}] * records
        self._bulk = json.dumps({"errors": False, "items": items}).encode()
        self._requests = 0
        self.read = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.read += len(body)
        self._requests += 1
        match self._preset:
            case "elasticsearch":
                # The first request has no records.
                full = self._bulk if self._requests > 1 else b'{"errors":false,"items":[]}'
                return web.Response(body=full, content_type="application/json")
            case "splunk":
                return web.json_response({"text": "Success", "code": 0})
            case "clickhouse":
                return web.Response(headers={"X-ClickHouse-Summary": "{}"})
            case _:
                return web.Response(status=204)


def receive(preset: str, records: int, pipe: Connection) -> None:
    """Serve until the other end of the pipe asks for the number of bytes."""

    async def serve() -> None:
        receiver = Receiver(preset, records)
        application = web.Application(client_max_size=1 << 30)
        application.router.add_post("/{path:.*}", receiver.handle)
        runner = web.AppRunner(application, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.to_thread(pipe.recv)
        pipe.send(receiver.read)
        await runner.cleanup()

    asyncio.run(serve())


async def send(sink: HttpSink, windows: Sequence[Sequence[Record]]) -> tuple[float, float]:
    """Return the seconds of CPU and of the clock for `windows`."""
    async with opened(sink):
        cpu, clock = time.process_time(), time.perf_counter()
        for window in windows:
            await sink.write(window)
        return time.process_time() - cpu, time.perf_counter() - clock


def measure(preset: str, compression: str, windows: Sequence[Sequence[Record]]) -> float:
    """Print a row; return the records a second of CPU."""
    here, there = multiprocessing.Pipe()
    keys = {"preset": preset, "compression": compression}
    batch = read_settings(SINK_TYPE, {"url": "http://x/", **keys})
    assert isinstance(batch, HttpSettings)
    process = multiprocessing.Process(target=receive, args=(preset, batch.max_records, there))
    process.start()
    try:
        settings = read_settings(SINK_TYPE, {"url": f"http://127.0.0.1:{here.recv()}/", **keys})
        assert isinstance(settings, HttpSettings)
        cpu, clock = asyncio.run(send(HttpSink(settings), windows))
        here.send(None)
        size = here.recv()
    finally:
        process.terminate()
        process.join()
    records = sum(map(len, windows))
    row = f"{records / cpu:12,.0f} {records / clock:12,.0f} {cpu / records * 1e6:8.2f}"
    print(f"{preset:14} {compression:6} {row} {size / records:8.1f}", flush=True)
    return records / cpu


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--compression", nargs="*", default=["gzip"])
    options = parser.parse_args()
    maker = RecordMaker()
    windows = [maker.window(WINDOW) for _ in range(max(1, options.records // WINDOW))]
    head = f"{'records/s CPU':>12} {'records/s':>11} {'us CPU':>8} {'bytes':>8}"
    print(f"{'preset':14} {'':5} {head}")
    slowest = min(
        measure(preset, compression, windows)
        for preset in PRESETS
        for compression in options.compression
    )
    print(f"slowest: {slowest:,.0f} records/s of CPU, wanted {TARGET:,}")


if __name__ == "__main__":
    main()
