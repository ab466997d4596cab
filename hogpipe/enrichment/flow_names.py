"""PURE: the names of the peers of flows, each decided when the flow begins.

In: flows in columns, with their owners and with what is known of when they began. Out: the number
of each one's name. DNS flows among them show which process asked (`AddressNames.set_owner`).

Algorithm
    A flow is searched for by its five-tuple, in an index with columns for its name and for what
    identifies it: when it began, or the cookie of its socket. If that differs from before, another
    flow has the five-tuple now, and its name is searched for (address_names.py). So Python runs for
    flows that begin, and for those that have no final name yet; the others are found by column.

    A connection of which no SYN was seen began before, and has no name but the one that the
    five-tuple has here.

    With `AddressLookup`, a flow that has no name then takes the one that its address has in reverse
    DNS, as soon as that is known. Flows to DNS servers do not: on the host of a recursive resolver,
    each query makes flows to further servers, whose names would be asked for, too.

Bounds: `max_flows`; where there are more, the half of them that was used longest ago is evicted. A
connection that is evicted while it is idle has no name from DNS answers from then on. At most
`_MAX_WAITING` flows wait for a name in reverse DNS, further ones have none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hogpipe.enrichment.address_names import AddressNames, Between, FlowOwner, Naming, ProcessId
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, Numbering
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys, resize
from hogpipe.flows.packet_rows import Flags, FlowNaming, FlowSums, Integers
from hogpipe.model import Attribution
from hogpipe.model.peer_names import Asker, Endpoint, PeerName
from hogpipe.protocols import TCP, UDP

DNS_PORT = 53
_DNS_PORTS = frozenset({DNS_PORT, 853})
"""Also that of DNS over TLS."""
_MAX_WAITING = 4096  # searched for in some 20 ms
NAMELESS = -1
_UNKNOWN = 0
"""The identity of flows of which none is known."""
_MIN_NUMBERS = 1024


class AddressLookup(Protocol):
    """Names of addresses, by whatever they have of their own: reverse DNS."""

    def find(self, address: bytes, now_ns: int) -> Naming:
        """Return the name of an address; not final while it may become known."""


class FlowsToName(NamedTuple):
    """Flows, a row for each; times are nanoseconds since the epoch."""

    words: Keys
    """`flow_words.FLOW_WORDS`, of which interface and namespace do not matter."""
    identities: Integers
    """What differs between flows on one five-tuple; 0 where nothing is known."""
    earliest_ns: Integers
    latest_ns: Integers
    """Between which moments each one began; earlier than any name if that is not known."""
    owners: Integers
    """The place of each one's attribution in `attributions`."""
    attributions: Sequence[Attribution]


