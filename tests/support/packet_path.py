"""Runs a pipeline on `lo` and prints to stderr, as JSON, the modules that a known flow enters.

    python packet_path.py CONFIG

Records go to stdout, which is a file. Bursts of one flow are sent, each after the last one is
recorded. Functions are traced during the last burst, when the owner of the flow is known, until its
records have been written.
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
KNOWN_BURSTS = 2  # that have their owner before functions are traced
PACKETS = 40  # in a burst: enough for the vectorised decoders
PAUSE = 0.05  # seconds between two looks at the records
PATIENCE = 30.0  # seconds for the records of all bursts


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


def count_transmitted(*, owned: bool) -> int:
    """Return the packets in the records written so far, or only in those with a process."""
    lines = Path("/proc/self/fd/1").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return sum(
        record["network"]["io"]["transmit"]["packets"]
        for record in records
        if record["type"] == "traffic" and ("process" in record or not owned)
    )


async def send_burst(sender: socket.socket) -> bool:
    """Send a burst, and wait until it is recorded; return whether it has its owner."""
    recorded, known = count_transmitted(owned=False), count_transmitted(owned=True)
    for _ in range(PACKETS):
        sender.send(b"x")
    while count_transmitted(owned=False) < recorded + PACKETS:  # noqa: ASYNC110 - it reads a file
        await asyncio.sleep(PAUSE)
    return count_transmitted(owned=True) == known + PACKETS


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
        async with asyncio.timeout(PATIENCE):
            known = 0
            while known < KNOWN_BURSTS:  # a busy host may look up the first one too late
                known += await send_burst(sender)
            trace.enabled = True
            assert await send_burst(sender), "the owner of the flow was not known"
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
