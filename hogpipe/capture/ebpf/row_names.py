"""PURE: rows as the flows whose peers have names, with what is known of when they began.

In: the rows of an epoch with their owners, and the times of the epochs. Out: `FlowsToName`.

A connection begins in the epoch of its first row, or in the one before if that was carried over,
and not before its socket was created. It is assumed to begin before the maps are swapped, which
takes a moment, if its socket was created before that. Other flows have no first row that is marked,
so each one that is not known yet is taken for one that begins in this epoch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from hogpipe.capture.ebpf.owner_groups import group_owners
from hogpipe.capture.ebpf.row_flows import make_row_flows
from hogpipe.enrichment.flow_names import FlowsToName
from hogpipe.flows.flow_words import FLOW_WORDS, FlowPacker
from hogpipe.flows.packet_rows import Flags, FlowNaming
from hogpipe.linux.bpf.shapes import FRESH
from hogpipe.linux.bpf.traffic_rows import RowOwner, Rows, decode_owners
from hogpipe.model import UNATTRIBUTED, Attribution, Quality
from hogpipe.protocols import TCP

Attribute = Callable[[RowOwner, Quality], Attribution]


class EpochTimes(NamedTuple):
    """When the epochs of rows began and ended, nanoseconds since the epoch (of the clock)."""

    begin_ns: int = 0
    """The begin of the one before, some of whose rows were carried over."""
    ending_ns: int = 0
    end_ns: int = 0
    """When the last one began to end, and when it had ended."""
    booted_ns: int = 0
    """When the host booted."""


UNKNOWN_TIMES = EpochTimes()


class RowNamer(Protocol):
    """Finds the names of flows."""

    def name(self, flows: FlowsToName) -> FlowNaming:
        """Return the names of the flows' peers."""


def make_rows_to_name(
    rows: Rows, exited: Flags, attribute: Attribute, times: EpochTimes
) -> FlowsToName:
    """Return the flows of rows."""
    owners = group_owners(rows, exited)
    packer = FlowPacker()
    flows = make_row_flows(rows, np.zeros(len(rows), np.intp), [None])
    words = flows.pack(packer)
    is_tcp = words.view(FLOW_WORDS)[:, 0]["protocol"] == TCP
    begins = ~is_tcp | (rows["flags"] & FRESH != 0)
    used_ns = rows["boot_ns"].astype(np.int64) + times.booted_ns
    earliest_ns = np.clip(used_ns, times.begin_ns, times.end_ns)
    return FlowsToName(
        words,
        rows["cookie"].astype(np.int64),
        np.where(begins, earliest_ns, 0),
        np.where(begins, np.maximum(earliest_ns, times.ending_ns), 0),
        owners.numbers,
        _attribute_each(decode_owners(owners.firsts), attribute),
    )


def _attribute_each(owners: Sequence[RowOwner], attribute: Attribute) -> list[Attribution]:
    return [attribute(one, Quality.EXACT) if one.pid else UNATTRIBUTED for one in owners]