class FlowNames:
    """The names of flows that passed, at most `max_flows`. For one thread at a time."""

    def __init__(
        self, names: AddressNames, max_flows: int, reverse: AddressLookup | None = None
    ) -> None:
        self._names = names
        self._reverse = reverse
        self._index = KeyIndex(WORDS, max_flows)
        self._max_flows = max_flows
        self._numbers: Numbering[PeerName] = Numbering()
        self._identity: Integers = np.zeros(0, np.int64)
        self._number: Integers = np.zeros(0, np.int64)
        self._is_final: Flags = np.zeros(0, np.bool_)
        self._used_at: Integers = np.zeros(0, np.int64)
        self._began: Integers = np.zeros((0, 2), np.int64)
        """Between which moments each flow began."""

    def name(self, flows: FlowsToName, now_ns: int) -> FlowNaming:
        """Return the names of flows; first, take in which processes own the DNS flows among them.

        Where a flow is another one than before on the five-tuple, and the two have different names,
        what they moved may be summed up: then it has no name this time.
        """
        keys = _make_keys(flows.words[: self._max_flows])
        numbers = np.full(len(flows.words), NAMELESS, np.int64)
        numbers[: len(keys)] = self._find_numbers(flows, keys, now_ns)
        found, places = np.unique(numbers, return_inverse=True)
        named = found[found != NAMELESS].tolist()
        names = [None, *map(self._numbers.name, named)]
        return FlowNaming(places.reshape(-1) + len(names) - len(found), names)

    def _find_numbers(self, flows: FlowsToName, keys: Keys, now_ns: int) -> Integers:
        """Return the number of the name of each flow that has a key."""
        slots, is_known = self._find_slots(keys)
        self._used_at[slots] = now_ns
        identities = flows.identities[: len(keys)]
        is_other = (identities != _UNKNOWN) & (self._identity[slots] != identities)
        begins = ~is_known | is_other
        due = np.flatnonzero(begins | ~self._is_final[slots])
        before = self._number[slots]
        began = self._began[slots]
        began[begins, 0] = flows.earliest_ns[: len(keys)][begins]
        began[begins, 1] = flows.latest_ns[: len(keys)][begins]
        self._began[slots], self._identity[slots[is_other]] = began, identities[is_other]
        self._set_owners(flows, began)
        numbers = before.copy()
        numbers[due] = self._search(flows, slots, due, began, now_ns)
        numbers[is_known & is_other & (before != numbers)] = NAMELESS
        return numbers

    def _set_owners(self, flows: FlowsToName, began: Integers) -> None:
        parts = flows.words[: len(began)].view(FLOW_WORDS)[:, 0]
        asks = (parts["remote_port"] == DNS_PORT) & np.isin(parts["protocol"], (TCP, UDP))
        owners: dict[Asker, list[FlowOwner]] = {}
        for row in np.flatnonzero(asks).tolist():
            asker = _make_asker(parts[row])
            if self._names.is_awaited(asker):
                process = _identify(flows.attributions[flows.owners[row]])
                owner = FlowOwner(int(began[row, 0]), process)
                owners.setdefault(asker, []).append(owner)
        for asker, found in owners.items():
            self._names.set_owner(asker, found)

    def _find_slots(self, keys: Keys) -> tuple[Integers, Flags]:
        """Return the slot of each flow, and which had one."""
        found = self._index.find(keys).astype(np.int64)
        missing = np.flatnonzero(found == ABSENT)
        if not len(missing):
            return found, np.ones(len(keys), np.bool_)
        if len(missing) > self._index.room:
            self._make_room(found[found != ABSENT], len(missing) - self._index.room)
        is_known = found != ABSENT
        added, rows = self._index.add_new(keys[missing])
        found[missing] = added
        self._fit()
        new = added[rows]
        self._number[new], self._identity[new], self._is_final[new] = NAMELESS, _UNKNOWN, False
        return found, is_known

    def _search(
        self, flows: FlowsToName, slots: Integers, due: Integers, began: Integers, now_ns: int
    ) -> list[int]:
        """Return the numbers of the names of the flows in the rows that are `due`."""
        remote = flows.words.view(FLOW_WORDS)[:, 0]
        processes: dict[int, ProcessId | None] = {}
        numbers, waiting = [], 0
        for row in due.tolist():
            size = int(remote["remote_size"][row])
            address = remote["remote_address"][row].tobytes()[:size]
            name, is_final = None, True
            if size and address in self._names:
                owner = int(flows.owners[row])
                if owner not in processes:
                    processes[owner] = _identify(flows.attributions[owner])
                between = Between(*began[row].tolist())
                name, is_final = self._names.find(address, processes[owner], between, now_ns)
            if (
                self._reverse is not None
                and (size and name is None and is_final)
                and int(remote["remote_port"][row]) not in _DNS_PORTS
            ):
                name, is_final = self._reverse.find(address, now_ns)
                waiting += not is_final
                is_final |= waiting > _MAX_WAITING
            number = NAMELESS if name is None else self._numbers.number(name)
            self._number[slots[row]], self._is_final[slots[row]] = number, is_final
            numbers.append(number)
        return numbers

    def _make_room(self, in_use: Integers, least: int) -> None:
        """Evict the half of all flows that was used longest ago, or more, but for those in use."""
        stays = ~self._index.is_used
        stays[in_use] = True
        unused = np.flatnonzero(~stays)
        oldest = unused[self._used_at[unused].argsort(kind="stable")]
        self._index.remove(oldest[: max(least, len(oldest) // 2)].astype(np.int32))
        self._fit()

    def _fit(self) -> None:
        size = self._index.capacity
        if size == len(self._number):
            return
        self._identity, self._number = resize(self._identity, size), resize(self._number, size)
        self._is_final, self._used_at = resize(self._is_final, size), resize(self._used_at, size)
        self._began = resize(self._began, size)

    def expire(self, now_ns: int) -> None:
        """Drop names that expired, and the numbers of names that no flow has if there are many."""
        self._names.expire(now_ns)
        if len(self._numbers) > _MIN_NUMBERS:
            used = np.unique(self._number[self._index.is_used])
            self._numbers.keep(number for number in used.tolist() if number != NAMELESS)


def make_sums_to_name(sums: FlowSums) -> FlowsToName:
    """Return the flows of sums of the flow table, with when they began as far as it has that."""
    none = np.zeros(len(sums), np.int64)
    if sums.begins is None:
        return FlowsToName(sums.words, none, none, none, sums.owners, sums.attributions)
    began, earliest = sums.begins[:, 0], sums.begins[:, 1]
    is_tcp = sums.words.view(FLOW_WORDS)[:, 0]["protocol"] == TCP
    # Without a SYN a connection began before its first packet here, which is negative.
    is_known = (began > 0) | ~is_tcp
    return FlowsToName(
        sums.words,
        np.where(is_known, np.abs(began), _UNKNOWN),
        np.where(is_known, np.abs(earliest), _UNKNOWN),
        np.where(is_known, np.abs(began), _UNKNOWN),
        sums.owners,
        sums.attributions,
    )


def _make_keys(words: Keys) -> Keys:
    keys = words.copy()
    parts = keys.view(FLOW_WORDS)[:, 0]
    parts["interface"] = parts["namespace"] = 0
    return keys


def _identify(attribution: Attribution) -> ProcessId | None:
    process = attribution.process
    return None if process is None else (process.pid, process.start)


def _make_asker(parts: Any) -> Asker:  # noqa: ANN401 - a row of FLOW_WORDS has no type
    local = parts["local_address"].tobytes()[: int(parts["address_size"])]
    remote = parts["remote_address"].tobytes()[: int(parts["remote_size"])]
    return Asker(
        int(parts["protocol"]),
        Endpoint(local, int(parts["local_port"])),
        Endpoint(remote, int(parts["remote_port"])),
    )
