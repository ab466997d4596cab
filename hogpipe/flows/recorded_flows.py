"""PURE: flows of a host that does not change: their attributions, and which of them begin.

In: what is recorded of the host, flows as words, and packets by slot. Out: the numbers of owners,
as far as they are recorded, and a count of flows. FlowTable has the lock.
"""

from typing import Protocol

import numpy as np

from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import ABSENT, Keys, resize
from hogpipe.flows.lanes import LaneOwners
from hogpipe.flows.packet_rows import Flags, Integers, PacketRows, Times
from hogpipe.model import Attribution, owner_at


class RecordedAttributions(Protocol):
    """Called by the thread of the source, with the lock of the table."""

    def find(self, words: Keys, packer: FlowPacker, /) -> Integers:
        """Return the number of each flow's attribution, ABSENT for a flow that is to be looked up.

        Takes FLOW_WORDS of `packer`.
        """

    def attribution(self, number: int, /) -> Attribution:
        """Return the attribution that has a number."""


def find_owners(
    recorded: RecordedAttributions, words: Keys, packer: FlowPacker, owners: LaneOwners, now: float
) -> tuple[Integers, Times]:
    """Return the number in `owners` of each flow's owner `now`, and until when it is the owner.

    The number is ABSENT for a flow that is to be looked up.
    """
    numbers = recorded.find(words, packer)
    distinct = np.flatnonzero(np.bincount(numbers + 1))  # with one place more, for ABSENT
    lanes, due_at = (
        np.full(int(distinct[-1]) + 1, ABSENT, np.int64),
        np.zeros(int(distinct[-1]) + 1),
    )
    for place in distinct[distinct > 0].tolist():
        attribution, due_at[place] = owner_at(recorded.attribution(place - 1), now)
        lanes[place] = owners.number(attribution)
    return lanes[numbers + 1], due_at[numbers + 1]


class BegunFlows:
    """How many flows begin of those with a recorded attribution.

    A flow begins with its first packet and with each SYN, as for the attribution stage. Columns for
    as many slots as `fit` was called with.
    """

    def __init__(self) -> None:
        self._is_new: Flags = np.zeros(0, np.bool_)
        """Whether no packets of a flow were counted."""
        self._marks: Flags = np.zeros(0, np.bool_)
        self._begun = 0

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self._is_new, self._marks = resize(self._is_new, size), resize(self._marks, size)

    def start(self, slots: Integers) -> None:
        """Set the columns of new slots of such flows."""
        self._is_new[slots] = True

    def count(self, rows: PacketRows, is_recorded: Flags) -> None:
        """Count the flows that begin with packets; `is_recorded` is of packets."""
        begins = self._is_new[rows.slots]
        begins |= rows.opened & is_recorded
        began = rows.slots[begins]
        self._is_new[began] = False
        self._marks[began] = True
        self._begun += int(np.count_nonzero(self._marks))
        self._marks[began] = False

    def drain(self) -> int:
        """Return how many flows began since the last call."""
        begun, self._begun = self._begun, 0
        return begun
