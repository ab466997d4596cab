"""PURE: the owners of flows, and the local endpoints of flows without connections, as columns.

In: attributions and endpoints, each of which gets a number. Out: for many flows at once, whether an
attribution still holds by what is known of its owner's life and of its endpoint's pauses.
"""

from collections.abc import Hashable

import numpy as np

from hogpipe.flows.flow_words import Numbering
from hogpipe.flows.key_index import resize
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import UNATTRIBUTED, Attribution

PAUSE_NS = 500_000_000
"""A flow without connections is looked up after a longer pause of its endpoint; packets of one
batch are summed for less than this."""
NO_ENDPOINT = -1
UNOWNED = 0
"""The number of UNATTRIBUTED."""
_CAPACITY = 64


class LaneOwners:
    """Attributions by number."""

    def __init__(self) -> None:
        self._numbering: Numbering[Attribution] = Numbering()
        self.is_watched: Flags = np.zeros(_CAPACITY, np.bool_)
        """Whether the owner lives and its exit will be noticed, as far as that can be."""
        self.number(UNATTRIBUTED)

    def __len__(self) -> int:
        return len(self._numbering)

    def __contains__(self, attribution: Attribution) -> bool:
        return self._numbering.find(attribution) is not None

    def number(self, attribution: Attribution) -> int:
        """Return the number of an attribution."""
        before = len(self._numbering)
        number = self._numbering.number(attribution)
        if len(self._numbering) > before:
            if number >= len(self.is_watched):
                self.is_watched = resize(self.is_watched, 2 * number)
            self.is_watched[number] = attribution.process is None
        return number

    def attribution(self, number: int) -> Attribution:
        """Return the attribution that has a number."""
        return self._numbering.name(number)

    def find_distinct(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Return the different ones of these numbers, and the place of each among those."""
        is_there = np.zeros(len(self.is_watched), np.bool_)
        is_there[numbers] = True
        return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[numbers]

    def keep(self, numbers: Integers) -> None:
        """Drop the attributions without these numbers, but for UNATTRIBUTED."""
        self._numbering.keep({UNOWNED, *numbers.tolist()})


class Endpoints:
    """When packets of local endpoints passed last, by number; nanoseconds since the epoch."""

    def __init__(self) -> None:
        self._numbering: Numbering[Hashable] = Numbering()
        self.last_ns: Integers = np.zeros(_CAPACITY, np.int64)
        self._marks: Flags = np.zeros(_CAPACITY, np.bool_)

    def number(self, endpoint: Hashable, last_ns: int) -> int:
        """Return the number of an endpoint, which has had a packet at `last_ns`."""
        before = len(self._numbering)
        number = self._numbering.number(endpoint)
        if number >= len(self.last_ns):
            self.last_ns = resize(self.last_ns, 2 * number)
            self._marks = resize(self._marks, 2 * number)
        is_new = len(self._numbering) > before
        self.last_ns[number] = last_ns if is_new else max(int(self.last_ns[number]), last_ns)
        return number

    def retire(self, number: int) -> None:
        """Leave a number to what has it: the endpoint gets another one when it is asked for."""
        self._numbering.rename(number, object())

    def find_paused(self, endpoints: Integers, first_ns: Integers) -> Flags:
        """Return which packets came after a pause of their endpoint.

        Those of one call are of one moment: if one of an endpoint came before a pause, none of
        them came after it.
        """
        paused = first_ns - self.last_ns[endpoints] > PAUSE_NS
        if paused.any():
            went_on = endpoints[~paused]
            self._marks[went_on] = True
            paused &= ~self._marks[endpoints]
            self._marks[went_on] = False
        return paused

    def record(self, endpoints: Integers, last_ns: Integers) -> None:
        """Record packets."""
        np.maximum.at(self.last_ns, endpoints, last_ns)

    def keep(self, numbers: Integers) -> None:
        """Drop the endpoints without these numbers; NO_ENDPOINT may be among them."""
        self._numbering.keep({*numbers.tolist()} - {NO_ENDPOINT})

    def __len__(self) -> int:
        return len(self._numbering)
