"""PURE: the names by which addresses were asked for, and the name of a flow as it begins.

In: answers of DNS that passed, and the processes that own the flows in which they were asked for.
Out: the name of the peer of a flow that begins at a moment, or none.

The name of a flow
    Those names count that are answered with the address of its peer before the flow began, and are
    not expired then.
    1. If the process of the flow asked for one of them, that is its name (`process`), unless it
       asked for another one, too.
    2. Else it is the one name that was asked for on this host (`host`). Of two, none is used.

    Of two names either may be the one that was connected to, whichever was asked for last: programs
    keep addresses, and open further connections. So two are ambiguous.

    An asker that is not known may be the process of the flow. If its name differs, the flow is
    undecided for `OWNER_SECONDS` after the answer, and has no name then.

    Where it is known only between which moments a flow began, the names of all of them count.

Expiry
    A name lasts as long as its answer may be cached, but no less than `_MIN_SECONDS`: programs keep
    addresses that long (browsers a minute), whatever the answer says. `_MAX_SECONDS` is the most.

Bounds
    `MAX_ADDRESSES` addresses, the one that was asked for longest ago is evicted first. Each has
    `_MAX_ASKED` askers and names: of more, the askers of the older half are not kept apart, and
    count as unknown. An address that has more names than that has none until they have expired.

Known limits: a process that got the address otherwise (a file, DNS over TLS or HTTPS, before the
run) gets the name under which others asked for it, as `host`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from hogpipe.model.peer_names import Answer, Asker, NameQuality, PeerName
from hogpipe.protocols import NANOSECONDS

MAX_ADDRESSES = 65_536
OWNER_SECONDS = 5
_MAX_ASKED = 64
_MAX_AWAITED = 4096
_MIN_SECONDS, _MAX_SECONDS = 60, 86_400

ProcessId = tuple[int, int | None]
"""A process: its pid, and when it started."""


class Between(NamedTuple):
    """The moments between which a flow began, nanoseconds since the epoch; they may be the same."""

    earliest_ns: int
    latest_ns: int


class FlowOwner(NamedTuple):
    """The owner of a flow, and when the flow began, nanoseconds since the epoch."""

    began_ns: int
    process: ProcessId | None


class Naming(NamedTuple):
    """The name of a flow, None if it has none, and whether a later search would find the same."""

    name: PeerName | None
    is_final: bool


class _Asked(msgspec.Struct):
    """A name that one process asked for, and when its answers are valid."""

    domain: str
    process: ProcessId | None
    """None where it is not known, or not yet."""
    first_ns: int
    expires_ns: int
    awaited_until_ns: int
    """Until when the process may become known; 0 if it is."""


class _Address(msgspec.Struct):
    asked: list[_Asked]
    crowded_until_ns: int = 0
    """Until when it has too many names."""


_NONE = Naming(None, is_final=True)


class AddressNames:
    """The names of addresses. For one thread at a time."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[bytes, _Address] = OrderedDict()
        """The one that was asked for last is the last one."""
        self._awaited: OrderedDict[Asker, list[_Asked]] = OrderedDict()
        """What was asked for in flows whose owners are not known."""
        self.evicted = 0
        """Addresses and names that were evicted early."""

    def __len__(self) -> int:
        """Return the number of addresses that have a name."""
        return len(self._addresses)

    def __contains__(self, address: bytes) -> bool:
        return address in self._addresses

    def ingest(self, answer: Answer) -> None:
        """Add what an answer says."""
        now = answer.time_ns
        expires = now + min(max(answer.ttl, _MIN_SECONDS), _MAX_SECONDS) * NANOSECONDS
        awaited_until = now + OWNER_SECONDS * NANOSECONDS
        awaited = self._awaited.setdefault(answer.asker, [])
        for address in dict.fromkeys(answer.addresses):
            names = self._addresses.pop(address, None) or _Address([])
            self._addresses[address] = names  # the last one now
            asked = _Asked(answer.domain, None, now, expires, awaited_until)
            awaited.append(asked)
            names.asked = _join([*names.asked, asked], now)
            if len(names.asked) > _MAX_ASKED:
                self._shrink(names, now)
            if names.crowded_until_ns > now:
                names.crowded_until_ns = max(names.crowded_until_ns, expires)
                names.asked = []
        self._make_room()

    def set_owner(self, asker: Asker, owners: Sequence[FlowOwner]) -> None:
        """Record which process owns the flow in which something was asked for.

        Several flows may have followed one another on the five-tuple. An answer belongs to the one
        that began last before it; if two began at once, its asker stays unknown.
        """
        left = []
        for asked in self._awaited.pop(asker, ()):
            before = [one for one in owners if one.began_ns <= asked.first_ns]
            last = max((one.began_ns for one in before), default=0)
            processes = {one.process for one in before if one.began_ns == last}
            process = processes.pop() if len(processes) == 1 else None
            if process is not None:
                asked.process, asked.awaited_until_ns = process, 0
            elif not processes:
                left.append(asked)
        if left:
            self._awaited[asker] = left

    def is_awaited(self, asker: Asker) -> bool:
        """Return whether the owner of a flow is of use."""
        return asker in self._awaited

    def find(
        self, address: bytes, process: ProcessId | None, began: Between, now_ns: int
    ) -> Naming:
        """Return the name of a flow of `process` to `address`."""
        names = self._addresses.get(address)
        if names is None or names.crowded_until_ns > began.earliest_ns:
            return _NONE
        valid = [
            one
            for one in names.asked
            if one.first_ns <= began.latest_ns and one.expires_ns > began.earliest_ns
        ]
        awaited = any(one.awaited_until_ns >= now_ns for one in valid)
        mine = [one for one in valid if process is not None and one.process == process]
        if mine:
            valid = [one for one in valid if one.process in {process, None}]
        if not valid:
            return _NONE
        is_one = len({one.domain for one in valid}) == 1
        if mine:
            name = PeerName(mine[0].domain, NameQuality.PROCESS) if is_one else None
            return Naming(name, is_final=is_one or not awaited)
        name = PeerName(valid[0].domain, NameQuality.HOST) if is_one else None
        return Naming(name, is_final=process is not None and not awaited)

    def expire(self, now_ns: int) -> None:
        """Drop what expired."""
        for address, names in list(self._addresses.items()):
            names.asked = [one for one in names.asked if one.expires_ns > now_ns]
            if not names.asked and names.crowded_until_ns <= now_ns:
                del self._addresses[address]
        for asker, asked in list(self._awaited.items()):
            if all(one.awaited_until_ns < now_ns for one in asked):
                del self._awaited[asker]

    def _shrink(self, names: _Address, now_ns: int) -> None:
        """Count the askers of the older half as unknown, so that equal names become one."""
        half = len(names.asked) // 2
        unknown = [
            msgspec.structs.replace(one, process=None, awaited_until_ns=0)
            for one in names.asked[:half]
        ]
        names.asked = _join([*unknown, *names.asked[half:]], now_ns)
        if len(names.asked) > _MAX_ASKED:
            self.evicted += len(names.asked)
            names.crowded_until_ns = max(one.expires_ns for one in names.asked)

    def _make_room(self) -> None:
        """Evict the addresses and flows of longest ago, where there are too many."""
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
            self.evicted += 1
        while len(self._awaited) > _MAX_AWAITED:
            self._awaited.popitem(last=False)


def _join(names: Iterable[_Asked], now_ns: int) -> list[_Asked]:
    """Return names with those joined that one process asked for again before they expired.

    What is found does not depend on it. Askers that are awaited stay apart.
    """
    joined: dict[tuple[str, ProcessId | None], _Asked] = {}
    rest = []
    for one in names:
        if one.awaited_until_ns >= now_ns:
            rest.append(one)
            continue
        key = one.domain, one.process
        before = joined.get(key)
        if before is not None and before.expires_ns < one.first_ns:
            rest.append(before)
            before = None
        if before is not None:
            one = msgspec.structs.replace(  # noqa: PLW2901 - an awaited flow may refer to the other
                before, expires_ns=max(before.expires_ns, one.expires_ns)
            )
        joined[key] = one
    return sorted([*joined.values(), *rest], key=lambda one: one.first_ns)
