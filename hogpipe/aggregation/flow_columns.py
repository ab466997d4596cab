"""PURE: flows in columns, as dimensions and selectors need them.

In: words of flows, with the names of their numbers. Out: columns of their parts, and keys that are
equal for flows which do not differ in some fields.

Keys
    A key has the words of a flow in which only these fields are left. Ports of a protocol without
    ports are 0 in it (an ICMP identifier is no port). In place of the namespace, which no dimension
    needs, are the port of the service and the number of the named network. The number of
    the peer's name is in a word of its own. Words that no field is in are left out.

The numbers of interfaces and names hold for one table and moment; in keys they are those of a
`Numbering` that the caller keeps.
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hogpipe.aggregation.dimensions import FlowField
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker, Numbering
from hogpipe.flows.key_index import Keys
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.flows.packet_rows import Flags, FlowNaming, Integers
from hogpipe.flows.service_port_columns import find_service_ports, have_ports
from hogpipe.model import OWN_NAMESPACE, FlowKey, ServicePorts
from hogpipe.model.peer_names import PeerName

_COPIED: Mapping[FlowField, tuple[str, ...]] = {
    "protocol": ("protocol",),
    "family": ("address_size",),
    "local_address": ("address_size", "local_address"),
    "remote_address": ("remote_size", "remote_address"),
}
_PLACES: Mapping[FlowField, tuple[int, ...]] = {
    "protocol": (0,),
    "family": (0,),
    "interface": (0,),
    "local_port": (1,),
    "remote_port": (1,),
    "service_port": (1,),
    "network": (1,),
    "local_address": (0, 2, 3),
    "remote_address": (0, 4, 5),
    "domain": (WORDS,),
}
"""The words that a field is in."""
_REMOTE_ADDRESS = slice(4, 6)
_NAMESPACE_OFFSET = 12
_DERIVED_PARTS = np.dtype(
    {
        "names": ["service_port", "network"],
        "formats": [">u2", ">u2"],
        "offsets": [_NAMESPACE_OFFSET, _NAMESPACE_OFFSET + 2],
        "itemsize": FLOW_WORDS.itemsize,
    }
)
"""What keys have in place of the namespace."""

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class DerivedColumns:
    """What follows from flows and from what is known beside them; zeros where nothing needs it."""

    service_ports: Integers
    networks: Integers
    """The numbers of named networks, those of the remote addresses."""
    naming: FlowNaming
    """The names of the peers."""

    def take(self, rows: Integers) -> "DerivedColumns":
        """Return these rows."""
        return DerivedColumns(self.service_ports[rows], self.networks[rows], self.naming.take(rows))


class FlowColumns:
    """Flows, a row of `words` for each."""

    def __init__(self, words: Keys, packer: FlowPacker) -> None:
        self.words = np.ascontiguousarray(words)
        self.packer = packer
        self._parts = self.words.view(FLOW_WORDS)[:, 0]

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Integers) -> "FlowColumns":
        """Return these rows."""
        return FlowColumns(self.words[rows], self.packer)

    def flow(self, row: int) -> FlowKey:
        """Return the flow of a row."""
        return self.packer.unpack(self.words[row])

    def renumber(self, packer: FlowPacker) -> Keys:
        """Return the words with the numbers that the same names have in another packer."""
        words = self.words.copy()
        parts = words.view(FLOW_WORDS)[:, 0]
        known = self.packer
        parts["interface"] = _renumber(parts["interface"], known.interfaces, packer.interfaces)
        parts["namespace"] = _renumber(parts["namespace"], known.namespaces, packer.namespaces)
        return words

    def find_service_ports(self, ports: ServicePorts) -> Integers:
        """Return the port of the service of each flow, 0 where it has none."""
        parts, own = self._parts, self.packer.namespaces.find(OWN_NAMESPACE)
        is_own = parts["namespace"] == (-1 if own is None else own)
        return find_service_ports(
            parts["protocol"], parts["local_port"], parts["remote_port"], is_own, ports
        )

    def derive(
        self,
        ports: ServicePorts | None,
        networks: NetworkColumns | None,
        naming: FlowNaming | None = None,
    ) -> DerivedColumns:
        """Return what follows from the flows; zeros for what is None."""
        none = np.zeros(len(self), np.int64)
        return DerivedColumns(
            none if ports is None else self.find_service_ports(ports),
            none if networks is None else self.find_networks(networks),
            FlowNaming(none, [None]) if naming is None else naming,
        )

    def find_networks(self, networks: NetworkColumns) -> Integers:
        """Return the number of the named network of each remote address, 0 where it has none."""
        return networks.find(self._parts["remote_size"], self.words[:, _REMOTE_ADDRESS])

    def are_remote_in(self, size: int, mask: Keys, prefix: Keys) -> Flags:
        """Return which flows have a remote address of `size` bytes that is `prefix` under `mask`.

        Both are the two words of a left-aligned address.
        """
        found: Flags = self._parts["remote_size"] == size
        for place, (bits, wanted) in enumerate(zip(mask, prefix, strict=True), WORDS - 2):
            found &= self.words[:, place] & bits == wanted
        return found

    def make_keys(
        self,
        fields: Collection[FlowField],
        derived: DerivedColumns,
        interfaces: Numbering[str],
        peer_names: Numbering[PeerName | None],
    ) -> Keys:
        """Return keys of the flows, as many words wide as `count_key_words` says."""
        keys = np.zeros(len(self), FLOW_WORDS)
        derived_parts = keys.view(_DERIVED_PARTS)
        for field in fields:
            if field == "interface":
                keys[field] = _renumber(self._parts[field], self.packer.interfaces, interfaces)
            elif field == "service_port":
                derived_parts["service_port"] = derived.service_ports
            elif field == "network":
                derived_parts["network"] = derived.networks
            elif field == "domain":
                continue
            elif field in ("local_port", "remote_port"):
                keys[field] = np.where(have_ports(self._parts["protocol"]), self._parts[field], 0)
            else:
                for name in _COPIED[field]:
                    keys[name] = self._parts[name]
        words = keys.view(np.uint64).reshape(-1, WORDS)
        if "domain" in fields:
            named = np.array([peer_names.number(one) for one in derived.naming.names], np.uint64)
            words = np.column_stack([words, named[derived.naming.numbers]])
        return words[:, _find_places(fields)]


def count_key_words(fields: Collection[FlowField]) -> int:
    """Return how many words keys have."""
    return len(_find_places(fields))


def _find_places(fields: Collection[FlowField]) -> list[int]:
    return sorted({place for field in fields for place in _PLACES[field]})


def _renumber(
    numbers: NDArray[np.uint32], names: Numbering[_Name], others: Numbering[_Name]
) -> Integers:
    """Return the numbers that the names of `numbers` have in `others`."""
    is_used = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
    is_used[numbers] = True
    found = np.zeros(len(is_used), np.int64)
    for number in np.flatnonzero(is_used).tolist():
        found[number] = others.number(names.name(number))
    return found[numbers]
