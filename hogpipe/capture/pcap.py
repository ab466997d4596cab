"""The one module that calls libpcap (through pcapy-ng): handles, frame batches, and their errors.

In: an interface, a BPF filter. Out: `FrameBatch`. libpcap's errors and status codes
become NotPermittedError, ConfigurationError or CaptureError.

Two ways to read
    `next_batch` is fast and gives no original lengths. `dispatch` with a callback costs some ten
    times more a packet and gives original lengths. A filter makes the fast way safe
    (`length_filter.py`): a frame whose IP header claims more than the frame has is cut below the
    snaplen.

Constraints
    libpcap's breakloop and immediate mode are not available in pcapy-ng. A blocking read of an idle
    interface may never return, so live handles never block, and their reader polls.

The ring
    The kernel passes a ring block to user space when it is full or when the read timeout expires. A
    block retired by the timeout is unavailable until it has been read, however little it holds.
    Blocks have 256 KiB, so a ring of 16 MiB lasts for 64 timeouts. A smaller ring gets a longer
    timeout, so that it lasts while the reader is busy elsewhere.
"""

import logging
import math
import sys
import time
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pcapy

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.link_type_names import (
    describe_link_type,
    is_decodable,
    suggest_capture,
)
from hogpipe.capture.decode.scalar_link import LinkType
from hogpipe.capture.formats.filter_program import Instruction
from hogpipe.capture.length_filter import add_length_check
from hogpipe.errors import CaptureError, ConfigurationError, NotPermittedError
from hogpipe.linux.socket_filter import attach_filter, read_filter

log = logging.getLogger(__name__)

BATCH_FRAMES = 8192
_BLOCKS_PER_MIB = 4
_MIN_TIMEOUT_MS = 5
_MIN_RING_MS = 160
# Frames of 64 kB are read at up to 8 GB/s, and the ring fills while it is emptied: without a bound
# in bytes one read takes half a gigabyte.
_EXACT_FRAMES, _MAX_EXACT_BYTES = 512, 1 << 24
# A frame is also cut at the end of its ring block, which only a longer one reaches.
_MAX_UNCUT_BYTES = 1 << 16
_UINT32 = 0xFFFFFFFF
# Results of pcap_activate (pcap/pcap.h), which pcapy-ng returns unchanged.
_NO_SUCH_DEVICE, _PERMISSION_DENIED, _NOT_UP, _PROMISC_DENIED = -5, -8, -9, -11

# Numbers of DLT_RAW on other systems and in files, which libpcap does not compile filters for.
_LIBPCAP_LINK_TYPES: dict[int, int] = {
    LinkType.RAW_OPENBSD: LinkType.RAW,
    LinkType.RAW_FILE: LinkType.RAW,
}
_MAX_SNAPLEN = 262_144

# A filter is compiled for these before a run, when the link types of the run are not known.
_USUAL_LINK_TYPES = (pcapy.DLT_EN10MB, pcapy.DLT_RAW, pcapy.DLT_LINUX_SLL)


class _Header(Protocol):
    """pcapy-ng's packet header."""

    def getts(self) -> tuple[int, int]: ...
    def getcaplen(self) -> int: ...
    def getlen(self) -> int: ...


