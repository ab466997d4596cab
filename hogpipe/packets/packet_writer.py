"""Writes the packets that an owner was found for, in a thread of its own.

In: what `PacketOwners` releases. Out: a file. A task writes from `start` on; `finish` writes what
is left once the pipeline has ended.

What may fail
    A write that fails ends the capture, after which nothing is written: `failure` says why. A
    reader of the standard output that has gone is no failure. What a stopped capture cannot write
    within `_DRAIN_SECONDS` is lost, and counted. An exception of another kind is a bug: it ends the
    capture, and `finish` raises it.
"""

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from hogpipe.errors import CaptureError
from hogpipe.packets.packet_buffer import Packet
from hogpipe.packets.packet_file import PacketFile, is_without_reader
from hogpipe.packets.packet_owners import PacketOwners
from hogpipe.text import printable
from hogpipe.threads import SerialExecutor

_DRAIN_SECONDS = 1.0  # after a stop
_CHECK_SECONDS = 0.25  # how often packets that wait are compared with their limit


class PacketWriter:
    """Writes to `file`; `on_end` is called if nothing more can be written."""

    def __init__(
        self, owners: PacketOwners, file: PacketFile, name: str, on_end: Callable[[], None]
    ) -> None:
        self.failure: CaptureError | None = None
        """Why packets could not be written."""
        self._owners = owners
        self._file = file
        self._name = printable(name)
        self._on_end = on_end
        self._thread = SerialExecutor("packets")
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._reopens = False
        self._is_last = False
        """Whether the pipeline has ended."""
        self._has_failed = False
        self._writing: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Take in that there may be packets; in the event loop."""
        self._wake.set()

    def reopen(self) -> None:
        """Have the file reopened, which may have been renamed."""
        self._reopens = True
        self._wake.set()

    def stop(self) -> None:
        """Let `finish` take no longer than a stop may."""
        self._stop.set()

    def start(self) -> None:
        """Open the file, and write packets as they are released."""
        self._writing = asyncio.create_task(self._run())
        self._writing.add_done_callback(self._end_capture)

    async def finish(self) -> None:
        """Write what is left, and close the file; the pipeline has ended.

        Afterwards each captured packet is counted as matched, not matched or dropped.
        """
        assert self._writing is not None
        self._is_last = True
        self._wake.set()
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([self._writing, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _done, late = await asyncio.wait([self._writing], timeout=_DRAIN_SECONDS)
        if late:
            self._writing.cancel()
            text = f"{self._name}: its reader did not take all packets in time; the rest is lost"
            self._fail(CaptureError(text))
            self._owners.written(self._owners.release_all(), is_lost=True)
        self._thread.shutdown(wait=False)
        if not late:
            self._writing.result()

    def _end_capture(self, _writing: asyncio.Task[None]) -> None:
        """Let the pipeline end if the task did before it."""
        if not self._is_last:
            self._owners.abandon()
            self._on_end()

    async def _run(self) -> None:
        await self._try(self._file.open)
        with self._watching_reader():
            await self._write_released()
        await self._write(self._owners.release_all())
        await self._try(partial(self._file.close, self._owners.list_counts()))

    @contextmanager
    def _watching_reader(self) -> Iterator[None]:
        """End the capture if the reader of a pipe ends, also while there is nothing to write."""
        pipe = self._file.pipe
        if pipe is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def end_without_reader() -> None:
            loop.remove_reader(pipe)
            if is_without_reader(pipe):
                self._fail(None)

        # For reading, nothing but the end of the reader makes the writing end of a pipe ready.
        loop.add_reader(pipe, end_without_reader)
        try:
            yield
        finally:
            loop.remove_reader(pipe)

    async def _write_released(self) -> None:
        """Write packets as they are released, until the pipeline has ended."""
        while not self._is_last:
            self._wake.clear()
            if self._reopens:
                self._reopens = False
                await self._try(partial(self._file.reopen, self._owners.list_counts()))
            if packets := self._owners.release():
                await self._write(packets)
                continue
            timeout = _CHECK_SECONDS if self._owners.has_waiting else None
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:  # a packet may have waited for too long
                continue

    async def _write(self, packets: Sequence[Packet]) -> None:
        before = self._file.written
        await self._try(partial(self._file.write, packets, self._owners.list_counts()))
        written = self._file.written - before
        self._owners.written(packets[:written])
        self._owners.written(packets[written:], is_lost=True)

    async def _try(self, call: Callable[[], None]) -> None:
        """Make a call in the thread, unless nothing can be written any more."""
        if self._has_failed:
            return
        try:
            await self._call(call)
        except OSError as error:
            what, count = error.strerror or error, self._file.written
            text = f"{self._name}: {what}; {count} packets were written"
            self._fail(None if error.errno == errno.EPIPE else CaptureError(text))

    def _fail(self, failure: CaptureError | None) -> None:
        self._has_failed = True
        self.failure = failure
        self._owners.abandon()
        self._on_end()

    async def _call(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)
