"""The flow table: flows in columns, and the fast lane on which known flows count.

In: flows to give slots, packets by slot, and the attributions that flows get. Out: the packets that
need a decision of the attribution stage; for each window the sums of all others.

Columns and slots
    A flow has a slot, an index into all columns, from its first packet until it is evicted. A
    `FlowKey` is made when one is asked for, so that a flow which needs none has none.

The fast lane
    The packets of a flow whose attribution surely holds are added up in its slot, and no other
    stage is asked. The lane is opened with the flow's attribution, and stays open until
    - the attribution is due for a comparison or a recheck,
    - a SYN opens a new connection,
    - the local endpoint of a flow without connections paused for longer than its sockets allow, or
      the owner of such a flow has exited, or is not watched yet, or
    - the attribution stage closes it.
    Then `count` closes the lane and returns the packets as deltas, for the attribution stage to
    judge one by one. All packets of a flow in one call go the same way.

    A lane that a SYN closed does not open before the attribution stage has received that SYN, so
    that no packet behind it is counted for the owner of the connection before. For that, calls of
    `count` have numbers, and the stage says which of them it has received.

Pending flows
    The packets of a flow that is looked up gather in its slot (`gather`), until the
    attribution stage takes them as one delta, before and after the lookup. A SYN ends that: it is
    returned, and what gathered before it is taken first.

Sums
    `add` takes what the attribution stage has judged, `drain` returns all that was counted and
    added, by flow and owner.

Invariants
    - Packets counted and added = packets drained + packets that are in slots. What has gathered is
      not counted yet.
    - What a slot has counted belongs to the owner of the slot. Whoever opens the lane for another
      owner leaves what was counted before to the former one.
    - A slot that has counted something is not freed before it is drained, nor one that has
      gathered something before that is taken.

Bounds
    At most `max_flows` flows have slots, a quarter of them before their first lookup. Further ones
    are folded: they share a slot that keeps the protocol, the address family and the interface, and
    that is unattributed (`fold_key` in model/flows.py). In a replay none is folded: the table has a
    reserve, and flows that were used longest ago make room (`make_room`).

Recorded hosts
    A replay with a recorded /proc has one state of the host, from which the attributions of flows
    follow (`recorded`). Their lanes are open from the first packet on, no SYN closes them, and no
    flow key is made for them. Packets from before the creation of the owner have none.

Threads
    The thread of the source gives slots, counts and evicts; the event loop opens lanes, adds and
    drains. Each method holds `lock`; whoever needs several of them at one moment holds it around.
    Slots are freed by `evict` and `make_room`, and exchanged by `compact`, only, which return them,
    so that the source, which knows slots by packet, can follow before it uses the table again.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from hogpipe.flows.endpoint_match import match_endpoints
from hogpipe.flows.flow_slots import FlowSlots, SlotUse, fold_words
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.health_columns import (
    FlowHealth,
    OwnedHealth,
    SlotHealth,
    add_health,
    make_health,
)
from hogpipe.flows.key_index import ABSENT, Keys, resize
from hogpipe.flows.lanes import UNOWNED, LaneOwners, Lanes, NewLane
from hogpipe.flows.packet_rows import (
    Counters,
    Flags,
    FlowSums,
    Health,
    Integers,
    PacketRows,
    Times,
    add_up,
    make_delta,
    split_at_syns,
)
from hogpipe.flows.recorded_flows import BegunFlows, RecordedAttributions, find_owners
from hogpipe.flows.row_order import count_distinct
from hogpipe.flows.slot_traffic import CountedTraffic, GatheredTraffic
from hogpipe.model import UNKNOWN_FLOW, Attribution, FlowDelta, FlowKey, TrafficCounts, is_sum

_NO_SLOTS = np.zeros(0, np.int64)
_MAX_ADDED = 4096
_MIN_OWNERS = 256
_OWNER_BITS = 32
_FEW = 12  # flows, for which a loop is cheaper than columns

_AddedRow = tuple[FlowKey, int, int, int, int, int]


class FlowTable:
    """At most `max_flows` flows, `max_unowned` of them without an attribution, be it to no owner.

    Times without a unit are seconds of one clock. `on_free` is called with the flows whose slots
    are freed, under `lock`. A table with less room than the `reserve` is crowded, and so is one
    with more than `max_named` flows of which flow keys were made, which take more memory.
    """

    def __init__(
        self,
        max_flows: int,
        max_unowned: int,
        on_free: Callable[[Sequence[FlowKey]], None] = lambda _flows: None,
        *,
        reserve: int = 0,
        max_named: float = np.inf,
    ) -> None:
        self.max_flows = max_flows
        self.reserve = reserve
        self.recorded: RecordedAttributions | None = None
        """The attributions of flows, where the host does not change."""
        self.records_begins = False
        """Whether it is recorded when flows begin, which the names of their peers depend on."""
        self._max_named = max_named
        self.lock = threading.RLock()
        self.on_free = on_free
        self._slots = FlowSlots(max_flows)
        self._use = SlotUse(max_flows, max_unowned)
        self._lanes = Lanes()
        self._counted = CountedTraffic()
        self._gathered = GatheredTraffic()
        self._health: FlowHealth | None = None
        """None as long as none was added: most hosts know none."""
        self._begun = BegunFlows()
        self._marks: Flags = np.zeros(0, np.bool_)
        self._added: list[_AddedRow] = []
        self._start_sums(self._slots.slots_of([UNKNOWN_FLOW]), np.inf)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def capacity(self) -> int:
        """The number of slots, free ones included."""
        return self._slots.capacity

    @property
    def owners(self) -> LaneOwners:
        """The attributions of flows, by number."""
        return self._lanes.owners

    @property
    def calls(self) -> int:
        """How often `count` returned packets."""
        return self._lanes.calls

    @property
    def packer(self) -> FlowPacker:
        """What makes words of flows for this table."""
        return self._slots.packer

    # What the thread of the source does

    def give_slots(self, words: Keys, now: float) -> tuple[Integers, Flags]:
        """Return the slot of each flow, and which were folded into a slot that they share.

        A flow without a slot gets one, if there is room.
        """
        with self.lock:
            found = self._slots.find(words)
            is_folded = np.zeros(len(words), np.bool_)
            missing = np.flatnonzero(found == ABSENT)
            if len(missing) and (room := self._use.room) > 0:
                found[missing], added = self._slots.add(words.take(missing, axis=0), room)
                self._start_recorded(self._start(added, now), now)
                missing = missing[found[missing] == ABSENT]
            if len(missing):
                is_folded[missing] = True
                found[missing] = self._find_folds(words[missing], now)
            return found, is_folded

    def give_sums(self, words: Keys, now: float) -> Integers:
        """Return for each flow the slot of the sum that it is folded into."""
        with self.lock:
            return self._find_folds(words, now)

    def split_connections(self, rows: PacketRows) -> list[PacketRows]:
        """Return rows in parts, to be counted one after the other: each flow has one connection.

        Of two connections in one part, which several processes may have, no owner can be found.
        """
        if not rows.opened.any():
            return [rows]
        with self.lock:
            opens = rows.opened & ~self._lanes.is_certain[rows.slots]
            opened = rows.slots[opens]
            self._marks[opened] = True
            at = self._marks[rows.slots].nonzero()[0]
            self._marks[opened] = False
        return split_at_syns(rows, opens, at)

    def may_be_known(self, rows: PacketRows) -> bool:
        """Return whether one of these flows has had an attribution, be it to no owner."""
        with self.lock:
            return bool(self._use.is_judged.take(rows.slots).any())

    def list_known(self, flows: Iterable[FlowKey]) -> list[FlowKey]:
        """Return those of `flows` that have had an attribution, be it to no owner."""
        with self.lock:
            slots = self._slots_by_flow(flows)
            return [flow for flow, slot in slots.items() if self._use.is_judged[slot]]

    def count(self, rows: PacketRows, now: float) -> dict[FlowKey, FlowDelta]:
        """Count the packets on open lanes, which came in `now`; return those of other flows."""
        with self.lock:
            slots = rows.slots
            self._use.used_at[slots] = now
            passes = self._lanes.find_passing(rows, now)
            if self.records_begins:
                self._use.record_begins(slots, rows.opened, rows.first_ns)
            if self.recorded is not None:
                self._count_begun(rows)
                passes |= self._attribute_due(slots, passes, now)
            if passes.all():
                self._counted.count(rows)
                return {}
            self._marks[slots[~passes]] = True
            is_held = self._marks[slots]
            held = rows.take(is_held)
            self._marks[held.slots] = False
            self._lanes.is_open[held.slots] = False
            self._counted.count(rows.take(~is_held))
            held = self._gather_up(held)
            if not len(held):
                return {}
            self._lanes.hold(held)
            return self._make_deltas(held)

    def find_connections(self, words: Keys, reach: Integers) -> Integers:
        """Return the slots of TCP flows with these endpoints, ABSENT where there is none.

        See `match_endpoints`; slots hold as long as the caller holds `lock`.
        """
        with self.lock:
            slots = np.flatnonzero(self._slots.is_used)
            flows = self._slots.words(slots)
            rows = match_endpoints(words, reach, flows, self._use.used_at[slots], self.packer)
            return np.where(rows == ABSENT, ABSENT, slots[np.maximum(rows, 0)])

    def find_begun(self, slots: Integers) -> Flags:
        """Return of which flows a SYN was counted since they have their slots."""
        with self.lock:
            return self._lanes.have_begun(slots)

    def add_health(self, rows: SlotHealth) -> None:
        """Add the health of flows; it is drained with what they move once they were judged."""
        with self.lock:
            self._hold_health().add(rows)

    def add_owned_health(self, rows: SlotHealth, owners: Sequence[Attribution]) -> None:
        """Add the health of flows, each row that of an owner whom the flow need not have now."""
        with self.lock:
            numbers = np.array([self.owners.number(one) for one in owners], np.int64)
            self._hold_health().add_owned(OwnedHealth(rows.slots, numbers, rows.health))

    def _hold_health(self) -> FlowHealth:
        if self._health is None:
            self._health = FlowHealth(self.capacity)
        return self._health

    def evict(self, now: float, *, idle: float, idle_unowned: float) -> Integers:
        """Free the slots of flows that were idle for longer than `idle`, and return them.

        Those without a known owner, and sums, are freed after `idle_unowned`. Flows that have
        counted something stay.
        """
        with self.lock:
            self._flush()
            limit = np.where(self._lanes.owner == UNOWNED, idle_unowned, idle)
            is_idle = self._slots.is_used & (now - self._use.used_at > limit)
            freed = self._free(np.flatnonzero(is_idle & ~self._have_traffic()))
            self._slots.drop_names()
            # Also where no slot was freed: each pause of an endpoint leaves a number without flows.
            self._lanes.keep_endpoints(self._slots.is_used)
            return freed

    def compact(self) -> tuple[Integers, Integers]:
        """Move flows from high slots to low ones, if that gives back much memory.

        Return the slots that are free now, and at the same place those that took their flows.
        """
        with self.lock:
            vacated, taken = self._slots.compact()
            if len(vacated):
                for columns in (self._use, self._lanes, self._counted, self._gathered):
                    columns.move(vacated, taken)
                if self._health is not None:
                    self._health.move(vacated, taken)
                self._fit()
            return vacated, taken

    def make_room(self, words: Keys, in_use: Integers) -> Integers:
        """Free slots if there is no room for all of `words`, and return the freed ones.

        Those are of flows that were used longest ago, at least half of all that have counted
        nothing; of flows with flow keys only, where those are too many. Slots `in_use` stay;
        ABSENT may be among them.
        """
        with self.lock:
            room, excess = self._use.room, max(0, self._slots.named - self._max_named)
            if len(words) <= room and not excess:
                return _NO_SLOTS
            found = self._slots.find(words)
            lacking = count_distinct(words[found == ABSENT]) - room
            if lacking <= 0 and not excess:
                return _NO_SLOTS
            self._flush()
            stays = ~self._slots.is_used | np.isinf(self._use.used_at)
            stays |= self._have_traffic()
            stays[found[found != ABSENT]] = True
            stays[in_use[in_use != ABSENT]] = True
            if lacking <= 0:
                stays |= self._lanes.is_certain
            oldest = self._use.find_oldest(stays)
            return self._free(oldest[: max(lacking, int(excess), len(oldest) // 2)])

    @property
    def is_crowded(self) -> bool:
        """Whether there is no room for as many further flows as the reserve has, or for any."""
        with self.lock:
            return self._use.room <= self.reserve or self._slots.named > self._max_named

    @property
    def has_many_settled(self) -> bool:
        """Whether it takes much memory until the next drain what flows moved under other owners."""
        return self._counted.has_many_settled

    # What the attribution stage does

    def receive(
        self, flows: Mapping[FlowKey, FlowDelta], now: float, calls: int | None = None
    ) -> None:
        """Take in that the attribution stage judges these deltas before others.

        With them it has received those of the first `calls` calls of `count`, by default of all. A
        source may also have summed them up itself. Flows without a slot get one, if there is room.
        """
        with self.lock:
            slot_of = self._slots.slot_of
            if missing := [flow for flow in flows if slot_of(flow) is None]:
                # An unowned flow of which no object was made may have a slot, so room is a bound.
                self._start_missing(missing[: max(0, self._use.room)], now)
            slots = [slot for flow in flows if (slot := slot_of(flow)) is not None]
            self._use.used_at[slots] = np.maximum(self._use.used_at[slots], now)
            received = self.calls if calls is None else calls
            self._lanes.received_calls = max(self._lanes.received_calls, received)

    def open_lanes(self, lanes: Sequence[NewLane]) -> Sequence[bool]:
        """Count packets of distinct flows for their owners, until each is due.

        A lane stays closed until the stage has received the last SYN of the flow. Return which
        flows have slots: the others have no lanes.
        """
        with self.lock:
            if len(lanes) <= _FEW:
                return [self._open_lane(lane) for lane in lanes]
            slots = self._slots.find_named(lane.flow for lane in lanes)
            has_slot = slots != ABSENT
            if not has_slot.all():
                lanes = [lanes[place] for place in np.flatnonzero(has_slot).tolist()]
                slots = slots[has_slot]
            owners = np.array([self.owners.number(lane.owner) for lane in lanes], np.int64)
            self._settle(slots[owners != self._lanes.owner[slots]])
            self._lanes.open(slots, lanes, owners)
            self._use.judge(slots)
            return list(has_slot.tolist())

    def _open_lane(self, lane: NewLane) -> bool:
        """Open one lane, as `open_lanes` does."""
        slot = self._slots.slot_of(lane.flow)
        if slot is None:
            return False
        owner = self.owners.number(lane.owner)
        if owner != self._lanes.owner[slot]:
            self._settle(np.array([slot]))
        self._lanes.open_one(slot, lane, owner)
        if not self._use.is_judged[slot]:
            self._use.judge(np.array([slot]))
        return True

    def _settle(self, slots: Integers) -> None:
        """Leave what distinct slots have counted to the owners that they have.

        Not the health of a flow without an owner: the one that is found had the connection.
        """
        self._counted.settle(slots, self._lanes.owner)
        if self._health is not None:
            self._health.settle(slots[self._lanes.owner[slots] != UNOWNED], self._lanes.owner)

    def reopen_lanes(self, flows: Sequence[FlowKey], due_at: Sequence[float]) -> None:
        """Count further packets of distinct flows for the owners that they have, until due."""
        with self.lock:
            if len(flows) <= _FEW:
                for flow, due in zip(flows, due_at, strict=True):
                    if (slot := self._slots.slot_of(flow)) is not None:
                        self._lanes.reopen_one(slot, due)
                return
            slots = self._slots.find_named(flows)
            has_slot = slots != ABSENT
            self._lanes.reopen(slots[has_slot], np.array(due_at, np.float64)[has_slot])

    def gather(self, flows: Sequence[FlowKey]) -> None:
        """Gather packets of pending flows, each until its lane is opened or `stop_gathering`.

        Nothing gathers behind a SYN that the stage has not received.
        """
        with self.lock:
            if len(flows) <= _FEW:
                for flow in flows:
                    slot = self._slots.slot_of(flow)
                    if slot is not None and not self._lanes.is_open[slot]:
                        self._gathered.is_open[slot] = self._lanes.has_received_syn(slot)
                return
            slots = self._slots.find_named(flows)
            slots = slots[slots != ABSENT]
            slots = slots[~self._lanes.is_open[slots]]
            self._gathered.is_open[slots] = self._lanes.have_received_syns(slots)

    def take_gathered(self, flows: Iterable[FlowKey]) -> dict[FlowKey, FlowDelta]:
        """Return what distinct flows have gathered since it was taken last, if anything."""
        with self.lock:
            return self._take_gathered(self._slots_by_flow(flows))

    def stop_gathering(self, flows: Iterable[FlowKey]) -> dict[FlowKey, FlowDelta]:
        """Gather no further packets of distinct flows; return what they have gathered."""
        with self.lock:
            slots = self._slots_by_flow(flows)
            self._gathered.is_open[list(slots.values())] = False
            return self._take_gathered(slots)

    @property
    def gathered_bytes(self) -> int:
        """Bytes of both directions that flows have gathered."""
        with self.lock:
            return self._gathered.total_bytes

    def close_lanes(self, flows: Iterable[FlowKey]) -> None:
        """Count no further packets of `flows`, until their lanes are opened again."""
        with self.lock:
            for flow in flows:
                if (slot := self._slots.slot_of(flow)) is not None:
                    self._lanes.is_open[slot] = False

    def set_watched(self, attribution: Attribution, *, is_watched: bool) -> None:
        """Record whether the owner lives and its exit will be noticed.

        Flows without connections have open lanes only where it is; at first it is not.
        """
        with self.lock:
            self.owners.is_watched[self.owners.number(attribution)] = is_watched

    def has_owner(self, attribution: Attribution) -> bool:
        """Return whether a flow may have this attribution."""
        with self.lock:
            return attribution in self.owners

    def need_watch(self, flows: Sequence[FlowKey]) -> list[bool]:
        """Return which flows have no open lanes until their owners are watched."""
        with self.lock:
            if len(flows) <= _FEW:
                found = [self._slots.slot_of(flow) for flow in flows]
                return [slot is not None and self._lanes.needs_watch(slot) for slot in found]
            slots = self._slots.find_named(flows)
            return list(((slots != ABSENT) & self._lanes.need_watch(slots)).tolist())

    def judge_pauses(
        self, flows: Sequence[FlowKey], deltas: Sequence[FlowDelta], is_recorded: Sequence[bool]
    ) -> list[bool]:
        """Return which deltas came after a pause of the endpoint of their flow, each in its turn.

        The endpoint is that with which the lane of the flow was opened; the pause is longer than it
        may be. The endpoint is kept as it is then, so that the flows that share it now have paused,
        too, whichever of them is judged first; flows whose lanes are opened from now on share
        another one. Of other deltas the packets are recorded, where `is_recorded`.
        """
        with self.lock:
            if len(flows) <= _FEW:
                rows = zip(flows, deltas, is_recorded, strict=True)
                return [self._has_paused(*row) for row in rows]
            slots = self._slots.find_named(flows)
            times = np.array([(one.first_ns, one.last_ns) for one in deltas], np.int64)
            first_ns, last_ns = times.reshape(-1, 2).T
            has_slot = slots != ABSENT
            paused = np.zeros(len(slots), np.bool_)
            paused[has_slot] = self._lanes.judge_pauses(
                slots[has_slot],
                first_ns[has_slot],
                last_ns[has_slot],
                np.array(is_recorded, np.bool_)[has_slot],
            )
            return list(paused.tolist())

    def _has_paused(self, flow: FlowKey, delta: FlowDelta, is_recorded: bool) -> bool:
        slot = self._slots.slot_of(flow)
        return slot is not None and self._lanes.judge_pause(slot, delta, is_recorded=is_recorded)

    def add(self, moved: Iterable[tuple[FlowKey, TrafficCounts, Attribution]]) -> None:
        """Add what flows moved under an attribution each."""
        with self.lock:
            number = self.owners.number
            self._added += [
                (
                    flow,
                    number(attribution),
                    traffic.transmit_bytes,
                    traffic.transmit_packets,
                    traffic.receive_bytes,
                    traffic.receive_packets,
                )
                for flow, traffic, attribution in moved
            ]
            if len(self._added) >= _MAX_ADDED:
                self._flush()

    # What the end of a window does

    def list_attributions(self) -> list[Attribution]:
        """Return the attributions of what was counted and added since the last drain."""
        with self.lock:
            self._flush()
            numbers = self._lanes.owner[self._counted.have_moved()]
            distinct, _ = self.owners.find_distinct(numbers)
            found = {*distinct.tolist(), *self._counted.settled_owners}
            if self._health is not None:
                found |= self._health.settled_owners
            return [self.owners.attribution(number) for number in sorted(found)]

    def drain(self) -> FlowSums:
        """Return what was counted and added since the last call."""
        with self.lock:
            self._flush()
            slots, numbers, counters = self._counted.drain(self._lanes.owner)
            slots, numbers, counters, health = self._drain_health(slots, numbers, counters)
            distinct, owners = self.owners.find_distinct(numbers)
            attributions = [self.owners.attribution(number) for number in distinct.tolist()]
            self._drop_owners()
            words, packer = self._slots.words(slots), self.packer.copy()
            ids = self._use.ids[slots]
            begins = self._use.take_begins(slots) if self.records_begins else None
            return FlowSums(
                slots,
                ids,
                words,
                packer,
                counters,
                owners,
                attributions,
                health=health,
                begins=begins,
            )

    def drain_begun(self) -> int:
        """Return how many flows of a recorded host began since the last call.

        A flow begins with its first packet and with each SYN, as for the attribution stage.
        """
        with self.lock:
            return 0 if self.recorded is None else self._begun.drain()

    # Slots and columns

    def _free(self, slots: Integers) -> Integers:
        """Free the slots of flows that have counted nothing; return them."""
        if len(slots):
            flows = self._slots.remove(slots)
            self._use.free(slots)
            if self._health is not None:
                self._health.free(slots)
            self._fit()
            self.on_free(flows)
        return slots

    def _find_folds(self, words: Keys, now: float) -> Integers:
        """Return the slots of the sums that flows are folded into."""
        folds = fold_words(words, self._slots.packer)
        found = self._slots.find(folds)
        missing = np.flatnonzero(found == ABSENT)
        if len(missing):
            found[missing], added = self._slots.add_sums(folds[missing])
            self._start_sums(added, now)
        # Where there are too many sums, one has the rest: slot 0, that of UNKNOWN_FLOW.
        return np.maximum(found, 0)

    def _start_sums(self, slots: Integers, now: float) -> None:
        """Set the columns of new slots for sums, which have no owner to be looked up."""
        self._start(slots, now)
        self._lanes.open_for_good(slots)
        self._use.make_sums(slots)

    def _start_recorded(self, slots: Integers, now: float) -> None:
        """Open the lanes of new flows whose attributions are recorded."""
        if self.recorded is not None and len(slots):
            owner, due_at = self._find_recorded(self.recorded, slots, now)
            is_recorded = owner != ABSENT
            slots = slots[is_recorded]
            self._lanes.open_for_good(slots, owner[is_recorded], due_at[is_recorded])
            self._use.judge(slots)
            self._begun.start(slots)

    def _attribute_due(self, slots: Integers, passes: Flags, now: float) -> Flags:
        """Give flows of which packets came in the owners that were created meanwhile.

        Return which packets are of such flows.
        """
        is_due = ~passes & self._lanes.is_certain[slots]
        if self.recorded is not None and is_due.any():
            due = np.unique(slots[is_due])
            self._counted.settle(due, self._lanes.owner)
            self._lanes.open_for_good(due, *self._find_recorded(self.recorded, due, now))
        return is_due

    def _find_recorded(
        self, recorded: RecordedAttributions, slots: Integers, now: float
    ) -> tuple[Integers, Times]:
        return find_owners(recorded, self._slots.words(slots), self.packer, self.owners, now)

    def _start(self, slots: Integers, now: float) -> Integers:
        """Set the columns of new slots, and return the slots."""
        self._fit()
        self._use.start(slots, now)
        self._lanes.start(slots)
        self._gathered.start(slots)
        return slots

    def _drain_health(
        self, slots: Integers, numbers: Integers, counters: Counters
    ) -> tuple[Integers, Integers, Counters, Health | None]:
        """Return what flows moved for owners with their health.

        Flows that moved nothing for the owner of some health are appended.
        """
        if self._health is None:
            return slots, numbers, counters, None
        found = self._health.drain(self._use.is_judged, self._lanes.owner)
        if not len(found):
            return slots, numbers, counters, None
        keys = np.concatenate(
            [slots << _OWNER_BITS | numbers, found.slots << _OWNER_BITS | found.owners]
        )
        distinct, first, places = np.unique(keys, return_index=True, return_inverse=True)
        is_new = first >= len(slots)
        row_of = np.where(is_new, len(slots) + is_new.cumsum() - 1, first)
        new = distinct[is_new]
        slots = np.append(slots, new >> _OWNER_BITS)
        numbers = np.append(numbers, new & ((1 << _OWNER_BITS) - 1))
        counters = np.concatenate([counters, np.zeros((len(new), 4), np.int64)])
        health = make_health(len(slots))
        add_health(health, row_of[places[len(keys) - len(found) :]], found.health)
        return slots, numbers, counters, health

    def _start_missing(self, flows: Sequence[FlowKey], now: float = -np.inf) -> None:
        """Give slots to flows, or sums, that have no object here; some may have a slot."""
        is_new = self._slots.find(self._slots.packer.pack(flows)) == ABSENT
        slots = self._slots.slots_of(flows)
        are_sums = np.fromiter(map(is_sum, flows), np.bool_, len(flows))
        self._start(slots[is_new & ~are_sums], now)
        self._start_sums(slots[is_new & are_sums], now)

    def _slots_by_flow(self, flows: Iterable[FlowKey]) -> dict[FlowKey, int]:
        slot_of = self._slots.slot_of
        return {flow: slot for flow in flows if (slot := slot_of(flow)) is not None}

    def _take_gathered(self, slots: Mapping[FlowKey, int]) -> dict[FlowKey, FlowDelta]:
        if not slots:
            return {}
        taken = self._gathered.take(np.array(list(slots.values()), np.int64))
        return {flow: one for flow, one in zip(slots, taken, strict=True) if one is not None}

    def _fit(self) -> None:
        """Give all columns as many rows as there are slots."""
        size = self._slots.capacity
        if size == len(self._marks):
            return
        self._use.fit(size)
        self._lanes.fit(size)
        self._counted.fit(size)
        self._gathered.fit(size)
        if self._health is not None:
            self._health.fit(size)
        self._begun.fit(size)
        self._marks = resize(self._marks, size)

    def _drop_owners(self) -> None:
        """Drop attributions that no flow has, if there are many."""
        if len(self.owners) <= _MIN_OWNERS:
            return  # which is not worth a look at all slots
        used, _ = self.owners.find_distinct(self._lanes.owner[self._slots.is_used])
        if len(self.owners) > 2 * len(used) + _MIN_OWNERS:
            self.owners.keep(used)

    # Counting

    def _count_begun(self, rows: PacketRows) -> None:
        """Count the flows that begin, of those of a recorded host."""
        slots = rows.slots
        self._begun.count(rows, self._lanes.is_certain[slots] & ~self._use.is_sum[slots])

    def _gather_up(self, held: PacketRows) -> PacketRows:
        """Add up the packets of flows that gather, and return the others.

        A SYN ends the gathering of its flow.
        """
        is_open = self._gathered.is_open
        is_open[held.slots[held.opened]] = False
        gathers = is_open[held.slots]
        if not gathers.any():
            return held
        self._gathered.add(held.take(gathers))
        return held.take(~gathers)

    def _make_deltas(self, rows: PacketRows) -> dict[FlowKey, FlowDelta]:
        order = rows.slots.argsort(kind="stable")
        rows = rows.take(order)
        starts = np.flatnonzero(np.diff(rows.slots, prepend=ABSENT))
        slots = rows.slots[starts]
        counters = np.zeros((len(starts), 4), np.int64)
        places = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
        add_up(counters, places, rows)
        opened = np.logical_or.reduceat(rows.opened, starts)
        first_ns = np.minimum.reduceat(rows.first_ns, starts)
        last_ns = np.maximum.reduceat(rows.last_ns, starts)
        columns = (counters.tolist(), opened.tolist(), first_ns.tolist(), last_ns.tolist())
        deltas = map(make_delta, *columns)
        return dict(zip(self._slots.flows_of(slots), deltas, strict=True))

    def _flush(self) -> None:
        """Add what `add` took to the counters of slots, or to what former owners have."""
        if not self._added:
            return
        added, self._added = self._added, []
        flows = [row[0] for row in added]
        slots = self._slots.find_named(flows)
        if (is_missing := slots == ABSENT).any():
            # They were evicted while they were pending, so they are few enough to have slots again.
            missing = [flows[place] for place in np.flatnonzero(is_missing).tolist()]
            self._start_missing(list(dict.fromkeys(missing)))
            slots = self._slots.find_named(flows)
        rows = np.array([row[1:] for row in added], np.int64)
        self._counted.add(slots, rows[:, 0], rows[:, 1:], self._lanes.owner)

    def _have_traffic(self) -> Flags:
        """Return which slots have counted something, or gathered what was not taken yet."""
        have_traffic = self._counted.have_traffic() | self._gathered.has_traffic()
        if self._health is not None:
            have_traffic |= self._health.find_ready(self._use.is_judged)
        return have_traffic
