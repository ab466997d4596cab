"""A sink that misbehaves on request: by the names of the files in its own folder.

block-write, block-task   stall the event loop, in a write or in a task, while the file is there
exit-task, exit-callback  raise SystemExit on the event loop, once, and remove the file
fail                      fail in each write, in one way after the other
end-NAME                  end the thread NAME, and remove the file
"""

import asyncio
import ctypes
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hogpipe import DeliveryError, Record, SinkSettings, SinkType, hookimpl

HERE = Path(__file__).parent
ERRORS = (DeliveryError("later"), OSError("odd"), RuntimeError("bug"), SystemExit(3))


def block(request: Path) -> None:
    while request.exists():
        time.sleep(0.01)


async def leave() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


def end_thread(name: str) -> None:
    """Raise SystemExit in a thread."""
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for one in threading.enumerate():
        if one.name == name and one.ident is not None:
            set_exception(ctypes.c_ulong(one.ident), ctypes.py_object(SystemExit))


class Odd:
    """Takes all records, unless it is requested to misbehave."""

    def __init__(self, _settings: SinkSettings) -> None:
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def write(self, records: Sequence[Record]) -> None:
        """Do what is requested."""
        block(HERE / "block-write")
        if (HERE / "block-task").exists() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._block_later())
        for request in HERE.glob("exit-*"):
            request.unlink()
            if request.name == "exit-task":
                self._task = asyncio.create_task(leave())
            else:
                asyncio.get_running_loop().call_soon(sys.exit, 3)
        for request in HERE.glob("end-*"):
            request.unlink()
            end_thread(request.name.removeprefix("end-"))
        if (HERE / "fail").exists():
            raise ERRORS[records[0]["sequence"] % len(ERRORS)]

    async def close(self) -> None:
        """Do nothing."""

    async def _block_later(self) -> None:
        await asyncio.sleep(0)
        block(HERE / "block-task")


@hookimpl
def hogpipe_sinks() -> list[SinkType]:
    """Register the sink."""
    return [SinkType("odd", SinkSettings, Odd)]
