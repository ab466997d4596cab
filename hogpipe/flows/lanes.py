"""PURE: the fast lanes of flows, in columns by slot: which packets need no other stage.

In: lanes that open and close, with the owner of the flow and the local endpoint of one without
connections, and packets by slot. Out: which packets pass, by what is known of the owner's life and
of the endpoint's pauses. FlowTable says what closes a lane, and has the lock.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from hogpipe.flows.flow_words import Numbering
from hogpipe.flows.key_index import move_rows, resize
from hogpipe.flows.packet_rows import Flags, Integers, PacketRows, Times
from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey

PAUSE_NS = 500_000_000
"""A flow without connections is looked up after a longer pause of its endpoint, unless its socket
has been open for long; packets of one batch are summed for less than this."""
NO_ENDPOINT = -1
UNOWNED = 0
"""The number of UNATTRIBUTED."""
_CAPACITY = 64
_NEVER, _ANY_PAUSE = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class NewLane(NamedTuple):
    """What the lane of a flow is to be opened with; see `FlowTable.open_lanes`."""

    flow: FlowKey
    owner: Attribution
    due_at: float
    """Until when packets count for the owner without being judged."""
    endpoint: Hashable | None = None
    """That of a flow without connections."""
    last_ns: int = 0
    """When the endpoint has had a packet."""
    max_pause_ns: int = PAUSE_NS
    """For how long the endpoint may pause, as far as this flow is concerned."""


class LaneOwners:
    """Attributions by number."""

    def __init__(self) -> None:
        self._numbering: Numbering[Attribution] = Numbering()
        self.is_watched: Flags = np.zeros(_CAPACITY, np.bool_)
        """Whether the owner lives and its exit will be noticed, as far as that can be."""
        self._last = UNATTRIBUTED, self._add(UNATTRIBUTED)
        """What `number` was asked about last, and its answer: mostly that is asked again."""

    def __len__(self) -> int:
        return len(self._numbering)

    def __contains__(self, attribution: Attribution) -> bool:
        return self._numbering.find(attribution) is not None

    def number(self, attribution: Attribution) -> int:
        """Return the number of an attribution."""
        last, number = self._last
        if attribution is not last:
            number = self._add(attribution)
            self._last = attribution, number
        return number

    def _add(self, attribution: Attribution) -> int:
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
        self._last = UNATTRIBUTED, UNOWNED


class Endpoints:
    """When packets of local endpoints passed last, by number; nanoseconds since the epoch.

    An endpoint may pause for as long as the socket of each of its flows allows, which may be
    several sockets.
    """

    def __init__(self) -> None:
        self._numbering: Numbering[Hashable] = Numbering()
        self.last_ns: Integers = np.zeros(_CAPACITY, np.int64)
        self._max_pause_ns: Integers = np.zeros(_CAPACITY, np.int64)
        self._marks: Flags = np.zeros(_CAPACITY, np.bool_)

    def number(
        self, endpoints: Sequence[Hashable], last_ns: Integers, max_pause_ns: Integers
    ) -> Integers:
        """Return the number of each endpoint, which has had a packet at `last_ns`.

        A flow begins there whose socket allows pauses of `max_pause_ns`. Endpoints may repeat.
        """
        find, add = self._numbering.find, self._add
        numbers = [add(one) if (number := find(one)) is None else number for one in endpoints]
        found = np.array(numbers, np.int64)
        np.maximum.at(self.last_ns, found, last_ns)
        np.minimum.at(self._max_pause_ns, found, max_pause_ns)
        return found

    def number_one(self, endpoint: Hashable, last_ns: int, max_pause_ns: int) -> int:
        """Return the number of one endpoint, as `number` does."""
        number = self._numbering.find(endpoint)
        if number is None:
            number = self._add(endpoint)
        self.last_ns[number] = max(int(self.last_ns[number]), last_ns)
        self._max_pause_ns[number] = min(int(self._max_pause_ns[number]), max_pause_ns)
        return number

    def _add(self, endpoint: Hashable) -> int:
        """Give a number to an endpoint without one."""
        number = self._numbering.number(endpoint)
        if number >= len(self.last_ns):
            self.last_ns = resize(self.last_ns, 2 * number)
            self._max_pause_ns = resize(self._max_pause_ns, 2 * number)
            self._marks = resize(self._marks, 2 * number)
        self.last_ns[number], self._max_pause_ns[number] = _NEVER, _ANY_PAUSE
        return number

    def retire(self, number: int) -> None:
        """Leave a number to what has it: the endpoint gets another one when it is asked for."""
        self._numbering.rename(number, object())

    def find_paused(self, endpoints: Integers, first_ns: Integers) -> Flags:
        """Return which packets came after a pause of their endpoint.

        Those of one call are of one moment: if one of an endpoint came before a pause, none of
        them came after it.
        """
        paused = first_ns - self.last_ns[endpoints] > self._max_pause_ns[endpoints]
        if paused.any():
            went_on = endpoints[~paused]
            self._marks[went_on] = True
            paused &= ~self._marks[endpoints]
            self._marks[went_on] = False
        return paused

    def judge(
        self, endpoints: Integers, first_ns: Integers, last_ns: Integers, is_recorded: Flags
    ) -> Flags:
        """Return which packets came after a pause, each judged after those before it.

        An endpoint is retired after a pause; other packets are recorded where `is_recorded`.
        """
        paused: Flags = first_ns - self.last_ns[endpoints] > self._max_pause_ns[endpoints]
        if paused.any():
            self._marks[endpoints[paused]] = True
            in_turn = self._marks[endpoints]
            self._marks[endpoints] = False
            for place in in_turn.nonzero()[0].tolist():
                times = int(first_ns[place]), int(last_ns[place])
                paused[place] = self.judge_one(
                    int(endpoints[place]), *times, is_recorded=bool(is_recorded[place])
                )
            is_recorded = is_recorded & ~in_turn
        self.record(endpoints[is_recorded], last_ns[is_recorded])
        return paused

    def judge_one(self, number: int, first_ns: int, last_ns: int, *, is_recorded: bool) -> bool:
        """Return whether one packet came after a pause, as `judge` does."""
        last = int(self.last_ns[number])
        if first_ns - last > int(self._max_pause_ns[number]):
            self.retire(number)
            return True
        if is_recorded and last_ns > last:
            self.last_ns[number] = last_ns
        return False

    def record(self, endpoints: Integers, last_ns: Integers) -> None:
        """Record packets."""
        np.maximum.at(self.last_ns, endpoints, last_ns)

    def keep(self, numbers: Integers) -> None:
        """Drop the endpoints without these numbers; NO_ENDPOINT may be among them."""
        self._numbering.keep({*numbers.tolist()} - {NO_ENDPOINT})

    def __len__(self) -> int:
        return len(self._numbering)


class Lanes:
    """Columns for as many slots as `fit` was called with."""

    def __init__(self) -> None:
        self.owners = LaneOwners()
        self.endpoints = Endpoints()
        self.is_open: Flags = np.zeros(0, np.bool_)
        self.is_certain: Flags = np.zeros(0, np.bool_)
        """Whether no packet closes the lane of a slot: sums, and flows of a recorded host."""
        self.owner: Integers = np.zeros(0, np.int64)
        self._endpoint: Integers = np.zeros(0, np.int64)
        self.calls = 0
        """How often packets were held."""
        self.received_calls = 0
        """Those of so many calls have been received by the attribution stage."""
        self._opened_in: Integers = np.zeros(0, np.int64)
        """The last call that returned a SYN of a flow."""
        self._due_at: Times = np.zeros(0, np.float64)

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self.is_open, self.is_certain = resize(self.is_open, size), resize(self.is_certain, size)
        self.owner, self._endpoint = resize(self.owner, size), resize(self._endpoint, size)
        self._opened_in, self._due_at = resize(self._opened_in, size), resize(self._due_at, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        move_rows(vacated, taken, self.is_open, self.is_certain, self.owner, self._endpoint)
        move_rows(vacated, taken, self._opened_in, self._due_at)

    def start(self, slots: Integers) -> None:
        """Set the columns of new slots, whose lanes are closed."""
        self.is_open[slots] = self.is_certain[slots] = False
        self._opened_in[slots] = 0
        self.owner[slots] = UNOWNED
        self._endpoint[slots] = NO_ENDPOINT

    def open_for_good(
        self, slots: Integers, owner: Integers | int = UNOWNED, due_at: Times | float = np.inf
    ) -> None:
        """Open the lanes of slots whatever passes, for these owners until another one is due."""
        self.is_open[slots] = self.is_certain[slots] = True
        self.owner[slots], self._due_at[slots] = owner, due_at

    def open(self, slots: Integers, lanes: Sequence[NewLane], owners: Integers) -> None:
        """Open the lanes of distinct slots, but where a SYN is on its way."""
        self.owner[slots] = owners
        self._endpoint[slots] = NO_ENDPOINT
        places = [place for place, lane in enumerate(lanes) if lane.endpoint is not None]
        if places:
            rows = [(lanes[place].last_ns, lanes[place].max_pause_ns) for place in places]
            last_ns, max_pause_ns = np.array(rows, np.int64).T
            self._endpoint[slots[places]] = self.endpoints.number(
                [lanes[place].endpoint for place in places], last_ns, max_pause_ns
            )
        self.reopen(slots, np.array([lane.due_at for lane in lanes], np.float64))

    def reopen(self, slots: Integers, due_at: Times) -> None:
        """Open lanes again for the same owners, but where a SYN is on its way."""
        self._due_at[slots] = due_at
        self.is_open[slots] = self.have_received_syns(slots)

    def open_one(self, slot: int, lane: NewLane, owner: int) -> None:
        """Open one lane, as `open` does."""
        self.owner[slot] = owner
        self._endpoint[slot] = (
            NO_ENDPOINT
            if lane.endpoint is None
            else self.endpoints.number_one(lane.endpoint, lane.last_ns, lane.max_pause_ns)
        )
        self.reopen_one(slot, lane.due_at)

    def reopen_one(self, slot: int, due_at: float) -> None:
        """Open one lane again, as `reopen` does."""
        self._due_at[slot] = due_at
        self.is_open[slot] = self.has_received_syn(slot)

    def has_received_syn(self, slot: int) -> bool:
        """Return whether the attribution stage has received the last SYN of a flow, if any."""
        return bool(self._opened_in[slot] <= self.received_calls)

    def have_received_syns(self, slots: Integers) -> Flags:
        """Return of which flows the attribution stage has received the last SYN, if any."""
        return self._opened_in[slots] <= self.received_calls

    def have_begun(self, slots: Integers) -> Flags:
        """Return of which flows a SYN was held."""
        return self._opened_in[slots] > 0

    def hold(self, rows: PacketRows) -> None:
        """Give a number to a call of which these packets are returned."""
        self.calls += 1
        self._opened_in[rows.slots[rows.opened]] = self.calls

    def judge_pauses(
        self, slots: Integers, first_ns: Integers, last_ns: Integers, is_recorded: Flags
    ) -> Flags:
        """Return which packets of slots came after a pause of their endpoints; see Endpoints."""
        endpoints = self._endpoint[slots]
        at = np.flatnonzero(endpoints != NO_ENDPOINT)
        paused = np.zeros(len(slots), np.bool_)
        paused[at] = self.endpoints.judge(endpoints[at], first_ns[at], last_ns[at], is_recorded[at])
        return paused

    def judge_pause(self, slot: int, delta: FlowDelta, *, is_recorded: bool) -> bool:
        """Return whether a delta came after a pause, as `judge_pauses` does."""
        number = int(self._endpoint[slot])
        return number != NO_ENDPOINT and self.endpoints.judge_one(
            number, delta.first_ns, delta.last_ns, is_recorded=is_recorded
        )

    def needs_watch(self, slot: int) -> bool:
        """Return whether a slot has no open lane until its owner is watched."""
        is_watched = self.owners.is_watched[self.owner[slot]]
        return bool(self._endpoint[slot] != NO_ENDPOINT and not is_watched)

    def need_watch(self, slots: Integers) -> Flags:
        """Return which slots have no open lane until their owners are watched."""
        needs: Flags = self._endpoint[slots] != NO_ENDPOINT
        needs &= ~self.owners.is_watched[self.owner[slots]]
        return needs

    def keep_endpoints(self, is_used: Flags) -> None:
        """Drop the endpoints that no slot in use has."""
        self.endpoints.keep(np.unique(self._endpoint[is_used]))

    def find_passing(self, rows: PacketRows, now: float) -> Flags:
        """Return which packets pass on the fast lane, as far as each can tell."""
        slots = rows.slots
        passes = self.is_open.take(slots)
        if rows.opened.any():
            passes &= ~rows.opened | self.is_certain[slots]
        passes &= self._due_at.take(slots) > now
        has_endpoint = self._endpoint.take(slots) != NO_ENDPOINT
        has_endpoint &= passes
        count = np.count_nonzero(has_endpoint)
        if count == len(rows):
            return self._go_on(slots, rows.first_ns, rows.last_ns)
        if count:
            at = has_endpoint.nonzero()[0]
            passes[at] = self._go_on(slots[at], rows.first_ns[at], rows.last_ns[at])
        return passes

    def _go_on(self, slots: Integers, first_ns: Integers, last_ns: Integers) -> Flags:
        """Return which packets go on without a pause of their endpoint, and record those."""
        endpoints = self._endpoint.take(slots)
        goes_on = self.owners.is_watched.take(self.owner.take(slots))
        goes_on &= ~self.endpoints.find_paused(endpoints, first_ns)
        if goes_on.all():
            self.endpoints.record(endpoints, last_ns)
        else:
            self.endpoints.record(endpoints[goes_on], last_ns[goes_on])
        return goes_on
