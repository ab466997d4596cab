"""PURE: wire flows oriented towards this host: source and destination become local and remote.

In: the `WireFlows` of one interface, and its `LocalAddresses`. Out: flows and counts, added to a
`FlowBatch`.

A packet is transmitted by its source and received by its destination. Each of the two that is local
gets a flow, so a packet between two local addresses counts on both sides. A packet with no local
address is only counted (`not_local`). The flow carries the network namespace of its local address:
this host's own, a container's, or None where several containers have that address.

Multicast and broadcast
    A packet to a group is received on the other side of its sender: by the container where this
    host sends, by this host where a container sends. Known limit: the host's own multicasts also
    come back to its local receivers, on a path that no capture sees.

Memory in a flood
    The flow keys of wire keys are cached. A flood of flows with one packet each would fill the
    cache with keys that never come again. So beyond `_CROWD` keys in a generation a key is cached
    when it comes a second time: `_Doorkeeper` remembers the first times in two bytes each.
"""

from array import array

from hogpipe.capture.decode.decoder import WireFlows
from hogpipe.capture.decode.wire_key import Direction, WireKey, unpack_key
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.model import OWN_NAMESPACE, FlowDelta, FlowKey, Tally

_Sides = tuple[FlowKey | None, FlowKey | None]
"""The flow as its transmitter sees it and as its receiver sees it; None where that is not local."""
_MAX_CACHED = 1 << 15  # keys of one generation
_CROWD = 1 << 11  # keys of one generation
_PLACES = 1 << 15  # of a doorkeeper


class _Doorkeeper:
    """Remembers keys that came once, until others come in their places: two bytes a place.

    One key in 65,536 is taken for another one that came before.
    """

    def __init__(self) -> None:
        self._marks = array("H", bytes(2 * _PLACES))

    def has_come(self, key: bytes) -> bool:
        """Return whether `key` has come before, and remember it."""
        digest = hash(key)
        place, mark = digest & (_PLACES - 1), digest >> 15 & 0xFFFF
        if self._marks[place] == mark:
            return True
        self._marks[place] = mark
        return False


