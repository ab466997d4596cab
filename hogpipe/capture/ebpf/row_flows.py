"""PURE: the flows of rows, as the words of the flow table.

In: the endpoints of rows and their network namespaces. Out: words (`flow_words.FLOW_WORDS`) with
the numbers that a packer has for names. Rows that are of no flow have the words of UNKNOWN_FLOW. A
property test compares them with flow keys that are made one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker
from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Flags
from hogpipe.linux.bpf.shapes import ENDPOINTS
from hogpipe.linux.bpf.traffic_rows import AF_INET, PROTOCOL_BYTE, Rows
from hogpipe.model import OWN_NAMESPACE

_ADDRESSES = slice(0, 4)
_FLOW_ADDRESSES = slice(2, 6)
"""The words of both addresses, in endpoints and in flows."""
_IPV4 = np.tile(np.frombuffer(b"\xff" * 4 + bytes(12), np.uint64), 2)
"""The mask that leaves what both addresses have of IPv4."""
_IPV4_BYTES, _IPV6_BYTES = 4, 16


@dataclass(frozen=True, slots=True, eq=False)
class RowFlows:
    """A flow for each row."""

    words: Keys
    """Without the numbers of names."""
    places: NDArray[np.intp]
    """The place of each flow's network namespace in `namespaces`."""
    namespaces: Sequence[int | None]

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Flags) -> "RowFlows":
        """Return these rows."""
        return RowFlows(self.words[rows], self.places[rows], self.namespaces)

    def pack(self, packer: FlowPacker) -> Keys:
        """Return the words with the numbers that `packer` has for names."""
        words = self.words.copy()
        parts = words.view(FLOW_WORDS)[:, 0]
        parts["interface"] = packer.interfaces.number("")
        numbers = np.array([packer.namespaces.number(one) for one in self.namespaces], np.int64)
        parts["namespace"] = numbers[self.places]
        return words


def have_endpoints(rows: Rows) -> Flags:
    """Return which rows are of one flow; those of an overflow are of a process."""
    return np.asarray(rows["endpoints"][:, PROTOCOL_BYTE // 8] != 0)


def make_row_flows(
    rows: Rows, places: NDArray[np.intp], namespaces: Sequence[int | None]
) -> RowFlows:
    """Return the flows of rows in these network namespaces."""
    raw = np.ascontiguousarray(rows["endpoints"])
    endpoints = raw.view(ENDPOINTS).ravel()
    is_ipv4, is_known = endpoints["family"] == AF_INET, endpoints["family"] != 0
    flows = np.zeros(len(rows), FLOW_WORDS)
    sizes = np.where(is_ipv4, _IPV4_BYTES, _IPV6_BYTES)
    flows["address_size"] = flows["remote_size"] = sizes
    for name in ("protocol", "local_port", "remote_port"):
        flows[name] = endpoints[name]
    words = flows.view(np.uint64).reshape(-1, WORDS)
    words[:, _FLOW_ADDRESSES] = raw[:, _ADDRESSES]
    words[is_ipv4, _FLOW_ADDRESSES] &= _IPV4
    if not is_known.all():
        words[~is_known] = 0
        namespaces = [*namespaces, OWN_NAMESPACE]
        places = np.where(is_known, places, len(namespaces) - 1)
    return RowFlows(words, places, namespaces)
