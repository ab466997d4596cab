"""PURE: decoded packets as columns, a row for each.

In: what the decoders find in frames. Out: `WirePackets`, and `DecodedFrames` with what is no
packet. Rows of several interfaces are joined once each has the number of its interface in its key.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from hogpipe.capture.decode.wire_key import KEY
from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.flows.row_order import are_equal, order_by_key
from hogpipe.model import CaptureCounts, Tally

WIRE_WORDS = KEY.size // 8
WIRE_KEY = np.dtype(
    {
        "names": [
            "kind", "protocol", "interface", "source_port", "destination_port",
            "source_start", "source_v4", "destination_start", "destination_v4",
        ],
        "formats": ["u1", "u1", ">u2", ">u2", ">u2", "u1", ">u4", "u1", ">u4"],
        "offsets": [0, 1, 2, 4, 6, 8, 8, 24, 24],
        "itemsize": KEY.size,
    }
)  # fmt: skip
"""The parts of a wire key's words (`wire_key.KEY`). Of addresses: the first byte, and the number
that the address is in IPv4. The words of the addresses are SOURCE and DESTINATION."""
SOURCE, DESTINATION = slice(1, 3), slice(3, 5)
_MAX_ROWS = 1 << 16
_MIN_IN_RUNS, _SAMPLE = 64, 32  # packets; fewer cost no more than the search for runs

PacketRow = tuple[bytes, int, int, bool, int, int]
"""Packed wire key, IP bytes, packets, and the other columns of `WirePackets`."""


@dataclass(frozen=True, slots=True, eq=False)
class WirePackets:
    """Packets, a row for each, or for several that were summed up; times are those of capture."""

    keys: Keys
    """Packed wire keys, as WIRE_WORDS words each."""
    bytes: Integers
    """IP lengths."""
    packets: Integers
    opened: Flags
    """Whether a TCP SYN without ACK was among the packets."""
    first_ns: Integers
    last_ns: Integers

    def __len__(self) -> int:
        return len(self.keys)

    def total(self, rows: Flags | slice = slice(None)) -> Tally:
        """Return the sums of packets and bytes."""
        return Tally(int(self.packets[rows].sum()), int(self.bytes[rows].sum()))


class DecodedFrames(msgspec.Struct):
    """The packets of a batch, and the frames that have none.

    A later fragment that is pending for its first is in no row yet: it counts, like any packet, in
    the batch in which it is matched or expires.
    """

    packets: WirePackets
    not_ip: Tally = msgspec.field(default_factory=Tally)
    undecoded: Tally = msgspec.field(default_factory=Tally)
    length_floored: Tally = msgspec.field(default_factory=Tally)
    """BIG TCP packets among the packets, counted with the least length they can have."""

    @property
    def captured(self) -> Tally:
        """The whole batch: IP lengths of packets, captured lengths of frames that have none."""
        total = self.packets.total()
        total.add(self.not_ip)
        total.add(self.undecoded)
        return total

    @property
    def needs_original_lengths(self) -> bool:
        """Whether original lengths would have made a length exact."""
        return self.length_floored.packets > 0


class CapturedPackets:
    """Gathers the packets of several reads and interfaces, and what is counted with them."""

    def __init__(self) -> None:
        self.counts = CaptureCounts()
        self._parts: list[WirePackets] = []
        self._rows = 0
        self._max_rows = _MAX_ROWS

    def add(self, decoded: DecodedFrames, interface: int) -> None:
        """Add frames of the interface that has the number `interface`."""
        counts = self.counts
        counts.captured.add(decoded.captured)
        counts.not_ip.add(decoded.not_ip)
        counts.undecoded.add(decoded.undecoded)
        counts.length_floored.add(decoded.length_floored)
        packets = decoded.packets
        if rows := len(packets):
            packets.keys.view(WIRE_KEY)["interface"] = interface
            self._parts.append(packets)
            self._rows += rows
            if self._rows > self._max_rows:
                self._sum_up()

    def join(self) -> WirePackets:
        """Return all packets."""
        return join_packets(self._parts)

    def _sum_up(self) -> None:
        """Sum up packets of equal keys: more were read than one iteration of a loop should have."""
        self._parts = [sum_by_key(join_packets(self._parts))]
        self._rows = len(self._parts[0])
        self._max_rows = max(_MAX_ROWS, 2 * self._rows)


def make_packets(rows: Sequence[PacketRow]) -> WirePackets:
    """Return rows as columns."""
    if not rows:
        return _NO_PACKETS
    packed, *numbers = zip(*rows, strict=True)
    size, packets, opened, first_ns, last_ns = np.array(numbers, np.int64)
    # A bytearray, so that the number of the interface can be set.
    keys = np.frombuffer(bytearray().join(packed), np.uint64).reshape(-1, WIRE_WORDS)
    return WirePackets(keys, size, packets, opened.astype(np.bool_), first_ns, last_ns)


def join_packets(parts: Sequence[WirePackets]) -> WirePackets:
    """Return the rows of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _NO_PACKETS
    return WirePackets(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.bytes for part in parts]),
        np.concatenate([part.packets for part in parts]),
        np.concatenate([part.opened for part in parts]),
        np.concatenate([part.first_ns for part in parts]),
        np.concatenate([part.last_ns for part in parts]),
    )


def sum_by_key(packets: WirePackets) -> WirePackets:
    """Return a row for each key, with the sums of its packets; exact whatever the keys are."""
    if not len(packets):
        return packets
    order, bounds = order_by_key(packets.keys)
    starts = bounds[:-1]
    return WirePackets(
        packets.keys.take(order[starts], axis=0),
        np.add.reduceat(packets.bytes[order], starts),
        np.add.reduceat(packets.packets[order], starts),
        np.logical_or.reduceat(packets.opened[order], starts),
        np.minimum.reduceat(packets.first_ns[order], starts),
        np.maximum.reduceat(packets.last_ns[order], starts),
    )


def sum_runs(packets: WirePackets) -> WirePackets:
    """Return a row for each run of packets of one key, where that leaves far fewer rows.

    Few large flows pass in long runs, which cost no more than a packet each from here on. A SYN
    begins a run: what passed before it is that of another connection.
    """
    keys = packets.keys
    if len(keys) < _MIN_IN_RUNS or _starts_run(keys[:_SAMPLE]).sum() > _SAMPLE // 2:
        return packets
    starts = (_starts_run(keys) | packets.opened).nonzero()[0]
    if 2 * len(starts) > len(keys):
        return packets
    return WirePackets(
        keys.take(starts, axis=0),
        np.add.reduceat(packets.bytes, starts),
        np.add.reduceat(packets.packets, starts),
        np.logical_or.reduceat(packets.opened, starts),
        np.minimum.reduceat(packets.first_ns, starts),
        np.maximum.reduceat(packets.last_ns, starts),
    )


def _starts_run(keys: Keys) -> Flags:
    starts = np.ones(len(keys), np.bool_)
    starts[1:] = ~are_equal(keys[1:], keys[:-1])
    return starts


_NO_PACKETS = WirePackets(
    np.zeros((0, WIRE_WORDS), np.uint64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.bool_),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
)
