"""The one module that touches libpcap (through pcapy-ng): handles, batches, and their errors.

`next_batch` is the fast way to read and gives no original lengths; `dispatch` with a callback
costs some ten times more a packet and gives them (and, of a cut savefile, all that was whole).
"""

import sys
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pcapy

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.errors import CaptureError, ConfigurationError, NotPermittedError

BATCH_FRAMES = 8192
# The age at which the kernel hands up a block of the ring that is not full. A block is 256 KiB, and
# until it is read back an aged one is as used up as a full one: 16 MiB last 64 of these times. The
# blocks of a small ring are handed up later, so that it lasts while the reader is busy elsewhere.
_BLOCKS_PER_MIB = 4
_SHORTEST_TIMEOUT_MS = 5
_RING_LASTS_MS = 160
_SURELY_FITS = 1 << 16
# What pcap_activate returns (pcap/pcap.h); pcapy-ng hands the number through.
_NO_SUCH_DEVICE, _PERMISSION_DENIED, _NOT_UP, _PROMISC_DENIED = -5, -8, -9, -11


# Filters are tried on these before a run; which link types it will meet is not known by then.
_USUAL_LINK_TYPES = (pcapy.DLT_EN10MB, pcapy.DLT_RAW, pcapy.DLT_LINUX_SLL)


class _Header(Protocol):
    """pcapy-ng's packet header."""

    def getts(self) -> tuple[int, int]: ...
    def getcaplen(self) -> int: ...
    def getlen(self) -> int: ...


class _Reader(Protocol):
    """What is used of pcapy-ng's handle, which has no type information of its own."""

    def datalink(self) -> int: ...
    def getfd(self) -> int: ...
    def next_batch(self, most: int) -> tuple[bytes, bytes]: ...
    def dispatch(self, most: int, callback: object) -> int: ...
    def setfilter(self, expression: str) -> None: ...
    def stats(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...


class Handle:
    """An open capture handle or savefile; used and closed by one thread only."""

    def __init__(
        self, reader: _Reader, place: str, *, timeout: float = 0.0, snaplen: int = 0
    ) -> None:
        self._reader = reader
        self._place = place
        self.timeout = timeout
        """Seconds after which a frame is there to be read at the latest."""
        self.snaplen = snaplen
        """A frame of fewer bytes is whole; 0 where that cannot be told."""
        self._drops = (0, 0)
        self.link_type = reader.datalink()

    def fileno(self) -> int:
        """Return the descriptor to poll for frames."""
        return self._reader.getfd()

    def apply_filter(self, expression: str) -> Self:
        """Let only frames that match the BPF `expression` through.

        An empty one is a filter, too: without any, the kernel copies whole packets into the ring,
        whatever the snaplen.
        """
        try:
            self._reader.setfilter(expression)
        except (pcapy.PcapError, pcapy.BPFError) as error:
            self.close()
            raise ConfigurationError(
                f'capture.filter: "{expression}" on {self._place}: {error}'
            ) from error
        return self

    def read(self) -> FrameBatch:
        """Return the frames that are there, without original lengths; none at the end of a file.

        Raises CaptureError; what this very call had read by then is lost (of a savefile, the
        frames are still there for `read_exact` of another handle).
        """
        try:
            data, records = self._reader.next_batch(BATCH_FRAMES)
        except pcapy.PcapError as error:
            raise CaptureError(f"{self._place}: {error}") from error
        return FrameBatch(data, np.frombuffer(records, np.uint32).reshape(-1, 4), None)

    def read_exact(self) -> tuple[FrameBatch, CaptureError | None]:
        """Return the frames that are there with their original lengths, and what ended them."""
        frames: list[bytes] = []
        rows: list[tuple[int, int, int, int]] = []
        lengths: list[int] = []
        offset = 0

        def collect(header: _Header, frame: bytes) -> None:
            nonlocal offset
            rows.append((*header.getts(), offset, header.getcaplen()))
            lengths.append(header.getlen())
            frames.append(frame)
            offset += len(frame)

        failure = None
        try:
            self._reader.dispatch(BATCH_FRAMES, collect)
        except pcapy.PcapError as error:
            failure = CaptureError(f"{self._place}: {error}")
        records = np.array(rows, np.uint32).reshape(-1, 4)
        return FrameBatch(b"".join(frames), records, np.array(lengths, np.uint32)), failure

    def take_drops(self) -> tuple[int, int]:
        """Return how many frames the kernel and the interface dropped since the last call."""
        try:
            _received, *now = self._reader.stats()
        except pcapy.PcapError:
            return 0, 0  # the interface is gone, and what it counted with it
        # 32-bit counters wrap; libpcap's count of the interface restarts when that is renamed.
        since = [(new - old) & 0xFFFFFFFF for new, old in zip(now, self._drops, strict=True)]
        self._drops = (now[0], now[1])
        kernel, interface = (delta if delta < 1 << 31 else 0 for delta in since)
        return kernel, interface

    def close(self) -> None:
        """Close the handle."""
        self._reader.close()


def choose_timeout_ms(buffer_mib: int) -> int:
    """Return the age at which blocks of a ring of this size are handed up, in milliseconds."""
    return max(_SHORTEST_TIMEOUT_MS, _RING_LASTS_MS // (buffer_mib * _BLOCKS_PER_MIB))


def open_live(
    interface: str, *, snaplen: int, buffer_mib: int, promiscuous: bool, expression: str
) -> Handle:
    """Return a non-blocking handle on `interface`.

    Raises NotPermittedError, ConfigurationError (filter) or CaptureError.
    """
    timeout_ms = choose_timeout_ms(buffer_mib)
    try:
        reader = pcapy.create(interface)
        reader.set_snaplen(snaplen)
        reader.set_promisc(promiscuous)
        reader.set_timeout(timeout_ms)
        reader.set_buffer_size(buffer_mib << 20)
        status = reader.activate()
        if status >= 0:  # above 0 are warnings: the handle works
            reader.setnonblock(1)
    except pcapy.PcapError as error:
        raise CaptureError(f"{interface}: {error}") from error
    if status < 0:
        reader.close()
        raise _explain(interface, status)
    # A frame is cut where its block ends, too, which only one of more than 64 KiB reaches.
    whole = min(snaplen, _SURELY_FITS)
    handle = Handle(reader, interface, timeout=timeout_ms / 1000, snaplen=whole)
    return handle.apply_filter(expression)


def _explain(interface: str, status: int) -> Exception:
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


def open_savefile(path: Path, expression: str) -> Handle:
    """Return a handle on the pcap or pcapng file at `path`; raises ConfigurationError."""
    try:
        reader = pcapy.open_offline(str(path))
    except pcapy.PcapError as error:
        raise ConfigurationError(f"capture.path: {path}: not a capture file: {error}") from error
    return Handle(reader, str(path)).apply_filter(expression)


def check_filter(expression: str, snaplen: int) -> str | None:
    """Return what libpcap has against the BPF `expression`; None if it may work.

    Some expressions have a meaning on some link types only, and which those of a run are is not
    known yet. So an error is certain only if it comes with each link type that is tried.
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
