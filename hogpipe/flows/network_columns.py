"""PURE: the named network of each address, by the rule of model/networks.py, in columns.

In: columns of addresses as two words each, and what networks there are. Out: a column with the
numbers of their names. Property tests compare it with `Networks.find`.

Algorithm
    Prefixes are nested or disjoint, so they divide the addresses into intervals, of each of which
    one network has the longest prefix. The intervals are made once; a binary search finds that of
    each address.
"""

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Integers
from hogpipe.model import Networks

_IPV4_BYTES, _IPV6_BYTES = 4, 16
_UNNUMBERED = 0


class NetworkColumns:
    """The intervals of both families."""

    def __init__(self, networks: Networks) -> None:
        starts, numbers = _make_intervals(networks, _IPV4_BYTES)
        self._v4_starts = np.array(starts, np.uint32)
        self._v4_numbers = np.array(numbers, np.int64)
        starts, numbers = _make_intervals(networks, _IPV6_BYTES)
        self._v6_starts = np.frombuffer(b"".join(one.to_bytes(16) for one in starts), "S16")
        self._v6_numbers = np.array(numbers, np.int64)

    def find(self, sizes: NDArray[np.uint8], addresses: Keys) -> Integers:
        """Return the number of each address's network; 0 where the size is 0.

        A row of `addresses` has the bytes of a left-aligned address in network order.
        """
        found = np.zeros(len(sizes), np.int64)
        is_v4 = sizes == _IPV4_BYTES
        if is_v4.any():
            values = np.ascontiguousarray(addresses[is_v4, 0]).view(">u4")[::2]
            places = self._v4_starts.searchsorted(values.astype(np.uint32), "right") - 1
            found[is_v4] = self._v4_numbers[places]
        is_v6 = sizes == _IPV6_BYTES
        if is_v6.any():
            texts = np.ascontiguousarray(addresses[is_v6]).view("S16")[:, 0]
            places = self._v6_starts.searchsorted(texts, "right") - 1
            found[is_v6] = self._v6_numbers[places]
        return found


def _make_intervals(networks: Networks, size: int) -> tuple[list[int], list[int]]:
    """Return where intervals of addresses of `size` bytes begin, and the number of each."""
    starts, numbers = [0], [_UNNUMBERED]

    def begin(at: int, number: int) -> None:
        if starts[-1] == at:
            numbers[-1] = number  # a longer prefix comes later
        else:
            starts.append(at)
            numbers.append(number)

    open_prefixes: list[tuple[int, int]] = []  # where each ends, and its number
    for prefix in sorted(one for one in networks.numbers if one.size == size):
        while open_prefixes and open_prefixes[-1][0] <= prefix.start:
            end, _ = open_prefixes.pop()
            begin(end, open_prefixes[-1][1] if open_prefixes else _UNNUMBERED)
        begin(prefix.start, networks.numbers[prefix])
        open_prefixes.append((prefix.end, networks.numbers[prefix]))
    while open_prefixes:
        end, _ = open_prefixes.pop()
        if end < 1 << 8 * size:
            begin(end, open_prefixes[-1][1] if open_prefixes else _UNNUMBERED)
    return starts, numbers
