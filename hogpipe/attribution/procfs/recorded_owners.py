"""The attributions of flows by a recorded /proc, in columns: without a lookup for each flow.

In: flows as words. Out: for each flow the place of its attribution in a list. A recorded /proc does
not change, so the flows of a class (`recorded_sockets`) have one attribution, that of its sockets.

What may fail: where /proc cannot be read, flows of new classes have no attribution here. They are
looked up like those of a live run, and the classes are asked about again with the next flows.

Known limits: what is found here is no evidence for the endpoint heuristic. That needs sockets which
close, and none of a recorded /proc does.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from hogpipe.attribution.procfs.matching import Match
from hogpipe.attribution.procfs.recorded_sockets import RecordedSockets
from hogpipe.flows.flow_words import FlowPacker, Numbering
from hogpipe.flows.key_index import ABSENT, Keys
from hogpipe.flows.packet_rows import Integers
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey

Tables = Mapping[str, Sequence[SocketRow]]


class RecordedOwners:
    """For one thread at a time, which is in no lookup meanwhile.

    `read_tables` returns the rows of all tables, once. `attribute` returns the attribution of each
    match, None for one that is ambiguous. Both raise OSError.
    """

    def __init__(
        self,
        read_tables: Callable[[], Tables],
        attribute: Callable[[Mapping[FlowKey, Match]], Mapping[FlowKey, Attribution | None]],
    ) -> None:
        self._read_tables = read_tables
        self._attribute = attribute
        self._sockets: RecordedSockets | None = None
        self._attributions: Numbering[Attribution] = Numbering()
        self._by_class = np.array([self._attributions.number(UNATTRIBUTED)], np.int64)
        """The number of the attribution of each class, ABSENT as long as that is not known."""
        self._waiting: dict[FlowKey, tuple[int, Match]] = {}
        """A flow of each class without an attribution, with the number of the class."""

    def find(self, words: Keys, packer: FlowPacker) -> Integers:
        """Return the number of each flow's attribution, ABSENT for a flow that is to be looked up.

        Takes FLOW_WORDS of `packer`. The tables are read at the first call.
        """
        if self._sockets is None:
            try:
                self._sockets = RecordedSockets(self._read_tables())
            except OSError:  # the lookups of the flows meet the same and count as failed
                return np.full(len(words), ABSENT, np.int64)
        classes, begun = self._sockets.find(words, packer)
        if begun:
            numbers = range(len(self._by_class), len(self._by_class) + len(begun))
            waiting = zip(numbers, begun.values(), strict=True)
            self._waiting.update(zip(begun, waiting, strict=True))
            self._by_class = np.concatenate([self._by_class, np.full(len(begun), ABSENT)])
        if self._waiting:
            self._attribute_waiting()
        return np.where(classes == ABSENT, ABSENT, self._by_class[classes])

    def attribution(self, number: int) -> Attribution:
        """Return the attribution that has a number."""
        return self._attributions.name(number)

    def _attribute_waiting(self) -> None:
        with suppress(OSError):  # as above
            found = self._attribute({flow: match for flow, (_, match) in self._waiting.items()})
            for flow, (number, _) in self._waiting.items():
                attribution = found[flow] or UNATTRIBUTED
                self._by_class[number] = self._attributions.number(attribution)
            self._waiting.clear()
