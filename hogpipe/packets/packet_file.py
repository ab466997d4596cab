"""The pcapng file that packets are written to, or the standard output.

In: packets, the interfaces that they come from, their counts. Out: whole blocks, each written at
once, so that what is on the disk can be read whatever ends the program. Methods block, and raise
OSError; one thread at a time may call them.

A file begins with a section, has each interface before its first packet, and ends with the
statistics of all interfaces since the start of the capture. The first file replaces what is at its
path. A full file gets the name of a closed one (sinks/jsonl/rotation.py). After `reopen`, and after
a rotation, what is at the path by then is appended to: a file may have several sections.

Of a write that fails whole blocks stay, and the rest is cut off.
"""

import os
import select
import stat
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import msgspec

from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.formats.pcapng_encoder import (
    InterfaceCounts,
    encode_interface,
    encode_packet,
    encode_section,
    encode_statistics,
)
from hogpipe.capture.frame_tap import TappedInterface
from hogpipe.packets.annotation import Annotator
from hogpipe.packets.packet_buffer import Packet
from hogpipe.packets.packet_counts import PacketCounts
from hogpipe.protocols import NANOSECONDS
from hogpipe.sinks.jsonl.closed_files import ClosedFilePolicy, ClosedFileWorker, list_closed
from hogpipe.sinks.jsonl.line_file import open_locked
from hogpipe.sinks.jsonl.rotation import (
    MILLISECOND,
    RotationRule,
    choose_closing,
    format_closed,
)
from hogpipe.version import __version__

_MODE = 0o600  # packets have the content of connections
_WRITE_BYTES = 1 << 20
_CLOSING_SECONDS = 0.2
_RAW = {LinkType.RAW, LinkType.RAW_OPENBSD}  # numbers of libpcap, which files do not have


class FileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is written beside packets, and when a file is full."""

    path: Path | None
    """None is the standard output."""
    snaplen: int = 0
    """Of all interfaces; 0 where frames are not cut, or where that is not known."""
    filter: str = ""
    rotation: RotationRule = RotationRule()
    keep: int | None = None
    """How many closed files are kept; all if None."""


class PacketFile:
    """Packets of `interfaces`, which grows, in a file."""

    def __init__(self, options: FileOptions, interfaces: Sequence[TappedInterface]) -> None:
        self._options = options
        self._interfaces = interfaces
        self._annotator = Annotator()
        self._descriptor = -1
        self._size = 0
        self._described = 0
        """How many interfaces the section has."""
        self._has_packets = False
        """Whether a file that is rotated has a packet."""
        self.written = 0
        """How many packets are written."""
        self._fitting = 0
        self._period: int | None = None
        self._began_ns = time.time_ns()
        self._closed_files: ClosedFileWorker | None = None

    @property
    def pipe(self) -> int | None:
        """The descriptor of the open output, if it is a pipe."""
        is_open = self._descriptor >= 0
        return self._descriptor if is_open and _is_pipe(self._descriptor) else None

    def open(self) -> None:
        """Open the file, empty it, and begin it."""
        path = self._options.path
        if path is None:
            self._descriptor = os.dup(1)
        else:
            self._descriptor = open_locked(path, _MODE)
            os.ftruncate(self._descriptor, 0)
            if self._options.keep is not None:
                self._closed_files = ClosedFileWorker(path, ClosedFilePolicy(self._options.keep))
        self._begin()

    def write(self, packets: Sequence[Packet], counts: Sequence[PacketCounts]) -> None:
        """Write packets; `counts` are for a file that gets full."""
        rotation, rotates = self._options.rotation, self._options.rotation != RotationRule()
        blocks: list[bytes] = []
        size = 0
        for packet in packets:
            if size >= _WRITE_BYTES:
                self._write_packets(blocks)
                blocks, size = [], 0
            if rotates:
                start = datetime.fromtimestamp(packet.time_ns / NANOSECONDS, UTC)
                used = self._size + size
                if self._has_packets and rotation.is_full(used, self._period, start):
                    self._write_packets(blocks)
                    blocks, size = [], 0
                    self._rotate(start, counts)
                if not self._has_packets:
                    self._has_packets = True
                    self._period = rotation.find_period(start)
            blocks.append(self._describe_interfaces() + self._encode(packet))
            size += len(blocks[-1])
        self._write_packets(blocks)

    def reopen(self, counts: Sequence[PacketCounts]) -> None:
        """End the file if it is no longer at its path, and begin another one there."""
        path = self._options.path
        if path is not None and not _is_at(path, self._descriptor):
            self._end(counts)
            self._open_next(path)

    def close(self, counts: Sequence[PacketCounts]) -> None:
        """End the file."""
        if self._descriptor < 0:
            return
        try:
            self._end(counts)
        finally:
            if self._closed_files is not None:
                self._closed_files.close(_CLOSING_SECONDS)

    def _begin(self) -> None:
        system = os.uname()
        self._described, self._has_packets = 0, False
        section = encode_section(f"hogpipe {__version__}", f"{system.sysname} {system.release}")
        self._write([section, self._describe_interfaces()])

    def _end(self, counts: Sequence[PacketCounts]) -> None:
        """Write the statistics of all interfaces, and close the file."""
        now = time.time_ns()
        blocks = [self._describe_interfaces()]
        for number, one in enumerate(counts):
            sums = InterfaceCounts(
                self._began_ns,
                now,
                one.captured,
                one.written,
                one.interface_dropped,
                one.kernel_dropped,
                one.describe(),
            )
            blocks.append(encode_statistics(number, sums))
        descriptor = self._descriptor
        try:
            self._write(blocks)
        finally:
            self._descriptor = -1
            os.close(descriptor)

    def _rotate(self, start: datetime, counts: Sequence[PacketCounts]) -> None:
        path = self._options.path
        assert path is not None
        if _is_at(path, self._descriptor):
            closed = choose_closing(start, list_closed(path))
            while os.path.lexists(target := path.with_name(format_closed(path.name, closed))):
                closed += MILLISECOND
            path.rename(target)
        self._end(counts)
        self._open_next(path)
        if self._closed_files is not None:
            self._closed_files.request()

    def _open_next(self, path: Path) -> None:
        self._descriptor = open_locked(path, _MODE)
        self._begin()

    def _encode(self, packet: Packet) -> bytes:
        return encode_packet(
            packet.interface,
            packet.time_ns,
            packet.frame,
            packet.original_length,
            self._annotator.annotate(packet),
        )

    def _write_packets(self, packets: Sequence[bytes]) -> None:
        try:
            self._write(packets)
        except OSError:
            self.written += self._fitting
            raise
        self.written += len(packets)

    def _describe_interfaces(self) -> bytes:
        """Return the blocks of interfaces that the section does not have."""
        if self._described == len(self._interfaces):
            return b""
        new = self._interfaces[self._described :]
        self._described += len(new)
        return b"".join(
            encode_interface(
                LinkType.RAW_FILE if one.link_type in _RAW else one.link_type,
                self._options.snaplen,
                one.name,
                self._options.filter,
            )
            for one in new
        )

    def _write(self, blocks: Sequence[bytes]) -> None:
        """Write blocks; after an error a file has those that fit whole, `_fitting` many."""
        data = b"".join(blocks)
        is_file = self._options.path is not None
        before = os.fstat(self._descriptor).st_size if is_file else 0
        try:
            _write_all(self._descriptor, data)
        except OSError:
            room = os.fstat(self._descriptor).st_size - before if is_file else 0
            ends = [end for end in accumulate(map(len, blocks)) if end <= room]
            self._fitting = len(ends)
            if is_file:
                os.ftruncate(self._descriptor, before + max(ends, default=0))
            raise
        self._size = before + len(data)


def is_without_reader(pipe: int) -> bool:
    """Return whether the other end of a pipe is closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # POLLERR is always reported
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # a pipe that whoever made it does not want to block
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a file is still at its path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
