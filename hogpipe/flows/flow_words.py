"""PURE: flow keys as six 64-bit words, so that columns of them are compared and grouped.

In: flow keys, or the columns of their parts. Out: words, and flow keys again. Names of interfaces
and network namespaces have numbers in the words (`Numbering`), which hold for one table only.
"""

import struct
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar, cast

import numpy as np

from hogpipe.flows.key_index import Keys
from hogpipe.model import FlowKey

_PACKED = struct.Struct(">BBBxIHHI16s16s")
FLOW_WORDS = np.dtype(
    {
        "names": [
            "protocol", "address_size", "remote_size", "interface", "local_port", "remote_port",
            "namespace", "local_address", "remote_address",
        ],
        "formats": ["u1", "u1", "u1", ">u4", ">u2", ">u2", ">u4", "V16", "V16"],
        "offsets": [0, 1, 2, 4, 8, 10, 12, 16, 32],
        "itemsize": _PACKED.size,
    }
)  # fmt: skip
"""The parts of a flow key's words. An IPv4 address is left-aligned and padded with zeros.

`address_size` is that of the local address, `remote_size` that of the remote one: 0 for sums."""
WORDS = _PACKED.size // 8

_Name = TypeVar("_Name", bound=Hashable)


class Numbering(Generic[_Name]):
    """Numbers for names, from 0, each the same until it is dropped; numbers are used again."""

    def __init__(self) -> None:
        self._numbers: dict[_Name, int] = {}
        self._names: list[_Name | None] = []
        self._free: list[int] = []
        """The lowest one last."""

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._numbers)

    def number(self, name: _Name) -> int:
        """Return the number of a name, which gets the lowest free one if it has none."""
        known = self._numbers.get(name)
        if known is None:
            known = self._add(name)
        return known

    def find(self, name: _Name) -> int | None:
        """Return the number of a name, None if it has none."""
        return self._numbers.get(name)

    def name(self, number: int) -> _Name:
        """Return the name that has a number."""
        return cast("_Name", self._names[number])

    def rename(self, number: int, name: _Name) -> None:
        """Have a name that has no number take that of another."""
        del self._numbers[self.name(number)]
        self._numbers[name] = number
        self._names[number] = name

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop all names but those with these numbers."""
        kept = set(numbers)
        if len(kept) == len(self._numbers):
            return
        self._numbers = {self.name(number): number for number in kept}
        length = max(kept, default=-1) + 1
        self._free = [number for number in reversed(range(length)) if number not in kept]
        del self._names[length:]
        for number in self._free:
            self._names[number] = None

    def copy(self) -> "Numbering[_Name]":
        """Return a numbering with the same names."""
        copied: Numbering[_Name] = Numbering()
        copied._numbers, copied._names = self._numbers.copy(), self._names.copy()
        copied._free = self._free.copy()
        return copied

    def _add(self, name: _Name) -> int:
        if self._free:
            number = self._free.pop()
            self._names[number] = name
        else:
            number = len(self._names)
            self._names.append(name)
        self._numbers[name] = number
        return number


class FlowPacker:
    """Packs flow keys into words, and unpacks them."""

    def __init__(self) -> None:
        self.interfaces: Numbering[str] = Numbering()
        self.namespaces: Numbering[int | None] = Numbering()

    def copy(self) -> "FlowPacker":
        """Return a packer with the same numbers of names."""
        copied = FlowPacker()
        copied.interfaces, copied.namespaces = self.interfaces.copy(), self.namespaces.copy()
        return copied

    def pack(self, flows: Iterable[FlowKey]) -> Keys:
        """Return the words of each flow."""
        packed = [
            _PACKED.pack(
                flow.protocol,
                len(flow.local_address),
                len(flow.remote_address),
                self.interfaces.number(flow.interface),
                flow.local_port,
                flow.remote_port,
                self.namespaces.number(flow.namespace),
                flow.local_address,
                flow.remote_address,
            )
            for flow in flows
        ]
        return np.frombuffer(b"".join(packed), np.uint64).reshape(-1, WORDS)

    def unpack(self, words: Keys) -> FlowKey:
        """Return the flow of one row of words."""
        return next(self.unpack_each(words))

    def unpack_each(self, words: Keys) -> Iterator[FlowKey]:
        """Yield the flow of each row of words."""
        interface_name, namespace_name = self.interfaces.name, self.namespaces.name
        for (
            protocol, local_size, remote_size, interface, local_port, remote_port, namespace,
            local_address, remote_address,
        ) in _PACKED.iter_unpack(words.tobytes()):  # fmt: skip
            yield FlowKey(
                protocol,
                local_address[:local_size],
                local_port,
                remote_address[:remote_size],
                remote_port,
                interface_name(interface),
                namespace_name(namespace),
            )
