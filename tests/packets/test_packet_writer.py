"""Where the file of packets stalls or breaks, the capture ends, and counts are complete."""

import asyncio
import os
import threading
from collections.abc import Sequence

import pytest
from support.sinks import until

from hogpipe.packets import packet_writer
from hogpipe.packets.packet_buffer import Packet, PacketBuffer
from hogpipe.packets.packet_counts import PacketCounts
from hogpipe.packets.packet_file import FileOptions, PacketFile
from hogpipe.packets.packet_owners import PacketOwners
from hogpipe.packets.packet_writer import PacketWriter

SIZE = Packet(0, 0, bytes(100), 100).size


class StalledFile(PacketFile):
    """A file that takes no packets until `resumes` is set; then it raises `error`, if any."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(FileOptions(path=None), [])
        self.resumes = threading.Event()
        self.is_writing = threading.Event()
        self._error = error

    def open(self) -> None:
        pass

    def write(self, packets: Sequence[Packet], _counts: Sequence[PacketCounts]) -> None:
        self.is_writing.set()
        self.resumes.wait()
        if self._error is not None:
            raise self._error
        self.written += len(packets)

    def close(self, counts: Sequence[PacketCounts]) -> None:
        pass


class Capture:
    """A writer of what a test captures."""

    def __init__(self, file: PacketFile) -> None:
        self.buffer = PacketBuffer(4 * SIZE, 10.0, selects_unowned=True)
        self.buffer.add_interface()
        self.owners = PacketOwners(self.buffer, [], waits=False)
        self.has_ended = asyncio.Event()
        self.writer = PacketWriter(self.owners, file, "out", self.has_ended.set)

    def add(self, count: int) -> None:
        self.buffer.add([Packet(0, 0, bytes(100), 100) for _ in range(count)], 0.0)
        self.writer.wake()


async def test_a_stopped_capture_counts_all_packets_that_its_reader_did_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packet_writer, "_DRAIN_SECONDS", 0.01)
    file = StalledFile()
    capture = Capture(file)
    capture.writer.start()
    capture.add(3)
    await until(file.is_writing.is_set)
    capture.add(4)
    capture.writer.stop()
    await capture.writer.finish()
    file.resumes.set()
    [counts] = capture.owners.list_counts()
    assert counts == PacketCounts(captured=7, matched=4, dropped=3, without_owner=7)
    assert "did not take all packets" in str(capture.writer.failure)


class PipedFile(PacketFile):
    """A file whose output is a pipe."""

    def __init__(self) -> None:
        super().__init__(FileOptions(path=None), [])
        self.reader, self._descriptor = os.pipe()

    def open(self) -> None:
        pass


async def test_a_capture_ends_with_its_reader_also_while_nothing_is_written() -> None:
    file = PipedFile()
    capture = Capture(file)
    capture.writer.start()
    capture.add(1)
    await until(lambda: file.written == 1)
    os.close(file.reader)
    await until(capture.has_ended.is_set)
    await capture.writer.finish()
    assert capture.writer.failure is None


async def test_a_bug_of_the_file_ends_the_capture_and_is_raised() -> None:
    file = StalledFile(ValueError("a bug"))
    file.resumes.set()
    capture = Capture(file)
    capture.writer.start()
    capture.add(1)
    await until(capture.has_ended.is_set)
    with pytest.raises(ValueError, match="a bug"):
        await capture.writer.finish()
