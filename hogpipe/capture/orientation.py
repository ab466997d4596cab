"""PURE: packets oriented towards this host: which of source and destination is local, and where.

In: a wire key, and the `LocalAddresses` of its interface. Out: its `Sides`. This is the reference
for `vector_orientation.py`, and orients keys where there are few.

A packet is transmitted by its source and received by its destination. Each of the two that is local
gets a flow, so a packet between two local addresses counts on both sides. A packet with no local
address is only counted (`not_local`). The flow carries the network namespace of its local address:
this host's own, a container's, or None where several containers have that address.

Multicast and broadcast
    A packet to a group is received on the other side of its sender: by the container where this
    host sends, by this host where a container sends. Known limit: the host's own multicasts also
    come back to its local receivers, on a path that no capture sees.
"""

from typing import NamedTuple

from hogpipe.capture.decode.wire_key import Direction, WireKey
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.model import OWN_NAMESPACE

Namespaces = tuple[int, ...]
"""The network namespaces that may have an address; none if it is not local."""


class Sides(NamedTuple):
    """Where a packet may have been transmitted and received on this host."""

    transmitters: Namespaces
    receivers: Namespaces


def find_sides(wire: WireKey, local: LocalAddresses) -> Sides:
    """Return the sides of the packets that have a wire key."""
    transmitters: Namespaces = ()
    receivers: Namespaces = ()
    if wire.direction is not Direction.INCOMING:
        transmitters = local.namespaces_of(wire.source)
    if wire.direction is not Direction.OUTGOING:
        receivers = local.namespaces_of(wire.destination) or _group_receivers(wire, local)
    return Sides(transmitters, receivers)


def _group_receivers(wire: WireKey, local: LocalAddresses) -> Namespaces:
    """Return the namespaces that receive a packet to a group; none if it is to no group."""
    if not local.is_group(wire.destination):
        return ()
    if local.loopback or wire.direction is Direction.LOOPBACK:
        return (OWN_NAMESPACE,)
    transmitters = local.namespaces_of(wire.source)
    own = () if local.containers_only else (OWN_NAMESPACE,)
    only_container = local.peer_namespaces if len(local.peer_namespaces) == 1 else ()
    if OWN_NAMESPACE in transmitters:
        return only_container
    # A container without an address yet sends from the unspecified one (DHCP).
    if transmitters or not any(wire.source):
        return own
    # A bridge forwards what comes from elsewhere to the container at this port.
    return only_container or own
