"""PURE: the captured interfaces in the wire table: what makes flows of their packets.

In: the name and the addresses of each interface. Out: a number for it, which its wire keys carry;
for wire keys the network namespaces of their local sides, and then the words of their flows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hogpipe.capture.decode.wire_key import DIRECTION_SHIFT, unpack_key
from hogpipe.capture.decode.wire_packets import DESTINATION, SOURCE, WIRE_KEY
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import find_sides
from hogpipe.capture.vector_orientation import (
    NOT_LOCAL,
    OWN_NUMBER,
    VectorOrientation,
    number_namespaces,
)
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker, Numbering
from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Integers
from hogpipe.model import OWN_NAMESPACE

MANY_KEYS = 24
"""From about this many keys of one interface on, columns cost less than one key after the other."""

_MAX_NAMESPACES = 4096  # that have numbers before those in use get numbers again
_VERSION_MASK = np.uint8((1 << DIRECTION_SHIFT) - 1)


class Sides(NamedTuple):
    """Of packets: numbers of namespaces, or slots of flows; NOT_LOCAL where a side is not local."""

    transmitter: Integers
    receiver: Integers


def no_sides(count: int) -> Sides:
    """Return the sides of `count` packets that have none."""
    return Sides(np.full(count, NOT_LOCAL, np.int64), np.full(count, NOT_LOCAL, np.int64))


class _Interface:
    """A captured interface."""

    def __init__(
        self, name: str, local: LocalAddresses, on_unknown_endpoints: Callable[[], None] | None
    ) -> None:
        self.name = name
        self.local = local
        self.on_unknown_endpoints = on_unknown_endpoints
        self.orientation: VectorOrientation | None = None
        """Made when there are many keys."""


class WireInterfaces:
    """The interfaces by number. For one thread."""

    def __init__(self) -> None:
        self.changed: set[int] = set()
        """Those whose keys are no longer valid; the wire table takes them out."""
        self._interfaces: dict[int, _Interface] = {}
        self._closed: set[int] = set()
        self._number_namespaces()

    def add(
        self,
        name: str,
        local: LocalAddresses,
        on_unknown_endpoints: Callable[[], None] | None = None,
    ) -> int:
        """Return the number of a new interface.

        `on_unknown_endpoints` is called where new flows have no known container on either side,
        before they are counted: it may update interfaces. Flows to a group do not count: they may
        well concern no container.
        """
        number = 0
        while number in self._interfaces:
            number += 1
        self._interfaces[number] = _Interface(name, local, on_unknown_endpoints)
        return number

    def update(
        self,
        number: int,
        name: str,
        local: LocalAddresses,
        on_unknown_endpoints: Callable[[], None] | None = None,
    ) -> None:
        """Take over an interface's name and addresses."""
        known = self._interfaces[number]
        if (name, local) == (known.name, known.local):
            known.on_unknown_endpoints = on_unknown_endpoints
            return
        self._interfaces[number] = _Interface(name, local, on_unknown_endpoints)
        self.changed.add(number)

    def close(self, number: int) -> None:
        """Close an interface; it has its number until `free_closed`."""
        self._closed.add(number)

    def free_closed(self) -> None:
        """Free the numbers of closed interfaces: no further packets have them."""
        for number in self._closed:
            del self._interfaces[number]
        self.changed |= self._closed
        self._closed.clear()

    def orient(self, keys: Keys) -> Sides:
        """Return the numbers of the namespaces of each key's sides."""
        numbers = keys.view(WIRE_KEY)[:, 0]["interface"]
        distinct = np.unique(numbers).tolist()
        if len(distinct) == 1:
            return self._orient(self._interfaces[distinct[0]], keys)
        sides = no_sides(len(keys))
        for number in distinct:
            rows = np.flatnonzero(numbers == number)
            found = self._orient(self._interfaces[number], keys[rows])
            sides.transmitter[rows], sides.receiver[rows] = found
        return sides

    def report_unknown(self, keys: Keys, sides: Sides) -> None:
        """Report unknown endpoints among new keys, for each interface once."""
        unknown = keys[(sides.transmitter <= OWN_NUMBER) & (sides.receiver <= OWN_NUMBER)]
        numbers = unknown.view(WIRE_KEY)[:, 0]["interface"]
        for number in np.unique(numbers).tolist():
            interface = self._interfaces[number]
            if interface.on_unknown_endpoints is None:
                continue
            wires = (unpack_key(key.tobytes()) for key in unknown[numbers == number])
            if not all(interface.local.is_group(wire.destination) for wire in wires):
                interface.on_unknown_endpoints()

    def make_words(
        self, keys: Keys, namespaces: Integers, packer: FlowPacker, *, receives: bool
    ) -> Keys:
        """Return the flows of keys, as their receivers or their transmitters see them.

        `namespaces` are those of these sides.
        """
        words = np.zeros((len(keys), WORDS), np.uint64)
        if not len(keys):
            return words
        wire, flows = keys.view(WIRE_KEY)[:, 0], words.view(FLOW_WORDS)[:, 0]
        flows["protocol"] = wire["protocol"]
        size = np.where(wire["kind"] & _VERSION_MASK == 4, np.uint8(4), np.uint8(16))
        flows["address_size"] = flows["remote_size"] = size
        flows["interface"] = _renumber(
            wire["interface"], lambda one: packer.interfaces.number(self._interfaces[one].name)
        )
        flows["namespace"] = _renumber(
            namespaces, lambda one: packer.namespaces.number(self._namespaces.name(one))
        )
        source, destination = wire["source_port"], wire["destination_port"]
        if receives:
            flows["local_port"], flows["remote_port"] = destination, source
            words[:, 2:4], words[:, 4:6] = keys[:, DESTINATION], keys[:, SOURCE]
        else:
            flows["local_port"], flows["remote_port"] = source, destination
            words[:, 2:4], words[:, 4:6] = keys[:, SOURCE], keys[:, DESTINATION]
        return words

    def drop_unused_numbers(self) -> None:
        """Give namespaces other numbers if many have one; no sides are in use."""
        if len(self._namespaces) > _MAX_NAMESPACES:
            self._number_namespaces()

    def _orient(self, interface: _Interface, keys: Keys) -> Sides:
        if len(keys) >= MANY_KEYS:
            if interface.orientation is None:
                interface.orientation = VectorOrientation(interface.local, self._namespaces)
            return Sides(*interface.orientation.orient(keys))
        sides = no_sides(len(keys))
        for row, key in enumerate(keys):
            found = find_sides(unpack_key(key.tobytes()), interface.local)
            sides.transmitter[row] = number_namespaces(found.transmitters, self._namespaces)
            sides.receiver[row] = number_namespaces(found.receivers, self._namespaces)
        return sides

    def _number_namespaces(self) -> None:
        """Start with the number of this host's own namespace; others get theirs when used."""
        self._namespaces: Numbering[int | None] = Numbering()
        self._namespaces.number(OWN_NAMESPACE)
        for interface in self._interfaces.values():
            interface.orientation = None


def _renumber(numbers: Integers, renumber: Callable[[int], int]) -> Integers:
    """Return other numbers for some, few of which differ."""
    first = numbers[0]
    if (numbers == first).all():
        return np.full(1, renumber(int(first)))
    used, places = np.unique(numbers, return_inverse=True)
    return np.array([renumber(one) for one in used.tolist()])[places]
