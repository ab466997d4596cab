"""PURE: the wire table: for each wire key the slots of its flows in the flow table.

In: packets of all interfaces, as columns. Out: `PacketRows`, a row for each local side of a packet,
and the counts of packets without one.

Algorithm
    All keys are found in one index. New ones are oriented (`wire_interfaces.py`), their flows get
    slots, and the keys are remembered with the slots of their transmitter and their receiver, or
    NOT_LOCAL.

Eviction
    Flows without packets are evicted from the flow table here, and the keys of freed slots are
    dropped; so are keys without a local side that are idle (`EvictionSchedule`). Where more than a
    `_BUSY_SHARE`-th of the slots is used in a live run, as after a flood, flows with owners stay no
    longer than those without. Flows and keys that are left in high slots move to low ones then, so
    that columns can shrink.

Bounds
    Keys of folded flows are not remembered, and neither are further ones when the index is full:
    they are oriented again with each packet. So a flood of flows costs time and no memory.

Replays
    No flow of a replay is folded because the table is full: flows that were used longest ago are
    evicted instead (`FlowTable.make_room`). For that the table has a reserve, the packets of one
    call are at most `max_packets`, and a table that is crowded is drained before they are counted.
"""

import numpy as np

from hogpipe.capture.decode.wire_packets import WIRE_KEY, WIRE_WORDS, WirePackets
from hogpipe.capture.vector_orientation import NOT_LOCAL
from hogpipe.capture.wire_interfaces import Sides, WireInterfaces, no_sides
from hogpipe.flows.flow_slots import EvictionSchedule, choose_idle_limits
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys, Rows, Slots, move_rows, resize
from hogpipe.flows.packet_rows import RECEIVE, Flags, Integers, PacketRows, Times
from hogpipe.flows.row_order import find_groups
from hogpipe.model import CaptureCounts

_KEYS_PER_FLOW = 4
_BUSY_SHARE = 4
_SAMPLE = 64  # keys


