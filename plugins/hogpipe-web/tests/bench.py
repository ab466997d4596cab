"""What the page costs: CPU and memory of the sink, and the first paint in Chromium.

    python plugins/hogpipe-web/tests/bench.py [SECONDS] [--growth]

A process has the sink, which gets a window of 1,000 groups each second, as from a run; the CPU time
that making these windows takes is not counted. Three readers have the page open, each by process,
which is the longest table. With `--growth` windows come as fast as they are taken, an hour of them
in some minutes, and the memory is printed for each ten minutes of windows.
"""

import argparse
import asyncio
import http.client
import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hogpipe_web import hogpipe_sinks
from made_up_host import MadeUpHost, process, stats, traffic
from playwright.sync_api import sync_playwright

from hogpipe.testing import free_ports, make_sink

GROUPS = 1000
READERS = 3
WARM_WINDOWS = 600
(SINK_TYPE,) = hogpipe_sinks()


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def make_window(host: MadeUpHost, start: float, churn: random.Random) -> Any:
    """Return a window of `GROUPS` groups, a tenth of which are new processes."""
    bodies = []
    for number in range(GROUPS):
        pid = churn.randrange(1 << 22) if number % 10 == 0 else number
        network = {"peer": {"address": f"192.0.2.{number % 200}"}}
        body = {**process(f"program-{number % 50}", pid), "network": network}
        bodies.append(traffic(body, churn.randrange(100_000), churn.randrange(900_000), "exact"))
    return host.stamped([*bodies, stats()], start)


async def serve(port: int, seconds: float, *, growth: bool) -> None:
    """Run the sink; print a line of JSON with the result."""
    sink = make_sink(SINK_TYPE, {"listen": f"127.0.0.1:{port}"})
    await sink.open()
    host, churn = MadeUpHost(), random.Random(1)
    now = time.time() - WARM_WINDOWS
    for _ in range(WARM_WINDOWS):
        await sink.write(make_window(host, now, churn))
        now += 1
    print("ready", flush=True)
    if growth:
        for window in range(3601):
            await sink.write(make_window(host, now, churn))
            now += 1
            if window % 600 == 0:
                print(f"{window // 60} min: {resident_mib():.0f} MiB", flush=True)
        await sink.close()
        return
    loop = asyncio.get_running_loop()
    await asyncio.sleep(5)  # the readers connect
    began, made = time.process_time(), 0.0
    end = loop.time() + seconds
    windows = 0
    while loop.time() < end:
        due = loop.time() + 1
        before = time.process_time()
        window = make_window(host, now, churn)
        made += time.process_time() - before
        await sink.write(window)
        now += 1
        windows += 1
        await asyncio.sleep(max(0.0, due - loop.time()))
    spent = time.process_time() - began - made
    print(json.dumps({"cpu": spent / windows, "windows": windows, "mib": resident_mib()}))
    await sink.close()


def read_events(port: int) -> int:
    """Read the events of one reader until the sink closes; return their bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/api/events?by=process")
    answer, size = connection.getresponse(), 0
    try:
        while part := answer.read1(1 << 16):
            size += len(part)
    except (OSError, http.client.HTTPException):
        pass  # the sink closed
    return size


def paint(port: int) -> dict[str, float]:
    """Return when a page was painted first, and drawn with its data, in ms after it was opened."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/#by=process")
        page.wait_for_function("performance.getEntriesByName('hogpipe-drawn').length")
        found: dict[str, float] = page.evaluate(
            """() => Object.fromEntries(["first-contentful-paint", "hogpipe-drawn"]
                .map((name) => [name, performance.getEntriesByName(name)[0].startTime]))"""
        )
        browser.close()
    return found


def main() -> None:
    """Measure, and print."""
    arguments = argparse.ArgumentParser(description="what the page costs")
    arguments.add_argument("seconds", type=float, nargs="?", default=60.0)
    arguments.add_argument("--growth", action="store_true")
    arguments.add_argument("--serve", type=int)
    given = arguments.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.seconds, growth=given.growth))
        return
    port = free_ports(1)[0]
    command = [sys.executable, __file__, str(given.seconds), "--serve", str(port)]
    command += ["--growth"] if given.growth else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for _ in range(READERS):
            threading.Thread(target=read_events, args=(port,), daemon=True).start()
        if not given.growth:
            for name, milliseconds in paint(port).items():
                print(f"{name}: {milliseconds:.0f} ms")
        for line in server.stdout:
            print(line, end="")


if __name__ == "__main__":
    main()
