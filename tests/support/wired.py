"""Wire packets made and read in tests, and a wire table of which all flows are returned."""

from collections.abc import Callable, Sequence

from hogpipe.capture.decode.wire_key import Direction, WireKey, pack_key, unpack_key
from hogpipe.capture.decode.wire_packets import (
    CapturedPackets,
    DecodedFrames,
    PacketRow,
    WirePackets,
    make_packets,
)
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import find_sides
from hogpipe.capture.wire_table import WireTable
from hogpipe.flows.flow_table import FlowTable
from hogpipe.model import CaptureCounts, FlowDelta, FlowKey, Tally
from support.traffic import make_delta

SIZE = 100
MAX_FLOWS = 10_000


def make_key(
    source: bytes,
    destination: bytes,
    direction: Direction = Direction.UNKNOWN,
    *,
    protocol: int = 6,
    port: int = 1000,
) -> WireKey:
    version = 4 if len(source) == 4 else 6
    return WireKey(version, protocol, direction, source, port, destination, 80)


def packets_of(*keys: WireKey) -> WirePackets:
    """Return a packet of SIZE bytes for each key."""
    return make_packets([(pack_key(key), SIZE, 1, False, 0, 0) for key in keys])


def rows_of(packets: WirePackets) -> list[PacketRow]:
    """Return the rows of columns."""
    keys = [row.tobytes() for row in packets.keys]
    columns = [packets.bytes, packets.packets, packets.opened, packets.first_ns, packets.last_ns]
    return list(zip(keys, *(column.tolist() for column in columns), strict=True))


def wire_keys(packets: WirePackets) -> list[WireKey]:
    """Return the key of each row."""
    return [unpack_key(row.tobytes()) for row in packets.keys]


class Wiretap:
    """Interfaces, and what the packets on them come to; flows of SIZE-byte packets."""

    def __init__(
        self, max_flows: int = MAX_FLOWS, *, max_unowned: int = MAX_FLOWS, reserve: int = 0
    ) -> None:
        self.table = FlowTable(max_flows, min(max_flows, max_unowned), reserve=reserve)
        self.wire = WireTable(self.table)
        self.counts = CaptureCounts()
        self.flows: dict[FlowKey, FlowDelta] = {}
        """Of all packets so far."""
        self.now = 0.0

    def add(
        self, name: str, local: LocalAddresses, on_unknown: Callable[[], None] | None = None
    ) -> int:
        return self.wire.interfaces.add(name, local, on_unknown)

    def capture(self, *keys: WireKey, interface: int = 0) -> dict[FlowKey, FlowDelta]:
        """Let a packet of each key pass an interface; return their flows."""
        return self.capture_on({interface: keys})

    def capture_on(self, packets: dict[int, Sequence[WireKey]]) -> dict[FlowKey, FlowDelta]:
        captured = CapturedPackets()
        for interface, keys in packets.items():
            captured.add(DecodedFrames(packets_of(*keys)), interface)
        rows = self.wire.locate(captured.join(), captured.counts, self.now)
        self.counts.add(captured.counts)
        found = {} if rows is None else self.table.count(rows, self.now)
        self.table.receive(found, self.now)
        for flow, delta in found.items():
            self.flows.setdefault(flow, FlowDelta()).add(delta)
        return found

    @property
    def is_conserved(self) -> bool:
        """Whether all bytes of the flows are those that were captured."""
        counts, moved = self.counts, Tally()
        for delta in self.flows.values():
            moved.add(delta.total)
        captured = Tally(
            counts.captured.packets - counts.not_local.packets + counts.both_sides.packets,
            counts.captured.bytes - counts.not_local.bytes + counts.both_sides.bytes,
        )
        return moved == captured


def orient_plainly(key: WireKey, name: str, local: LocalAddresses) -> dict[FlowKey, FlowDelta]:
    """Return the flows of one packet, each side by itself: the reference for columns."""
    sides, flows = find_sides(key, local), dict[FlowKey, FlowDelta]()
    source, target = (key.source, key.source_port), (key.destination, key.destination_port)
    transmitted, received = make_delta(transmit=(SIZE, 1)), make_delta(receive=(SIZE, 1))
    for namespaces, here, there, delta in (
        (sides.transmitters, source, target, transmitted),
        (sides.receivers, target, source, received),
    ):
        if namespaces:
            namespace = namespaces[0] if len(namespaces) == 1 else None
            flow = FlowKey(key.protocol, *here, *there, name, namespace)
            flows.setdefault(flow, FlowDelta()).add(delta)
    return flows
