"""Runs a pipeline on `lo` and prints to stderr, as JSON, the modules that a known flow enters.

    python packet_path.py CONFIG

Records go to stdout. Bursts of one flow are sent; functions are traced during the last burst, when
the owner of the flow is known, until its record has been written.
"""

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

import hogpipe
from hogpipe.config import load_config
from hogpipe.pipeline import Pipeline

PACKAGE = Path(hogpipe.__file__).parent
BURSTS = 4
PACKETS = 40  # in a burst: enough for the vectorised decoders
BURST_SECONDS = 1.2  # two windows of half a second, and the time to write them


class Trace:
    """The modules of the package in which a function was called while `enabled`."""

    def __init__(self) -> None:
        self.enabled = False
        self.modules: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.enabled and event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                self.modules.add(str(path.relative_to(PACKAGE)))


async def run(config: Path, trace: Trace) -> None:
    pipeline = Pipeline(load_config(config))
    await pipeline.open()
    running = asyncio.create_task(pipeline.run())
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        for number in range(BURSTS):
            trace.enabled = number == BURSTS - 1
            for _ in range(PACKETS):
                sender.send(b"x")
            await asyncio.sleep(BURST_SECONDS)
        trace.enabled = False
        pipeline.stop()
        await running


def main() -> None:
    trace = Trace()
    threading.setprofile(trace)  # for the threads of the pipeline
    sys.setprofile(trace)
    asyncio.run(run(Path(sys.argv[1]), trace))
    sys.setprofile(None)
    json.dump(sorted(trace.modules), sys.stderr)


if __name__ == "__main__":
    main()
