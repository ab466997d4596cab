"""PURE: flows and their slots: which flow has which, what for, for how long, and room for more.

In: flows, as words or as flow keys, and what is known of them. Out: slots. A flow key is made for a
slot when one is asked for, and is the same object until the slot is freed.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys, move_rows, resize
from hogpipe.flows.packet_rows import Flags, Integers, Times
from hogpipe.flows.row_order import find_heads
from hogpipe.model import OWN_NAMESPACE, FlowKey

_MAX_FOLDS = 4096
_EVICT_SECONDS, _CROWDED_SECONDS = 15.0, 1.0
# Flows are evicted when they were idle for longer.
_IDLE, _IDLE_UNOWNED = 60.0, 15.0
_CROWDED_IDLE, _CROWDED_IDLE_UNOWNED = 15.0, 2.0


class FlowSlots:
    """At most `max_flows` flows, and sums of flows beside them; see FlowTable."""

    def __init__(self, max_flows: int) -> None:
        self.packer = FlowPacker()
        self._index = KeyIndex(WORDS, max_flows + _MAX_FOLDS)
        self._flows: dict[int, FlowKey] = {}
        self._slots: dict[FlowKey, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    @property
    def capacity(self) -> int:
        """The number of slots, free ones included."""
        return self._index.capacity

    @property
    def named(self) -> int:
        """The number of slots for which flow keys were made."""
        return len(self._flows)

    @property
    def is_used(self) -> Flags:
        """Whether a slot is that of a flow."""
        return self._index.is_used

    def words(self, slots: Integers) -> Keys:
        """Return the words of the flows that have these slots."""
        return self._index.keys.take(slots, axis=0)

    def find(self, words: Keys) -> Integers:
        """Return the slot of each flow, ABSENT of those without one."""
        return self._index.find(words).astype(np.int64)

    def add(self, words: Keys, most: int) -> tuple[Integers, Integers]:
        """Give slots to flows without one; return the slot of each row, and the slots in order.

        `words` may have a flow more than once. No more than `most` flows get slots, in the order of
        first appearance; the others have ABSENT.
        """
        if len(words) <= most:
            found, rows = self._index.add_new(words)
            slots = found.astype(np.int64)
            return slots, slots.take(rows)
        heads = find_heads(words)[: max(0, most)]
        added = self._index.add(words.take(heads, axis=0)).astype(np.int64)
        return self.find(words), added

    def add_sums(self, words: Keys) -> tuple[Integers, Integers]:
        """Give slots to sums without one, as `add` does; few can have slots."""
        return self.add(words, self._index.room)

    def remove(self, slots: Integers) -> list[FlowKey]:
        """Free slots; return the flow keys that were made for them."""
        named = np.fromiter(self._flows, np.int64, len(self._flows))
        removed = [self._flows.pop(slot) for slot in named[np.isin(named, slots)].tolist()]
        for flow in removed:
            del self._slots[flow]
        if len(removed) > len(self._flows):  # a dict never shrinks
            self._flows, self._slots = dict(self._flows), dict(self._slots)
        self._index.remove(slots.astype(np.int32))
        return removed

    def compact(self) -> tuple[Integers, Integers]:
        """Move flows from high slots to low ones; see `KeyIndex.compact`."""
        vacated, taken = (slots.astype(np.int64) for slots in self._index.compact())
        for before, after in zip(vacated.tolist(), taken.tolist(), strict=True):
            flow = self._flows.pop(before, None)
            if flow is not None:
                self._flows[after], self._slots[flow] = flow, after
        return vacated, taken

    def drop_names(self) -> None:
        """Drop names of interfaces and namespaces that no flow has.

        Words of flows without a slot, made before, may have numbers of other names afterwards.
        """
        parts = self._index.keys[self.is_used].view(FLOW_WORDS)[:, 0]
        self.packer.interfaces.keep(np.unique(parts["interface"]).tolist())
        self.packer.namespaces.keep(np.unique(parts["namespace"]).tolist())

    def flows_of(self, slots: Integers) -> list[FlowKey]:
        """Return the flow key of each slot."""
        numbers = slots.tolist()
        missing = [slot for slot in numbers if slot not in self._flows]
        made = self.packer.unpack_each(self._index.keys.take(missing, axis=0)) if missing else ()
        for slot, flow in zip(missing, made, strict=True):
            self._flows[slot], self._slots[flow] = flow, slot
        return [self._flows[slot] for slot in numbers]

    def slot_of(self, flow: FlowKey) -> int | None:
        """Return the slot of a flow that `flows_of` or `slots_of` made known as an object."""
        return self._slots.get(flow)

    def find_named(self, flows: Iterable[FlowKey]) -> Integers:
        """Return the slot of each flow as `slot_of` does, ABSENT of those without one."""
        slots = self._slots
        return np.array([slots.get(flow, ABSENT) for flow in flows], np.int64)

    def slots_of(self, flows: Sequence[FlowKey]) -> Integers:
        """Return the slots of distinct flows, which get slots if they have none."""
        words = self.packer.pack(flows)
        found = self.find(words)
        missing = np.flatnonzero(found == ABSENT)
        if len(missing):
            found[missing], _ = self.add(words[missing], len(missing))
        for flow, slot in zip(flows, found.tolist(), strict=True):
            self._flows[slot], self._slots[flow] = flow, slot
        return found


class SlotUse:
    """Columns for as many slots as `fit` was called with; see FlowTable for the bounds."""

    def __init__(self, max_flows: int, max_unowned: int) -> None:
        self._max_flows, self._max_unowned = max_flows, max_unowned
        self.is_sum: Flags = np.zeros(0, np.bool_)
        """Whether a slot is that of a sum of flows, to which no attribution belongs."""
        self.is_judged: Flags = np.zeros(0, np.bool_)
        """Whether the attribution of a flow is known, be it that it has no owner."""
        self._flows = self._unjudged = 0
        """The number of flows that have slots, and of those without an attribution."""
        self.used_at: Times = np.zeros(0, np.float64)
        self.begins: Integers = np.zeros((0, 2), np.int64)
        """As `FlowSums.begins`, of those that are recorded; else 0."""
        self.ids: Integers = np.zeros(0, np.int64)
        self._next_id = 0

    @property
    def room(self) -> int:
        """How many flows without an attribution can get slots."""
        return min(self._max_flows - self._flows, self._max_unowned - self._unjudged)

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self.is_sum, self.is_judged = resize(self.is_sum, size), resize(self.is_judged, size)
        self.used_at, self.ids = resize(self.used_at, size), resize(self.ids, size)
        self.begins = resize(self.begins, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        columns = self.is_sum, self.is_judged, self.used_at, self.ids, self.begins
        move_rows(vacated, taken, *columns)

    def start(self, slots: Integers, now: float) -> None:
        """Set the columns of new slots, which are those of flows without an attribution."""
        self._flows += len(slots)
        self._unjudged += len(slots)
        self.is_sum[slots] = self.is_judged[slots] = False
        self.used_at[slots] = now
        self.begins[slots] = 0
        self.ids[slots] = np.arange(self._next_id, self._next_id + len(slots))
        self._next_id += len(slots)

    def record_begins(self, slots: Integers, opened: Flags, first_ns: Integers) -> None:
        """Record when flows begin: with each SYN, else with their first packet."""
        syns = np.flatnonzero(opened)
        syns = syns[first_ns[syns].argsort(kind="stable")]
        at, times = slots[syns], first_ns[syns]
        is_first = self.begins[at, 1] == 0
        # Of several rows of a slot, the last one that is written stays.
        self.begins[at[is_first][::-1], 1] = times[is_first][::-1]
        self.begins[at, 0] = times
        others = np.flatnonzero(~opened & (self.begins[slots, 0] == 0))
        others = others[first_ns[others].argsort(kind="stable")[::-1]]
        self.begins[slots[others], 0] = -first_ns[others]

    def take_begins(self, slots: Integers) -> Integers:
        """Return the begins of flows that are drained: what they move next is of the last one."""
        taken = self.begins[slots]
        taken[:, 1] = np.where(taken[:, 1] == 0, taken[:, 0], taken[:, 1])
        self.begins[slots, 1] = 0
        return taken

    def make_sums(self, slots: Integers) -> None:
        """Take new slots for those of sums, which take no room of flows."""
        self.is_sum[slots] = True
        self._flows -= len(slots)
        self._unjudged -= len(slots)

    def judge(self, slots: Integers) -> None:
        """Record that the attributions of distinct flows are known."""
        self._unjudged -= int(np.count_nonzero(~self.is_judged[slots]))
        self.is_judged[slots] = True

    def free(self, slots: Integers) -> None:
        """Record that these slots are free."""
        are_flows = ~self.is_sum[slots]
        self._flows -= int(np.count_nonzero(are_flows))
        self._unjudged -= int(np.count_nonzero(are_flows & ~self.is_judged[slots]))

    def find_oldest(self, stays: Flags) -> Integers:
        """Return all slots but those that stay; the one that was used longest ago comes first."""
        unused = np.flatnonzero(~stays)
        return unused[self.used_at[unused].argsort(kind="stable")]


class EvictionSchedule:
    """When a source evicts idle flows, in seconds of the table's clock."""

    def __init__(self) -> None:
        self.due_at = 0.0

    def hasten(self, now: float) -> None:
        """Evict soon, as there was no room for a flow."""
        self.due_at = min(self.due_at, now + _CROWDED_SECONDS)

    def end(self, now: float, *, is_crowded: bool) -> None:
        """Have flows evicted again after a while, sooner if the table is crowded."""
        self.due_at = now + (_CROWDED_SECONDS if is_crowded else _EVICT_SECONDS)


def choose_idle_limits(*, is_crowded: bool) -> tuple[float, float]:
    """Return for how long flows may be idle, and those without an owner, in seconds."""
    return (_CROWDED_IDLE, _CROWDED_IDLE_UNOWNED) if is_crowded else (_IDLE, _IDLE_UNOWNED)


def fold_words(words: Keys, packer: FlowPacker) -> Keys:
    """Return the words of the sums that flows are folded into (`fold_key` in model/flows.py)."""
    parts = words.view(FLOW_WORDS)[:, 0]
    folded = np.zeros(len(words), FLOW_WORDS)
    for name in ("protocol", "address_size", "interface"):
        folded[name] = parts[name]
    folded["namespace"] = packer.namespaces.number(OWN_NAMESPACE)
    return folded.view(np.uint64).reshape(len(words), WORDS)
