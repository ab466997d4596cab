"""PURE: packets summed by wire key, the five-tuple as on the wire.

`WireKey` is the key, packed into 40 bytes: five 64-bit words, so that a column of keys is hashed
and compared word by word. A wire key has a source and a destination, not a local and a remote side:
which addresses are local is not known to the decoder (see `capture/orientation.py`).

`WireFlows` is what the decoder returns for a batch. Vectorised decoding yields `PacketColumns`,
which `sum_by_key` turns into `WireFlows`; packets that are decoded one by one are added to it.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import Indices, order_by_key
from hogpipe.model import Tally

KEY = struct.Struct(">BBBxHH16s16s")
"""Version, protocol, direction, source port, destination port, source, destination.

An IPv4 address is left-aligned and padded with zeros.
"""


class Direction(IntEnum):
    """Which way a packet passed, where the link header has it: Linux cooked captures only."""

    UNKNOWN = 0
    INCOMING = 1
    OUTGOING = 2
    LOOPBACK = 3


_DIRECTIONS = tuple(Direction)


class WireKey(msgspec.Struct, frozen=True, gc=False):
    """A five-tuple as on the wire.

    `version` is 4 or 6 and addresses have 4 or 16 bytes accordingly. `protocol` is the number of
    the innermost header that was reached. Ports are 0 where there are none; an ICMP echo has its
    identifier in both.
    """

    version: int
    protocol: int
    direction: Direction
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


def pack_key(key: WireKey) -> bytes:
    """Return the 40 bytes of `key`."""
    return KEY.pack(
        key.version,
        key.protocol,
        key.direction,
        key.source_port,
        key.destination_port,
        key.source,
        key.destination,
    )


def unpack_key(packed: bytes) -> WireKey:
    """Return the wire key of 40 bytes that `pack_key` or a decoder made."""
    version, protocol, direction, source_port, destination_port, source, destination = KEY.unpack(
        packed
    )
    width = 4 if version == 4 else 16
    return WireKey(
        version,
        protocol,
        _DIRECTIONS[direction],
        source[:width],
        source_port,
        destination[:width],
        destination_port,
    )


class PacketColumns(NamedTuple):
    """Packets, a row each: index of the frame, packed wire key, IP length, whether a SYN opened."""

    frame: Indices
    keys: NDArray[np.void]
    lengths: Indices
    opened: NDArray[np.bool_]

    def take(self, rows: Indices | NDArray[np.bool_]) -> "PacketColumns":
        """Return these rows."""
        return PacketColumns(
            self.frame[rows], self.keys[rows], self.lengths[rows], self.opened[rows]
        )


class WireFlows(msgspec.Struct):
    """The sums of a batch: a row for each packed wire key, and what is in no flow.

    Keys are unique, in order of first appearance, so the same batch decoded from the same state
    gives the same rows. A later fragment that is pending for its first is in no sum yet: it counts,
    like any packet, in the batch in which it is matched or expires.
    """

    keys: list[bytes] = []
    packets: list[int] = []
    bytes: list[int] = []
    """IP lengths."""
    opened: list[bool] = []
    """Whether a TCP SYN without ACK was among the packets."""
    first_ns: list[int] = []
    """When the first of the packets was captured, nanoseconds since the epoch."""
    last_ns: list[int] = []
    """When the last of the packets was captured."""
    not_ip: Tally = msgspec.field(default_factory=Tally)
    undecoded: Tally = msgspec.field(default_factory=Tally)
    length_floored: Tally = msgspec.field(default_factory=Tally)
    """BIG TCP packets in the flows that were counted with the least length they can have."""

    @property
    def captured(self) -> Tally:
        """The whole batch: IP lengths of packets, captured lengths of frames that have none."""
        total = Tally(sum(self.packets), sum(self.bytes))
        total.add(self.not_ip)
        total.add(self.undecoded)
        return total

    @property
    def needs_original_lengths(self) -> bool:
        """Whether original lengths would have made a length exact."""
        return self.length_floored.packets > 0


def sum_by_key(columns: PacketColumns, times_ns: Indices) -> WireFlows:
    """Return the sums of `columns`, exact whatever the keys are; `times_ns` has all frames'."""
    if not len(columns.frame):
        return WireFlows()
    words = columns.keys.view(np.uint64).reshape(len(columns.keys), -1)
    order, bounds = order_by_key(words)
    starts = bounds[:-1]
    packets = bounds[1:] - starts
    totals = np.add.reduceat(columns.lengths[order], starts)
    opened = np.logical_or.reduceat(columns.opened[order], starts)
    times = times_ns[columns.frame[order]]
    first_ns, last_ns = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    heads = np.minimum.reduceat(order, starts)
    appearance = heads.argsort()
    return WireFlows(
        columns.keys[heads[appearance]].tolist(),
        packets[appearance].tolist(),
        totals[appearance].tolist(),
        opened[appearance].tolist(),
        first_ns[appearance].tolist(),
        last_ns[appearance].tolist(),
    )


class WireFlowSums:
    """Adds packets to `flows`, one at a time or several of one key."""

    def __init__(self, flows: WireFlows) -> None:
        self.flows = flows
        self._row_of: dict[bytes, int] | None = None
        """By key; made when the first packet is added, which most batches never need."""

    def add(
        self, key: bytes, packets: int, length: int, opened: bool, *, first_ns: int, last_ns: int
    ) -> None:
        """Add packets of `key` with `length` IP bytes together."""
        flows = self.flows
        if self._row_of is None:
            self._row_of = {known: row for row, known in enumerate(flows.keys)}
        row = self._row_of.get(key)
        if row is None:
            self._row_of[key] = len(flows.keys)
            flows.keys.append(key)
            flows.packets.append(packets)
            flows.bytes.append(length)
            flows.opened.append(opened)
            flows.first_ns.append(first_ns)
            flows.last_ns.append(last_ns)
        else:
            flows.packets[row] += packets
            flows.bytes[row] += length
            flows.opened[row] |= opened
            flows.first_ns[row] = min(flows.first_ns[row], first_ns)
            flows.last_ns[row] = max(flows.last_ns[row], last_ns)
