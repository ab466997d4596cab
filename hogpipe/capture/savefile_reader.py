"""A capture file, read in chunks: the frames that a filter matches.

In: the path, a BPF expression. Out: `ParsedFrames` for each chunk. `formats` parses the bytes,
libpcap compiles the filter, once for each link type in the file.

What may fail
    `open` raises ConfigurationError where the file is no capture file, cannot be read, or where the
    filter is invalid. A defect further on, or a link type for which the filter is invalid, ends the
    reading: `failure` says why. Frames of link types that cannot be decoded pass any filter.

An empty file is an empty capture: what wrote it was stopped before the first frame.
"""

from collections.abc import Iterable, Iterator
from os import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hogpipe.capture.decode.link_type_names import is_decodable
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.formats.filter_program import FilterProgram
from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.savefile_parser import (
    MalformedFileError,
    ParsedFrames,
    SavefileInterface,
    SavefileParser,
    no_frames,
)
from hogpipe.capture.pcap import compile_filter
from hogpipe.errors import CaptureError, ConfigurationError
from hogpipe.text import printable

_CHUNK_FRAMES = 32_768
"""How many frames a chunk should have, so that what is done once for a chunk costs little."""
_MIN_CHUNK_BYTES, _MAX_CHUNK_BYTES = 1 << 20, 1 << 24


class SavefileReader:
    """Reads one file, once; `open`, then `read_chunks`, then `close`."""

    def __init__(self, path: Path, expression: str) -> None:
        self.failure: str | None = None
        """Why the rest of the file could not be read, once `read_chunks` has ended."""
        self._path = path
        self._name = printable(str(path))
        self._expression = expression
        self._file: BinaryIO | None = None
        self._parser: SavefileParser | None = None
        self._chunk_bytes = _MIN_CHUNK_BYTES
        self._rest = b""
        """Bytes that have been read and not parsed."""
        self._first = no_frames()
        """What `open` parsed."""
        self._filters: dict[int, FilterProgram] = {}
        """By link type."""

    @property
    def interfaces(self) -> list[SavefileInterface]:
        """The interfaces known so far, which frames name by their index."""
        return [] if self._parser is None else self._parser.interfaces

    @property
    def skipped_blocks(self) -> dict[int, int]:
        """How many blocks of each unknown type were skipped."""
        return {} if self._parser is None else self._parser.skipped_blocks

    def open(self) -> None:
        """Open the file and check its first bytes and the filter; raises ConfigurationError."""
        try:
            self._file = self._path.open("rb")
            head = self._file.read(self._chunk_bytes)
        except OSError as error:
            self.close()
            raise ConfigurationError(f"capture.path: {self._name}: {error.strerror}") from error
        if not head:
            return
        try:
            self._parser = make_parser(head)
            self._first = self._parse(self._parser, head)
            known = self._parser.interfaces or [SavefileInterface(LinkType.ETHERNET)]
            self._compile_filters(known, self._name)
        except MalformedFileError as error:
            self.close()
            raise ConfigurationError(
                f"capture.path: {self._name}: not a capture file: {error}"
            ) from error
        except ConfigurationError:
            self.close()
            raise

    def read_chunks(self) -> Iterator[ParsedFrames]:
        """Yield the frames of each chunk of the file; raises CaptureError if reading fails."""
        if self._parser is None or self._file is None:
            return
        yield self._select(self._first)
        self._first = no_frames()
        while self._parser.failure is None and (data := self._read_on(self._file)):
            parsed = self._parse(self._parser, data)
            try:
                self._compile_filters(self._parser.interfaces, None)
            except ConfigurationError as error:
                self.failure = str(error)
                return
            yield self._select(parsed)
        self.failure = self._parser.failure
        if self.failure is None and self._rest:
            self.failure = f"truncated: its last record has only {len(self._rest):,} bytes"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_on(self, file: BinaryIO) -> bytes:
        """Return what is not parsed yet and the next chunk; nothing at the end of the file."""
        before = len(self._rest)
        try:
            if file.seekable():  # reading some bytes again is cheaper than copying all
                file.seek(-before, SEEK_CUR)
                data = file.read(before + self._chunk_bytes)
            else:
                data = self._rest + file.read(self._chunk_bytes)
        except OSError as error:
            raise CaptureError(f"{self._name}: {error.strerror}") from error
        return data if len(data) > before else b""

    def _parse(self, parser: SavefileParser, data: bytes) -> ParsedFrames:
        parsed = parser.parse(data)
        self._rest = data[parsed.used :]
        if count := len(parsed.interface):
            wanted = parsed.used * _CHUNK_FRAMES // count
            self._chunk_bytes = min(max(wanted, _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES)
        return parsed

    def _compile_filters(self, interfaces: Iterable[SavefileInterface], where: str | None) -> None:
        """Compile the filter for the link types that are new; raises ConfigurationError.

        The error says that the filter is for `where`; for the link type, if None.
        """
        if not self._expression:
            return
        for link_type in {interface.link_type for interface in interfaces} - self._filters.keys():
            if is_decodable(link_type):
                self._filters[link_type] = FilterProgram(
                    compile_filter(self._expression, link_type, where or f"link type {link_type}")
                )

    def _select(self, parsed: ParsedFrames) -> ParsedFrames:
        """Return the frames that match the filter."""
        if not self._filters or not len(parsed.interface):
            return parsed
        matched = np.ones(len(parsed.interface), np.bool_)
        indices = parsed.list_interfaces()
        for index in indices:
            link_type = self.interfaces[index].link_type
            if link_type in self._filters:
                rows = parsed.interface == index
                frames = parsed.frames if len(indices) == 1 else parsed.frames.take(rows)
                matched[rows] = self._filters[link_type].matches(frames)
        interface = parsed.interface.take(matched.nonzero()[0])
        return ParsedFrames(parsed.frames.take(matched), interface, parsed.used)