class _Reader(Protocol):
    """The used part of pcapy-ng's handle, which has no type information of its own."""

    def datalink(self) -> int: ...
    def getfd(self) -> int: ...
    def next_batch(self, most: int) -> tuple[bytes, bytes]: ...
    def dispatch(self, most: int, callback: object) -> int: ...
    def setfilter(self, expression: str) -> None: ...
    def stats(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...


class Handle:
    """An open capture handle; used and closed by one thread only."""

    def __init__(
        self,
        reader: _Reader,
        name: str,
        *,
        timeout: float = 0.0,
        snaplen: int = 0,
        ring_bytes: int = 0,
    ) -> None:
        self._reader = reader
        self._name = name
        self.timeout = timeout
        """Seconds after which a captured frame can be read at the latest."""
        self.snaplen = snaplen
        """As for `Decoder`: the number of captured bytes from which on a frame may be cut."""
        self.ring_bytes = ring_bytes
        """The size of the ring."""
        self._proven_from = 0.0
        """When frames that no filter compared with their lengths have left the ring, at the latest,
        if the ring is empty then; 0 once it was, infinite without such a filter."""
        self._drops = (0, 0)
        self.link_type = reader.datalink()

    def fileno(self) -> int:
        """Return the descriptor to poll for frames."""
        return self._reader.getfd()

    def apply_filter(self, expression: str) -> Self:
        """Capture only frames that match the BPF `expression`; raises ConfigurationError.

        An empty expression is applied, too: without a filter, the kernel copies whole packets into
        the ring, whatever the snaplen.
        """
        try:
            self._reader.setfilter(expression)
        except (pcapy.PcapError, pcapy.BPFError) as error:
            self.close()
            raise ConfigurationError(
                f'capture.filter: "{expression}" on {self._name}: {error}'
            ) from error
        return self

    def prove_lengths(self) -> None:
        """Cut, from now on, frames whose IP header claims more than the frame has.

        Until the frames that are in the ring by now have been read, and where there is no filter
        for that, `lengths_proven` is False.
        """
        self._proven_from = math.inf
        descriptor = self.fileno()
        try:
            existing = read_filter(descriptor)
            program = add_length_check(self.link_type, self.snaplen, existing)
            if program is not None:
                attach_filter(descriptor, program)
                self._proven_from = time.monotonic() + 2 * self.timeout
        except OSError as error:
            log.debug("%s: no filter for lengths: %s", self._name, error)

    @property
    def lengths_proven(self) -> bool:
        """Whether `read` is safe: all further frames passed the filter of `prove_lengths`."""
        return not self._proven_from

    def read(self) -> FrameBatch:
        """Return the frames in the ring, without original lengths.

        Raises CaptureError, and the frames that this call had read are lost.
        """
        try:
            data, records = self._reader.next_batch(BATCH_FRAMES)
        except pcapy.PcapError as error:
            raise CaptureError(f"{self._name}: {error}") from error
        return FrameBatch(data, np.frombuffer(records, np.uint32).reshape(-1, 4), None)

    def read_exact(self) -> tuple[FrameBatch, CaptureError | None]:
        """Return the frames in the ring with their original lengths, and the error if one came."""
        began = time.monotonic()
        frames: list[bytes] = []
        rows: list[tuple[int, int, int, int]] = []
        lengths: list[int] = []
        offset = 0

        def collect(header: _Header, frame: bytes) -> None:
            nonlocal offset
            seconds, microseconds = header.getts()  # signed in libpcap, unsigned in a file
            rows.append((seconds & _UINT32, microseconds & _UINT32, offset, header.getcaplen()))
            lengths.append(header.getlen())
            frames.append(frame)
            offset += len(frame)

        failure, is_empty = None, False
        try:
            while not is_empty and len(frames) < BATCH_FRAMES and offset < _MAX_EXACT_BYTES:
                before = len(frames)
                self._reader.dispatch(_EXACT_FRAMES, collect)
                is_empty = len(frames) - before < _EXACT_FRAMES
        except pcapy.PcapError as error:
            failure = CaptureError(f"{self._name}: {error}")
        if began >= self._proven_from and is_empty:
            self._proven_from = 0.0
        records = np.array(rows, np.uint32).reshape(-1, 4)
        return FrameBatch(b"".join(frames), records, np.array(lengths, np.uint32)), failure

    def take_drops(self) -> tuple[int, int]:
        """Return how many frames the kernel and the interface dropped since the last call."""
        try:
            _received, *now = self._reader.stats()
        except pcapy.PcapError:
            return 0, 0  # the interface is gone, and its counters with it
        # Counters of 32 bits wrap; libpcap's interface counter restarts when the link is renamed.
        since = [(new - old) & 0xFFFFFFFF for new, old in zip(now, self._drops, strict=True)]
        self._drops = (now[0], now[1])
        kernel, interface = (delta if delta < 1 << 31 else 0 for delta in since)
        return kernel, interface

    def close(self) -> None:
        """Close the handle."""
        self._reader.close()


def choose_timeout_ms(buffer_mib: int) -> int:
    """Return the read timeout of a ring of this size, in milliseconds."""
    return max(_MIN_TIMEOUT_MS, _MIN_RING_MS // (buffer_mib * _BLOCKS_PER_MIB))


def open_live(
    interface: str,
    *,
    snaplen: int,
    buffer_mib: int,
    promiscuous: bool,
    expression: str,
    cuts_frames: bool = True,
) -> Handle:
    """Return a non-blocking handle on `interface`; its lengths are proven if it `cuts_frames`.

    Raises NotPermittedError, ConfigurationError (filter) or CaptureError, also for a link type that
    cannot be decoded.
    """
    timeout_ms = choose_timeout_ms(buffer_mib)
    try:
        reader = pcapy.create(interface)
        reader.set_snaplen(snaplen)
        reader.set_promisc(promiscuous)
        reader.set_timeout(timeout_ms)
        reader.set_buffer_size(buffer_mib << 20)
        status = reader.activate()
        if status >= 0:  # above 0: a warning, and the handle works
            reader.setnonblock(1)
    except pcapy.PcapError as error:
        raise CaptureError(f"{interface}: {error}") from error
    if status < 0:
        reader.close()
        raise _explain(interface, status)
    link_type = reader.datalink()
    if not is_decodable(link_type):
        reader.close()
        raise CaptureError(
            f"{interface}: {describe_link_type(link_type)} cannot be decoded; "
            f"{suggest_capture(link_type)}"
        )
    uncut = min(snaplen, _MAX_UNCUT_BYTES)
    handle = Handle(
        reader, interface, timeout=timeout_ms / 1000, snaplen=uncut, ring_bytes=buffer_mib << 20
    )
    handle.apply_filter(expression)
    if cuts_frames:
        handle.prove_lengths()
    return handle


def _explain(interface: str, status: int) -> Exception:
    """Return the error for a status of pcap_activate below 0."""
    if status in {_PERMISSION_DENIED, _PROMISC_DENIED}:
        python = Path(sys.executable).resolve()
        return NotPermittedError(
            f"{interface}: capturing needs the capability CAP_NET_RAW: run as root, or grant it "
            "and those that find other users' processes: sudo setcap "
            f"cap_net_raw,cap_sys_ptrace,cap_dac_read_search+ep {python}"
        )
    if status in {_NO_SUCH_DEVICE, _NOT_UP}:
        return CaptureError(f"{interface}: the interface is down or gone")
    return CaptureError(f"{interface}: libpcap cannot capture on it (pcap_activate: {status})")


def compile_filter(expression: str, link_type: int, where: str) -> list[Instruction]:
    """Return the BPF `expression` compiled for `link_type`; raises ConfigurationError."""
    try:
        program = pcapy.compile(
            _LIBPCAP_LINK_TYPES.get(link_type, link_type), _MAX_SNAPLEN, expression, 1, 0
        )
    except (pcapy.PcapError, ValueError) as error:  # ValueError: a NUL, lone surrogates
        raise ConfigurationError(f'capture.filter: "{expression}" on {where}: {error}') from error
    return list(program.get_bpf())


def check_filter(expression: str, snaplen: int) -> str | None:
    """Return libpcap's error for the BPF `expression`; None if it may be valid.

    Some expressions are valid for some link types only, and those of the run are not known yet. So
    an expression is invalid only if it fails for each of the usual link types.
    """
    first = None
    for link_type in _USUAL_LINK_TYPES:
        try:
            pcapy.compile(link_type, snaplen, expression, 1, 0)
        except (pcapy.PcapError, ValueError) as error:  # ValueError: a NUL, lone surrogates
            first = first or str(error)
        else:
            return None
    return first