class Orientation:
    """Orients the wire flows of one interface; caches each key's sides for later packets.

    The cache has two generations: `start_generation` evicts the keys that were not used since the
    call before, and a full generation ends by itself.
    """

    def __init__(self, interface: str, local: LocalAddresses) -> None:
        self._interface = interface
        self._local = local
        self._sides: dict[bytes, _Sides] = {}
        self._former_sides: dict[bytes, _Sides] = {}
        """The generation before, without the keys that were used since."""
        self._namespaces: dict[bytes, tuple[int, ...]] = {}
        self._local_addresses: dict[bytes, bytes] = {}
        """Those of flow keys, which share one object."""
        self._doorkeeper: _Doorkeeper | None = None

    def update(self, interface: str, local: LocalAddresses) -> None:
        """Take over the interface's name and addresses; changed ones invalidate the caches."""
        if (interface, local) != (self._interface, self._local):
            self._interface, self._local = interface, local
            self._clear_caches()

    def has_unknown_endpoints(self, wire: WireFlows) -> bool:
        """Return whether a new flow has no known container on either side.

        Flows to a group do not count: they may well concern no container.
        """
        known, former = self._sides, self._former_sides
        new = [key for key in wire.keys if key not in known and key not in former]
        unknown = [key for key in new if not _has_container(self._peek(key))]
        return any(not self._is_to_group(key) for key in unknown)

    def orient(self, wire: WireFlows, batch: FlowBatch) -> None:
        """Add the flows and the counts of `wire` to `batch`."""
        flows, counts = batch.flows, batch.counts
        counts.captured.add(wire.captured)
        counts.not_ip.add(wire.not_ip)
        counts.undecoded.add(wire.undecoded)
        counts.length_floored.add(wire.length_floored)
        times = zip(wire.first_ns, wire.last_ns, strict=True)
        for key, packets, size, opened, (first_ns, newest_ns) in zip(
            wire.keys, wire.packets, wire.bytes, wire.opened, times, strict=True
        ):
            # The same number if there is one packet: one object less for each flow of a flood.
            last_ns = first_ns if packets == 1 else newest_ns
            transmitter, receiver = self._sides.get(key) or self._admit(key)
            if transmitter is not None:
                transmitted = FlowDelta(
                    transmit_bytes=size,
                    transmit_packets=packets,
                    opened=opened,
                    first_ns=first_ns,
                    last_ns=last_ns,
                )
                _add(flows, transmitter, transmitted)
            if receiver is not None:
                received = FlowDelta(
                    receive_bytes=size,
                    receive_packets=packets,
                    opened=opened,
                    first_ns=first_ns,
                    last_ns=last_ns,
                )
                _add(flows, receiver, received)
            if transmitter is None and receiver is None:
                counts.not_local.add(Tally(packets, size))
            elif transmitter is not None and receiver is not None:
                counts.both_sides.add(Tally(packets, size))

    def _peek(self, key: bytes) -> _Sides:
        """Return the sides of a key that is not cached; cache it unless there is a crowd."""
        return self._cache(key) if len(self._sides) < _CROWD else self._orient_key(key)

    def _admit(self, key: bytes) -> _Sides:
        """Return the sides of a key that is not cached; cache it, in a crowd if it came before."""
        if len(self._sides) >= _CROWD and key not in self._former_sides:
            if self._doorkeeper is None:
                self._doorkeeper = _Doorkeeper()
            if not self._doorkeeper.has_come(key):
                return self._orient_key(key)
        return self._cache(key)

    def _cache(self, key: bytes) -> _Sides:
        if len(self._sides) >= _MAX_CACHED:
            self.start_generation()
        sides = self._former_sides.pop(key, None) or self._orient_key(key)
        self._sides[key] = sides
        return sides

    def _orient_key(self, key: bytes) -> _Sides:
        return self._find_sides(unpack_key(key))

    @property
    def cached_keys(self) -> int:
        """How many keys are cached."""
        return len(self._sides) + len(self._former_sides)

    def start_generation(self) -> None:
        """Evict the keys that were not used since the last call."""
        self._former_sides, self._sides = self._sides, {}
        self._namespaces, self._local_addresses, self._doorkeeper = {}, {}, None

    def _clear_caches(self) -> None:
        self._sides, self._former_sides = {}, {}
        self._namespaces, self._local_addresses = {}, {}

    def _namespaces_of(self, address: bytes) -> tuple[int, ...]:
        known = self._namespaces.get(address)
        if known is None:
            if len(self._namespaces) >= _CROWD:
                self._namespaces, self._local_addresses = {}, {}
            known = self._namespaces[address] = self._local.namespaces_of(address)
        return known

    def _is_to_group(self, key: bytes) -> bool:
        return self._local.is_group(unpack_key(key).destination)

    def _find_sides(self, wire: WireKey) -> _Sides:
        transmitters: tuple[int, ...] = ()
        receivers: tuple[int, ...] = ()
        if wire.direction is not Direction.INCOMING:
            transmitters = self._namespaces_of(wire.source)
        if wire.direction is not Direction.OUTGOING:
            receivers = self._namespaces_of(wire.destination) or self._group_receivers(wire)
        protocol, interface = wire.protocol, self._interface
        source, source_port = wire.source, wire.source_port
        target, target_port = wire.destination, wire.destination_port
        transmit_side = receive_side = None
        if transmitters:
            namespace = _the_only(transmitters)
            source = self._local_addresses.setdefault(source, source)
            transmit_side = FlowKey(
                protocol, source, source_port, target, target_port, interface, namespace
            )
        if receivers:
            namespace = _the_only(receivers)
            target = self._local_addresses.setdefault(target, target)
            receive_side = FlowKey(
                protocol, target, target_port, source, source_port, interface, namespace
            )
        return transmit_side, receive_side

    def _group_receivers(self, wire: WireKey) -> tuple[int, ...]:
        """Return the namespaces that receive a packet to a group; none if it is to no group."""
        local = self._local
        if not local.is_group(wire.destination):
            return ()
        if local.loopback or wire.direction is Direction.LOOPBACK:
            return (OWN_NAMESPACE,)
        transmitters = self._namespaces_of(wire.source)
        own = () if local.containers_only else (OWN_NAMESPACE,)
        only_container = local.peer_namespaces if len(local.peer_namespaces) == 1 else ()
        if OWN_NAMESPACE in transmitters:
            return only_container
        # A container without an address yet sends from the unspecified one (DHCP).
        if transmitters or not any(wire.source):
            return own
        # A bridge forwards what comes from elsewhere to the container at this port.
        return only_container or own


def _has_container(sides: _Sides) -> bool:
    return any(flow is not None and flow.namespace != OWN_NAMESPACE for flow in sides)


def _the_only(namespaces: tuple[int, ...]) -> int | None:
    return namespaces[0] if len(namespaces) == 1 else None


def _add(flows: dict[FlowKey, FlowDelta], flow: FlowKey, delta: FlowDelta) -> None:
    known = flows.setdefault(flow, delta)
    if known is not delta:
        known.add(delta)
