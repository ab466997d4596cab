"""PURE: when to look for the sockets that talk to an endpoint, for the rule of `inference`.

Connections that are over before they can be looked up are only caught by chance, in the moment
when somebody reads the table. So an endpoint of which little is known is looked at often for a
while, and then, or once it is known whose it is, now and then. Nothing is looked at unless
connections to it went unseen since the last time.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import islice, takewhile

import msgspec

from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint

_PAUSE = 0.01
_LONG_PAUSE = 1.0
_OFTEN = 128  # times
_SHARE = 0.25  # of the time may go into it
_MOST_AT_ONCE = 64  # endpoints: the kernel filters by few ports
_MEMORY = 30.0
_REPEATED = 2  # flows: a single one has no siblings


class _Sought(msgspec.Struct):
    noted: float
    unseen: int = 0
    """Flows that went unseen since it was last looked at."""
    times: int = 0
    next: float = 0.0


class Sampling:
    """Plans samples of endpoints. Times are seconds of the caller's clock."""

    def __init__(self, *, max_endpoints: int = 4096) -> None:
        self._max_endpoints = max_endpoints
        self._sought: OrderedDict[Endpoint, _Sought] = OrderedDict()
        self._next = 0.0

    def note(self, endpoint: Endpoint, now: float) -> None:
        """Note that a flow to `endpoint` had no socket any more when it was looked for."""
        sought = self._sought.setdefault(endpoint, _Sought(now))
        sought.noted = now
        sought.unseen += 1
        self._sought.move_to_end(endpoint)
        if len(self._sought) > self._max_endpoints:
            self._sought.popitem(last=False)

    def may_be_due(self, now: float) -> list[Endpoint]:
        """Return the endpoints to look at now if flows to them go unseen again."""
        while self._sought:
            endpoint, sought = next(iter(self._sought.items()))
            if now - sought.noted <= _MEMORY:
                break
            del self._sought[endpoint]
        if now < self._next:
            return []
        lately = takewhile(
            lambda one: now - one[1].noted <= _LONG_PAUSE, reversed(self._sought.items())
        )
        return [endpoint for endpoint, sought in lately if now >= sought.next]

    def take_due(self, now: float, is_settled: Callable[[Endpoint], bool]) -> Collection[Endpoint]:
        """Return the endpoints to look at now, which then are not due for a while.

        `is_settled` tells of an endpoint whether it is known whose it is, or that it is nobody's.
        """
        repeated = (one for one in self.may_be_due(now) if self._sought[one].unseen >= _REPEATED)
        due = list(islice(repeated, _MOST_AT_ONCE))
        for endpoint in due:
            sought = self._sought[endpoint]
            # All that are due seldom are due at the same time: one sample does for many.
            rest = _LONG_PAUSE - now % _LONG_PAUSE
            seldom = sought.times >= _OFTEN or is_settled(endpoint)
            sought.next = now + (rest if seldom else _PAUSE)
            sought.times += 1
            sought.unseen = 0
        return due

    def spend(self, seconds: float, now: float) -> None:
        """Note how much CPU time a sample took."""
        self._next = now + max(_PAUSE, seconds / _SHARE)
