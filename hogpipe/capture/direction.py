"""PURE: wire flows turned towards this host.

A packet is sent by its source and received by its destination; each of the two that is local gets
it, so a loopback packet counts on both sides. What is local on neither side is only counted.
"""

from hogpipe.capture.addresses import LocalAddresses
from hogpipe.capture.decode import WireFlows
from hogpipe.capture.frame import Path, WireKey, unpack_key
from hogpipe.model import FlowBatch, FlowDelta, FlowKey, Tally

_Sides = tuple[FlowKey | None, FlowKey | None]
_MOST_REMEMBERED = 1 << 17


class Direction:
    """Turns the wire flows of one interface; remembers how, so a known flow costs one look-up."""

    def __init__(self, interface: str, local: LocalAddresses) -> None:
        self._interface = interface
        self._local = local
        self._turned: dict[bytes, _Sides] = {}

    def update(self, interface: str, local: LocalAddresses) -> None:
        """Take a new name and new addresses into account, if they are new."""
        if (interface, local) != (self._interface, self._local):
            self._interface, self._local = interface, local
            self._turned.clear()

    def turn(self, wire: WireFlows, batch: FlowBatch) -> None:
        """Add the flows and the counts of `wire` to `batch`."""
        counts = batch.counts
        counts.captured.add(wire.captured)
        counts.not_ip.add(wire.not_ip)
        counts.undecoded.add(wire.undecoded)
        counts.length_floored.add(wire.length_floored)
        for key, packets, size, opened in zip(
            wire.keys, wire.packets, wire.bytes, wire.opened, strict=True
        ):
            sides = self._turned.get(key) or self._remember(key)
            sender, receiver = sides
            if sender is not None:
                _add(batch, sender, FlowDelta(size, packets, 0, 0, opened))
            if receiver is not None:
                _add(batch, receiver, FlowDelta(0, 0, size, packets, opened))
            if sender is None and receiver is None:
                counts.not_local.add(Tally(packets, size))
            elif sender is not None and receiver is not None:
                counts.both_sides.add(Tally(packets, size))

    def _remember(self, key: bytes) -> _Sides:
        if len(self._turned) >= _MOST_REMEMBERED:
            self._turned.clear()
        sides = self._turned[key] = self._find_sides(unpack_key(key))
        return sides

    def _find_sides(self, wire: WireKey) -> _Sides:
        """Return the flow as its sender and as its receiver see it, where they are local."""
        local = self._local
        looped = local.loopback or wire.path is Path.LOOPBACK
        sent = wire.path is not Path.INCOMING and local.has(wire.source)
        received = wire.path is not Path.OUTGOING and (
            local.has(wire.destination)
            # Our own multicasts come back to local receivers by a way that no capture sees.
            or (local.is_group(wire.destination) and (looped or not local.has(wire.source)))
        )
        source, destination = (
            (wire.source, wire.source_port),
            (wire.destination, wire.destination_port),
        )
        return (
            FlowKey(wire.protocol, *source, *destination, self._interface) if sent else None,
            FlowKey(wire.protocol, *destination, *source, self._interface) if received else None,
        )


def _add(batch: FlowBatch, flow: FlowKey, delta: FlowDelta) -> None:
    known = batch.flows.get(flow)
    if known is None:
        batch.flows[flow] = delta
    else:
        known.add(delta)
