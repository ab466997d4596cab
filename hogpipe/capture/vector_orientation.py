"""PURE: many packets of one interface oriented at once; the result is that of `orientation.py`.

In: wire keys as words. Out: for each side of each key the number of a network namespace.
"""

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.wire_key import DIRECTION_SHIFT, Direction
from hogpipe.capture.decode.wire_packets import DESTINATION, SOURCE, WIRE_KEY
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import Namespaces
from hogpipe.flows.flow_words import Numbering
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import OWN_NAMESPACE

NOT_LOCAL = -1
OWN_NUMBER = 0
"""The number of this host's own namespace."""
_VERSION_MASK = np.uint8((1 << DIRECTION_SHIFT) - 1)
_ADDRESS_WORDS = 3
_BROADCAST_V4 = 0xFFFFFFFF
_OWN_PLACE = -2  # that of addresses in a local prefix
_INCOMING, _OUTGOING, _LOOPBACK = map(
    np.uint8, (Direction.INCOMING, Direction.OUTGOING, Direction.LOOPBACK)
)


def number_namespaces(found: Namespaces, numbers: Numbering[int | None]) -> int:
    """Return the number of the only one of several namespaces, of None if that is not known."""
    if not found:
        return NOT_LOCAL
    return numbers.number(found[0] if len(found) == 1 else None)


class VectorOrientation:
    """Orients wire keys by the addresses `local`; `numbers` gives network namespaces numbers."""

    def __init__(self, local: LocalAddresses, numbers: Numbering[int | None]) -> None:
        self._local = local
        known = local.addresses | local.container_namespaces.keys()
        broadcasts = {one for one in local.broadcasts if len(one) == 4}
        addresses = sorted(known | broadcasts)
        self._index = KeyIndex(_ADDRESS_WORDS, max(1, len(addresses)))
        if addresses:
            self._index.add(_pack(addresses))
        # A column has a row for each address, and then one for other addresses in local prefixes,
        # and one for any other address, which is also that of ABSENT.
        found = [local.namespaces_of(address) for address in addresses]
        found += [(OWN_NAMESPACE,), ()]
        self._namespace = np.array([number_namespaces(one, numbers) for one in found], np.int64)
        self._is_own = np.array([OWN_NAMESPACE in one for one in found], np.bool_)
        self._is_broadcast = np.array([one in broadcasts for one in addresses] + [False] * 2)
        self._own = NOT_LOCAL if local.containers_only else OWN_NUMBER
        peers = local.peer_namespaces
        self._only_container = numbers.number(peers[0]) if len(peers) == 1 else NOT_LOCAL

    def orient(self, keys: Keys) -> tuple[Integers, Integers]:
        """Return the namespaces of the transmitters and of the receivers; NOT_LOCAL if none is."""
        wire = keys.view(WIRE_KEY)[:, 0]
        kind = wire["kind"]
        version, direction = kind & _VERSION_MASK, kind >> np.uint8(DIRECTION_SHIFT)
        source = self._find(keys[:, SOURCE], version, wire["source_v4"])
        target = self._find(keys[:, DESTINATION], version, wire["destination_v4"])
        transmitter, receiver = self._namespace.take(source), self._namespace.take(target)
        is_group = receiver == NOT_LOCAL
        if is_group.any():
            is_group &= self._is_group(wire, version, target)
            rows = np.flatnonzero(is_group)
            receiver[rows] = self._group_receivers(
                direction[rows], source[rows], transmitter[rows], keys[rows, SOURCE]
            )
        transmitter[direction == _INCOMING] = NOT_LOCAL
        receiver[direction == _OUTGOING] = NOT_LOCAL
        return transmitter, receiver

    def _find(self, addresses: Keys, version: NDArray[np.uint8], number: Integers) -> Integers:
        """Return the place of each address in the columns; `number` is that of IPv4 ones."""
        words = np.empty((len(addresses), _ADDRESS_WORDS), np.uint64)
        words[:, :2] = addresses
        words[:, 2] = version
        places = self._index.find(words).astype(np.int64)
        others = np.flatnonzero((places == ABSENT) & (version == 4))
        if len(others):
            values = number[others].astype(np.int64)
            for network, mask in self._local.prefixes:
                places[others[values & mask == network]] = _OWN_PLACE
        return places

    def _is_group(
        self, wire: NDArray[np.void], version: NDArray[np.uint8], target: Integers
    ) -> Flags:
        start = wire["destination_start"]
        group = wire["destination_v4"] == _BROADCAST_V4
        group |= start & np.uint8(0xF0) == 0xE0
        group |= self._is_broadcast.take(target)
        is_group: Flags = np.where(version == 4, group, start == 0xFF)
        return is_group

    def _group_receivers(
        self,
        direction: NDArray[np.uint8],
        source: Integers,
        transmitter: Integers,
        addresses: Keys,
    ) -> Integers:
        """Return the namespaces that receive packets to groups."""
        if self._local.loopback:
            return np.full(len(source), OWN_NUMBER, np.int64)
        container, own = self._only_container, self._own
        forwarded = own if container == NOT_LOCAL else container
        is_from_container = transmitter != NOT_LOCAL
        is_from_container |= ~addresses.any(axis=1)
        receiver = np.where(is_from_container, own, forwarded)
        receiver[self._is_own.take(source)] = container
        receiver[direction == _LOOPBACK] = OWN_NUMBER
        return receiver


def _pack(addresses: list[bytes]) -> Keys:
    words = np.zeros((len(addresses), _ADDRESS_WORDS), np.uint64)
    padded = b"".join(address.ljust(16, b"\0") for address in addresses)
    words[:, :2] = np.frombuffer(padded, np.uint64).reshape(-1, 2)
    words[:, 2] = [4 if len(address) == 4 else 6 for address in addresses]
    return words
