"""PURE: wire flows turned towards this host.

A packet is sent by its source and received by its destination; each of the two that is local gets
it, so a loopback packet counts on both sides. What is local on neither side is only counted.

On a link that faces guests their addresses are local, too, and a flow carries the namespace that
its local address is in.
"""

from hogpipe.capture.decode.wire_flows import Direction, WireFlows, WireKey, unpack_key
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.model import OWN_NAMESPACE, FlowBatch, FlowDelta, FlowKey, Tally

_Sides = tuple[FlowKey | None, FlowKey | None]
_MOST_REMEMBERED = 1 << 17


class Orientation:
    """Turns the wire flows of one interface; remembers how, so a known flow costs one look-up."""

    def __init__(self, interface: str, local: LocalAddresses) -> None:
        self._interface = interface
        self._local = local
        self._turned: dict[bytes, _Sides] = {}
        self._namespaces: dict[bytes, tuple[int, ...]] = {}

    def update(self, interface: str, local: LocalAddresses) -> None:
        """Take a new name and new addresses into account, if they are new."""
        if (interface, local) != (self._interface, self._local):
            self._interface, self._local = interface, local
            self._forget()

    def meets_strangers(self, wire: WireFlows) -> bool:
        """Tell whether there are new flows that no known guest takes part in.

        Flows to groups are none: they may well concern nobody.
        """
        new = [key for key in wire.keys if key not in self._turned]
        return any(not _has_guest(self._remember(key)) and not self._is_group(key) for key in new)

    def turn(self, wire: WireFlows, batch: FlowBatch) -> None:
        """Add the flows and the counts of `wire` to `batch`."""
        counts = batch.counts
        counts.captured.add(wire.captured)
        counts.not_ip.add(wire.not_ip)
        counts.undecoded.add(wire.undecoded)
        counts.length_floored.add(wire.length_floored)
        times = zip(wire.first_ns, wire.last_ns, strict=True)
        for key, packets, size, opened, (first_ns, last_ns) in zip(
            wire.keys, wire.packets, wire.bytes, wire.opened, times, strict=True
        ):
            sides = self._turned.get(key) or self._remember(key)
            sender, receiver = sides
            if sender is not None:
                transmitted = FlowDelta(
                    transmit_bytes=size,
                    transmit_packets=packets,
                    opened=opened,
                    first_ns=first_ns,
                    last_ns=last_ns,
                )
                _add(batch, sender, transmitted)
            if receiver is not None:
                received = FlowDelta(
                    receive_bytes=size,
                    receive_packets=packets,
                    opened=opened,
                    first_ns=first_ns,
                    last_ns=last_ns,
                )
                _add(batch, receiver, received)
            if sender is None and receiver is None:
                counts.not_local.add(Tally(packets, size))
            elif sender is not None and receiver is not None:
                counts.both_sides.add(Tally(packets, size))

    def _remember(self, key: bytes) -> _Sides:
        if len(self._turned) >= _MOST_REMEMBERED:
            self._forget()
        sides = self._turned[key] = self._find_sides(unpack_key(key))
        return sides

    def _forget(self) -> None:
        self._turned.clear()
        self._namespaces.clear()

    def _namespaces_of(self, address: bytes) -> tuple[int, ...]:
        known = self._namespaces.get(address)
        if known is None:
            known = self._namespaces[address] = self._local.namespaces_of(address)
        return known

    def _is_group(self, key: bytes) -> bool:
        return self._local.is_group(unpack_key(key).destination)

    def _find_sides(self, wire: WireKey) -> _Sides:
        """Return the flow as its sender and as its receiver see it, where they are local."""
        senders: tuple[int, ...] = ()
        receivers: tuple[int, ...] = ()
        if wire.direction is not Direction.INCOMING:
            senders = self._namespaces_of(wire.source)
        if wire.direction is not Direction.OUTGOING:
            receivers = self._namespaces_of(wire.destination) or self._find_group(wire)
        protocol, interface = wire.protocol, self._interface
        source, source_port = wire.source, wire.source_port
        peer, peer_port = wire.destination, wire.destination_port
        sender = receiver = None
        if senders:
            namespace = _the_only(senders)
            sender = FlowKey(protocol, source, source_port, peer, peer_port, interface, namespace)
        if receivers:
            namespace = _the_only(receivers)
            receiver = FlowKey(protocol, peer, peer_port, source, source_port, interface, namespace)
        return sender, receiver

    def _find_group(self, wire: WireKey) -> tuple[int, ...]:
        """Return who receives what goes to a group: who is on the other side of its sender."""
        local = self._local
        if not local.is_group(wire.destination):
            return ()
        if local.loopback or wire.direction is Direction.LOOPBACK:
            return (OWN_NAMESPACE,)
        senders = self._namespaces_of(wire.source)
        own = () if local.guests_only else (OWN_NAMESPACE,)
        the_guest = local.faced if len(local.faced) == 1 else ()
        if OWN_NAMESPACE in senders:
            # Our own multicasts come back to local receivers by a way that no capture sees.
            return the_guest
        if senders or not any(wire.source):  # from a guest, if only one that has no address yet
            return own
        # What comes to a bridge from elsewhere is on its way to the guest at this port.
        return the_guest or own


def _has_guest(sides: _Sides) -> bool:
    return any(flow is not None and flow.namespace != OWN_NAMESPACE for flow in sides)


def _the_only(namespaces: tuple[int, ...]) -> int | None:
    return namespaces[0] if len(namespaces) == 1 else None


def _add(batch: FlowBatch, flow: FlowKey, delta: FlowDelta) -> None:
    known = batch.flows.setdefault(flow, delta)
    if known is not delta:
        known.add(delta)