class WireTable:
    """The keys of all captured interfaces, for one thread; the flows are those of `table`."""

    def __init__(self, table: FlowTable) -> None:
        self.interfaces = WireInterfaces()
        self.max_packets = max(1, (table.reserve - 1) // 2)
        """So many packets have room in a replay, whatever their flows are."""
        self._table = table
        self._index = KeyIndex(WIRE_WORDS, _KEYS_PER_FLOW * table.max_flows)
        self._slots = no_sides(0)
        self._used_at: Times = np.zeros(0, np.float64)
        """Of keys without a local side."""
        self._eviction = EvictionSchedule()
        self.new_key_at = 0.0
        """When a packet with a key that was not remembered was located last."""
        self._fit()

    def __len__(self) -> int:
        return len(self._index)

    def locate(self, packets: WirePackets, counts: CaptureCounts, now: float) -> PacketRows | None:
        """Return the local sides of packets, which came in `now`; None if there are none.

        Adds packets without a local side, with two, and of folded flows to `counts`. The numbers of
        closed interfaces are free afterwards.
        """
        self._drop_changed()
        rows = self._locate(packets, counts, now) if len(packets) else None
        self.interfaces.free_closed()
        return rows

    def find_sides(self, keys: Keys) -> Sides:
        """Return the slots of keys that were located; NOT_LOCAL also for those not remembered."""
        found = self._index.find(keys)
        is_unknown = found == ABSENT
        sides = Sides(self._slots.transmitter.take(found), self._slots.receiver.take(found))
        sides.transmitter[is_unknown] = sides.receiver[is_unknown] = NOT_LOCAL
        return sides

    def _locate(self, packets: WirePackets, counts: CaptureCounts, now: float) -> PacketRows | None:
        found = self._index.find(packets.keys)
        missing = (found == ABSENT).nonzero()[0]
        if not len(missing):
            slots = Sides(self._slots.transmitter.take(found), self._slots.receiver.take(found))
            return self._make_rows(packets, found, slots, counts, now)
        self.new_key_at = now
        heads, places = _group(packets.keys.take(missing, axis=0))
        keys = packets.keys.take(missing[heads], axis=0)
        namespaces = self.interfaces.orient(keys)
        self.interfaces.report_unknown(keys, namespaces)
        if self.interfaces.changed:
            self._drop_changed()
            found = self._index.find(packets.keys)
            missing = (found == ABSENT).nonzero()[0]
            heads, places = _group(packets.keys.take(missing, axis=0))
            keys = packets.keys.take(missing[heads], axis=0)
            namespaces = self.interfaces.orient(keys)
        slots = Sides(self._slots.transmitter.take(found), self._slots.receiver.take(found))
        slots.transmitter[missing] = slots.receiver[missing] = NOT_LOCAL
        new, is_folded = self._give_slots(keys, namespaces, slots, now)
        slots.transmitter[missing] = new.transmitter.take(places)
        slots.receiver[missing] = new.receiver.take(places)
        folds = is_folded.any(axis=0)
        if folds.any():
            self._eviction.hasten(now)
            for side in is_folded:
                counts.overflowed.add(packets.total(missing[side.take(places)]))
            keys, new = keys[~folds], Sides(new.transmitter[~folds], new.receiver[~folds])
        self._remember(keys, new, now)
        return self._make_rows(packets, found, slots, counts, now)

    def _make_rows(
        self,
        packets: WirePackets,
        found: Slots,
        slots: Sides,
        counts: CaptureCounts,
        now: float,
    ) -> PacketRows | None:
        transmits, receives = slots.transmitter >= 0, slots.receiver >= 0
        if (transmits != receives).all():  # each packet has one local side
            return PacketRows(
                np.maximum(slots.transmitter, slots.receiver),
                receives * np.int64(RECEIVE),
                packets.bytes,
                packets.packets,
                packets.opened,
                packets.first_ns,
                packets.last_ns,
            )
        if np.count_nonzero(transmits) == np.count_nonzero(receives) == len(packets):
            counts.both_sides.add(packets.total())
            return _take_both_sides(packets, slots)
        counts.both_sides.add(packets.total(transmits & receives))
        neither = ~(transmits | receives)
        if neither.any():
            counts.not_local.add(packets.total(neither))
            known = found[neither]
            self._used_at[known[known != ABSENT]] = now
        senders, receivers = transmits.nonzero()[0], receives.nonzero()[0]
        at = np.concatenate([senders, receivers])
        if not len(at):
            return None
        direction = np.zeros(len(at), np.int64)
        direction[len(senders) :] = RECEIVE
        return PacketRows(
            np.concatenate([slots.transmitter[senders], slots.receiver[receivers]]),
            direction,
            packets.bytes[at],
            packets.packets[at],
            packets.opened[at],
            packets.first_ns[at],
            packets.last_ns[at],
        )

    def _give_slots(
        self, keys: Keys, namespaces: Sides, in_use: Sides, now: float
    ) -> tuple[Sides, Flags]:
        """Return the slots of each key's sides, and which sides are folded, of shape (2, n)."""
        slots, is_folded = no_sides(len(keys)), np.zeros((2, len(keys)), np.bool_)
        senders = np.flatnonzero(namespaces.transmitter != NOT_LOCAL)
        receivers = np.flatnonzero(namespaces.receiver != NOT_LOCAL)
        if not len(senders) and not len(receivers):
            return slots, is_folded
        make_words, table = self.interfaces.make_words, self._table
        with table.lock:  # a name has its number as long as a flow has it
            sent = make_words(
                keys.take(senders, axis=0),
                namespaces.transmitter[senders],
                table.packer,
                receives=False,
            )
            received = make_words(
                keys.take(receivers, axis=0),
                namespaces.receiver[receivers],
                table.packer,
                receives=True,
            )
            words = np.concatenate([sent, received])
            if table.reserve:
                self._drop_slots(table.make_room(words, np.concatenate(in_use)))
            given, folded = table.give_slots(words, now)
        cut = [len(senders)]
        slots.transmitter[senders], slots.receiver[receivers] = np.split(given, cut)
        is_folded[0, senders], is_folded[1, receivers] = np.split(folded, cut)
        return slots, is_folded

    def _remember(self, keys: Keys, slots: Sides, now: float) -> None:
        """Add keys, which may be there more than once, as far as there is room."""
        if len(keys) > self._index.room:
            heads, _ = find_groups(keys)
            if len(heads) > self._index.room:
                self._eviction.hasten(now)
            heads = heads[: self._index.room]
            keys = keys.take(heads, axis=0)
            slots = Sides(slots.transmitter.take(heads), slots.receiver.take(heads))
        if not len(keys):
            return
        found, heads = self._index.add_new(keys)
        added = found.take(heads)
        self._fit()
        self._slots.transmitter[added] = slots.transmitter.take(heads)
        self._slots.receiver[added] = slots.receiver.take(heads)
        self._used_at[added] = now

    # Eviction

    def seconds_until_due(self, now: float) -> float | None:
        """Return how long `evict` has nothing to do; None until further packets are located."""
        if not self._index and len(self._table) <= 1:  # the slot of UNKNOWN_FLOW
            return None
        return max(0.0, self._eviction.due_at - now)

    def evict(self, now: float) -> None:
        """Evict flows and keys that are idle, if that is due."""
        if now < self._eviction.due_at:
            return
        is_crowded = self._table.is_crowded or not self._index.room
        idle, idle_unowned = choose_idle_limits(is_crowded=is_crowded)
        is_busy = _BUSY_SHARE * len(self._table) > self._table.max_flows
        if is_busy and not is_crowded and not self._table.reserve:
            idle = idle_unowned
        self._drop_slots(self._table.evict(now, idle=idle, idle_unowned=idle_unowned))
        is_local = (self._slots.transmitter >= 0) | (self._slots.receiver >= 0)
        self._drop_keys(~is_local & (now - self._used_at > idle_unowned))
        if not self._table.reserve:
            self._compact()
        self.interfaces.drop_unused_numbers()
        self._eviction.end(now, is_crowded=is_crowded)

    def _compact(self) -> None:
        """Move what is left in high slots to low ones, in both tables."""
        vacated, taken = self._table.compact()
        if len(vacated):
            for slots in self._slots:
                slots[:] = _follow(slots, vacated, taken)
        vacated_keys, taken_keys = self._index.compact()
        if len(vacated_keys):
            move_rows(vacated_keys, taken_keys, *self._slots, self._used_at)
            self._fit()

    def _drop_slots(self, freed: Integers) -> None:
        """Drop the keys of freed slots."""
        if not len(freed) or not self._index:
            return
        transmitter, receiver = self._slots
        is_freed = np.zeros(max(freed.max(), transmitter.max(), receiver.max()) + 2, np.bool_)
        is_freed[freed] = True  # the last row, that of NOT_LOCAL, stays false
        self._drop_keys(is_freed.take(transmitter) | is_freed.take(receiver))

    def _drop_changed(self) -> None:
        """Drop the keys of changed interfaces."""
        if not self.interfaces.changed:
            return
        numbers = self._index.keys.view(WIRE_KEY)[:, 0]["interface"]
        self._drop_keys(np.isin(numbers, list(self.interfaces.changed)))
        self.interfaces.changed.clear()

    def _drop_keys(self, rows: Flags) -> None:
        dropped = np.flatnonzero(rows & self._index.is_used)
        if len(dropped):
            self._index.remove(dropped.astype(np.int32))
            self._fit()

    def _fit(self) -> None:
        """Give all columns as many rows as the index has slots."""
        size = self._index.capacity
        if size != len(self._used_at):
            self._slots = Sides(*(resize(column, size) for column in self._slots))
            self._used_at = resize(self._used_at, size)


def _follow(slots: Integers, vacated: Integers, taken: Integers) -> Integers:
    """Return slots with those that were vacated replaced by those taken instead; or NOT_LOCAL."""
    places = np.arange(max(slots.max(initial=0), vacated.max()) + 2)
    places[vacated] = taken
    places[NOT_LOCAL] = NOT_LOCAL  # the last row
    return places.take(slots)


def _take_both_sides(packets: WirePackets, slots: Sides) -> PacketRows:
    """Return the rows of packets that all have two local sides: loopback as a rule."""
    direction = np.zeros(2 * len(packets), np.int64)
    direction[len(packets) :] = RECEIVE
    return PacketRows(
        np.concatenate(slots),
        direction,
        np.concatenate([packets.bytes, packets.bytes]),
        np.concatenate([packets.packets, packets.packets]),
        np.concatenate([packets.opened, packets.opened]),
        np.concatenate([packets.first_ns, packets.first_ns]),
        np.concatenate([packets.last_ns, packets.last_ns]),
    )


def _group(keys: Keys) -> tuple[Rows, Rows]:
    """Return rows of which each is oriented, and for each row the place of its own among those.

    Those are the first ones of different keys, or all rows where few keys come again: to find out
    costs as much as to orient them.
    """
    if len(keys) > _SAMPLE and 4 * len(find_groups(keys[:_SAMPLE])[0]) > 3 * _SAMPLE:
        rows = np.arange(len(keys))
        return rows, rows
    return find_groups(keys)
